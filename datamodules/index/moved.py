"""Media of a finished run that are not where they were: found at a new place, or missed in those words.

Clips are known by their ids, so nothing else changes when a folder moves.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.manifest import usable
from datamodules.stores.shards import is_prepared, open_shards
from selavi.config import Config
from selavi.errors import UsageError
from selavi.filesystem import expand, look, real_path
from selavi.runs.manifest import SCHEMA, media_root

MOST_LOOKS = 1000
"""Files of a run that are looked for."""

log = logging.getLogger("selavi")


def at_root(config: Config, manifest: pa.Table, root: str) -> tuple[Config, pa.Table]:
    """A run's settings and manifest for media that are in another folder now, or at a URL; ids stay.

    Args:
        config: of the run.
        manifest: of the run.
        root: where the media are: the folder, or clips that `selavi prepare` made of it; "": where they were.

    Raises:
        UsageError: none of the run's clips is there.
    """
    if not root:
        return config, manifest
    root = expand(root)
    config = replace(config, data=replace(config.data, root=root))
    if is_prepared(root):
        prepared, reader = open_shards(root, Path(config.data.cache_dir), config.data.shard_cache_gb)
        if reader is not None:
            _require_ids(manifest, reader.index["id"], root)
            return config, manifest
        manifest = _with_paths_of(manifest, prepared)
    place = look(root)
    if place.kind != "folder":
        raise UsageError(f"data.root={root}: no such folder ({place.reason or place.kind}); say where they are now")
    moved = str(real_path(root)) != str(media_root(manifest)) or _has_other_times(manifest, root)
    manifest = manifest.replace_schema_metadata({**manifest.schema.metadata, b"root": str(real_path(root)).encode()})
    if moved:  # a copy has other times
        times = pa.array(np.zeros(len(manifest), np.int64))
        manifest = manifest.set_column(manifest.schema.get_field_index("mtime_ns"), SCHEMA.field("mtime_ns"), times)
    require_clips(config, manifest)
    return config, manifest


def moved_to(manifest: pa.Table, overrides: Sequence[str]) -> str | None:
    """Where a run's own clips are by some settings: "" where there are none; None where these name other clips.

    data.root alone, with a folder that holds most of the run's clips, says that they have moved.
    """
    if not overrides:
        return ""
    root = expand(overrides[-1].removeprefix("data.root="))
    if not all(override.startswith("data.root=") for override in overrides) or is_prepared(root):
        return None
    looked, missing, _ = _look_for(manifest, Path(root))
    if not looked or missing > looked / 2:
        return None
    log.warning(f"{root} holds the run's own clips: they are measured with its labels and splits")
    return root


def require_clips(config: Config, manifest: pa.Table) -> None:
    """Raise UsageError where the media of a run are not there any more; a warning counts those that are missing."""
    root, named = media_root(manifest), config.data.root
    if os.path.isabs(named) and not os.path.exists(named) and root != real_path(named) and os.path.isdir(root):
        raise UsageError(
            f"{named}, which the run has read, is not there any more: data.root moved? Say data.root=NEW, or "
            f"data.root={root} for the original media"
        )
    place = look(root)
    if place.kind != "folder":
        raise UsageError(
            f"the media folder {root} is not there any more ({place.reason or place.kind}): data.root moved? Say "
            "data.root=NEW"
        )
    looked, missing, example = _look_for(manifest, root)
    if looked and missing == looked:
        raise UsageError(
            f"none of the run's clips is in {root} any more (looked for {looked:,}, such as {example}): data.root "
            "moved? Say data.root=NEW"
        )
    if missing:
        log.warning(
            f"{missing:,} of {looked:,} files that were looked for are not in {root} any more, such as {example}: "
            "their clips are left out; where they have moved, say data.root=NEW"
        )


def _look_for(manifest: pa.Table, root: Path) -> tuple[int, int, str]:
    """How many of a run's files were looked for, how many are missing, and one of those."""
    paths = usable(manifest)["path"]
    chosen = paths.take(pa.array(_spread(len(paths)))).to_pylist()
    missing = [path for path in chosen if not os.path.isfile(root / path)]
    return len(chosen), len(missing), missing[0] if missing else ""


def _spread(num_rows: int) -> np.ndarray:
    """At most MOST_LOOKS rows, evenly spaced."""
    return np.unique(np.linspace(0, max(num_rows - 1, 0), min(num_rows, MOST_LOOKS)).astype(np.int64))


def _has_other_times(manifest: pa.Table, root: str) -> bool:
    """Whether files that lie where they were have been copied or touched.

    Who names the folder says that they are the clips all the same.
    """
    rows = usable(manifest)
    chosen = rows.take(pa.array(_spread(len(rows)))).select(["path", "mtime_ns"]).to_pylist()
    seen = [(look(Path(root) / row["path"]), max(row["mtime_ns"], 0)) for row in chosen]
    return any(now.kind == "file" and now.mtime_ns != time for now, time in seen)


def _require_ids(manifest: pa.Table, ids: pa.ChunkedArray, root: str) -> None:
    own = usable(manifest)["id"]
    missing = own.filter(pc.invert(pc.is_in(own, value_set=ids.combine_chunks())))
    if len(own) and len(missing) == len(own):
        raise UsageError(f"none of the run's {len(own):,} clips is among those prepared in {root}, such as {own[0]}")
    if len(missing):
        log.warning(f"{len(missing):,} of the run's {len(own):,} clips are not in {root}, such as {missing[0]}")


def _with_paths_of(manifest: pa.Table, prepared: pa.Table) -> pa.Table:
    """The manifest with the paths and sizes of clips that were prepared as files."""
    place = pc.index_in(manifest["id"], value_set=prepared["id"].combine_chunks())
    for name in ("path", "bytes"):
        values = pc.coalesce(prepared[name].take(place), manifest[name])
        manifest = manifest.set_column(manifest.schema.get_field_index(name), SCHEMA.field(name), values)
    return manifest
