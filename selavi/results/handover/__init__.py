"""Clusters for other tools: files that they open, written without importing any of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.errors import UsageError
from selavi.results.handover.clips import HandedClips
from selavi.results.handover.folder import Folder
from selavi.results.handover.formats import FORMATS, WITHOUT_MEDIA, how_to_open

__all__ = ["FORMATS", "WITHOUT_MEDIA", "hand_over"]


def hand_over(
    table: pa.Table,
    formats: Sequence[str],
    out_dir: Path,
    *,
    media_root: Path | None,
    durations_s: Mapping[str, float],
    features: Mapping[str, tuple[Any, np.ndarray]] | None = None,
    link: Literal["relative", "copy"] = "relative",
    scanned: Mapping[str, tuple[int, int]] | None = None,
) -> list[Path]:
    """Write `out_dir`/FORMAT for each format, and `out_dir`/README.txt: how to open them, and what was left out.

    The class of a clip is its cluster's name, `cluster 012` where it has none.  Rejected clips (cluster -1) are left
    out.  Each file appears whole or not at all, the one that a tool opens last or nearly so; a second hand-over
    replaces and removes what earlier ones wrote, and no other file.

    Args:
        table: a cluster table (CLUSTER_SCHEMA of selavi.results.cluster_table) of one head, names laid over it by
            selavi.results.naming.
        formats: names of FORMATS.
        out_dir: made where it does not exist.
        media_root: the folder that the table's paths start from.  Nothing outside of it is linked or copied.
            None: the clips are vectors, and have no media.
        durations_s: seconds by id; None in the files for an id that is not in it.
        features: by name (`[a-z0-9_-]+`), the M ids and the (M, D) array, for the formats that hold features; a clip
            of the table must be among the ids.
        link: `relative` refers to the media from where the files lie (VideoFolder: by links); `copy` copies them into
            each format's folder, which can then move alone.
        scanned: size and time of change of each clip's file by id, as the manifest has them: no other file is linked,
            and nothing is copied that is no recording.  None: you vouch for every file below media_root.

    Returns:
        For each format, the file or folder to open in the tool.

    Raises:
        UsageError: an unknown format, one that needs media where there are none, more than one head, no clip left,
            media that are missing or lie outside of media_root, features that are missing, or a file in the way that
            no hand-over wrote.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UsageError(f"unknown formats {', '.join(unknown)}: expected some of {', '.join(FORMATS)}")
    if link not in ("relative", "copy"):
        raise ValueError(f"link must be relative or copy, got {link!r}")
    heads = pc.unique(table["head"]).to_pylist()
    if len(heads) > 1:
        raise UsageError(f"expected clusters of one head, got the heads {sorted(heads)}: choose one")
    kept = table.filter(pc.greater_equal(table["cluster"], 0))
    if not kept.num_rows:
        raise UsageError(f"nothing to hand over: {table.num_rows} clips, all of them rejected")
    clips = HandedClips(kept, media_root, scanned, durations_s, features or {}, table.num_rows - kept.num_rows)

    opened, instructions = [], []
    for name in dict.fromkeys(formats):
        with Folder.opened(out_dir / name) as folder:
            opened.append(FORMATS[name](clips, folder, link))
        instructions.append(f"{name}\n    {how_to_open(name, clips, out_dir / name, link)}\n")
    with Folder.opened(out_dir) as folder:
        folder.claim(["README.txt"])
        with folder.file("README.txt") as temporary:
            classes = len(set(clips.class_names.values()))
            head = f"{len(clips)} clips in {classes} classes; {clips.num_rejected} rejected clips are left out.\n"
            temporary.write_text("\n".join([head, *instructions]), encoding="utf-8")
    return opened
