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

from datamodules.index.manifest import mark_unusable, select_split, usable
from datamodules.stores.shards import is_prepared, open_shards
from selavi.config import Config
from selavi.errors import UsageError
from selavi.filesystem import PASSING, expand, look, real_path, why_gone
from selavi.modalities import reads_media
from selavi.runs.manifest import ANY_TIME, SCHEMA, TIME_ZERO, media_root, read_manifest

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
    manifest = at_place(manifest, root) if moved else manifest
    require_clips(config, manifest)
    return config, manifest


def at_place(manifest: pa.Table, root: str) -> pa.Table:
    """A manifest whose files are in a folder that somebody has named, with whatever times: a copy has others."""
    times = pa.array(np.full(len(manifest), ANY_TIME, np.int64))
    manifest = manifest.replace_schema_metadata({**manifest.schema.metadata, b"root": str(real_path(root)).encode()})
    return manifest.set_column(manifest.schema.get_field_index("mtime_ns"), SCHEMA.field("mtime_ns"), times)


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
    looked, missing, example = require_some(manifest, root)
    if missing:
        log.warning(
            f"{missing:,} of {looked:,} files that were looked for are not in {root} any more, such as {example}: "
            "their clips are left out; where they have moved, say data.root=NEW"
        )


def require_media_to_go_on(config: Config, manifest_path: Path) -> None:
    """Raise UsageError where a training cannot go on, because the media that it began with are not in data.root.

    Args:
        config: with which it shall go on.
        manifest_path: of the run; there is none where it has not begun.
    """
    root = config.data.root
    if config.data.demo or not reads_media(config) or "://" in root or is_prepared(root):
        return
    if not os.path.isfile(manifest_path):
        return
    require_some(read_manifest(manifest_path), Path(root))


def with_own_times(manifest: pa.Table) -> pa.Table:
    """The manifest with the times that its files have now.

    Who names a folder says that it holds the clips; with their times written down, nobody needs to say it again.
    """
    root = media_root(manifest)
    places = {path: look(root / path) for path in manifest["path"].unique().to_pylist()}
    rows = manifest.select(["path", "mtime_ns"]).to_pylist()
    times = [
        (places[row["path"]].mtime_ns or TIME_ZERO) if places[row["path"]].kind == "file" else row["mtime_ns"]
        for row in rows
    ]
    column = manifest.schema.get_field_index("mtime_ns")
    return manifest.set_column(column, SCHEMA.field("mtime_ns"), pa.array(times, pa.int64()))


def without_late_comers(manifest: pa.Table, manifest_path: Path, split: str) -> pa.Table:
    """The manifest of a training that goes on, without clips that could not be read for a while when it began.

    The labels of a run are those of the clips that it began with.

    Args:
        manifest: of now.
        manifest_path: that of the run; there is none where it has not begun.
        split: that is trained on.
    """
    if not os.path.isfile(manifest_path):
        return manifest
    earlier = read_manifest(manifest_path)
    waited = earlier.filter(pc.is_in(earlier["status"], pa.array(PASSING))).select(["path", "status", "reason"])
    faults = {row["path"]: (row["status"], row["reason"]) for row in waited.to_pylist()}
    rows = usable(select_split(manifest, split)) if faults else manifest.slice(0, 0)
    rows = rows.filter(pc.is_in(rows["path"], pa.array(faults, pa.string())))  # a recording may be cut now
    rows = rows.filter(pc.invert(pc.is_in(rows["id"], usable(earlier)["id"].combine_chunks())))
    if not len(rows):
        return manifest
    log.warning(
        f"{len(rows):,} clips can be read now that could not be read when the run began, such as {rows['id'][0]}: they "
        "stay left out of it; another run_dir trains on all"
    )
    late = dict(zip(rows["id"].to_pylist(), rows["path"].to_pylist(), strict=True))
    return mark_unusable(manifest, {clip_id: faults[path] for clip_id, path in late.items()})


def require_there(root: Path) -> None:
    """Raise UsageError where a folder of media is not there."""
    if reason := why_gone(root):
        raise UsageError(
            f"the media folder {root} is not there any more ({reason}): data.root moved? Say data.root=NEW"
        )


def require_some(manifest: pa.Table, root: Path) -> tuple[int, int, str]:
    """As _look_for.

    Raises:
        UsageError: none of a manifest's files is there.
    """
    require_there(root)
    looked, missing, example = _look_for(manifest, root)
    if looked and missing == looked:
        raise UsageError(
            f"none of the run's clips is in {root} any more (looked for {looked:,}, such as {example}): data.root "
            "moved? Say data.root=NEW"
        )
    return looked, missing, example


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
