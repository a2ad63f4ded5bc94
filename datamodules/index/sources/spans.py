"""Lists whose rows name spans of recordings: several clips of one file, each from a begin to an end in seconds."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.sources.join import SAME_S, Join, has_clip_of
from datamodules.index.sources.listing import Listing


@dataclass(frozen=True)
class Spans:
    """Which rows of a list are clips of which files, and where these lie in them."""

    files: np.ndarray
    """(n,) rows of the manifest."""
    rows: np.ndarray
    """(n,) rows of the list."""
    start_s: np.ndarray
    end_s: np.ndarray
    """(n,) seconds; NaN for a clip that is the whole file."""
    with_file: np.ndarray
    """(m,) rows of the list that name one of the files, those that are left out among them."""
    note: str
    """What was found, as a sentence."""


def has_spans(listing: Listing, joined: Join) -> bool:
    """Whether some rows name a span of a file."""
    return bool(joined.is_recording.any()) and listing.rows["end_s"].null_count < len(listing.rows)


def find_spans(manifest: pa.Table, listing: Listing, joined: Join, files: np.ndarray) -> Spans:
    """Every row of a list that lies in one of some files, in the order of the files and of time.

    Args:
        manifest: as scanned.
        listing: of paths or clips, with times.
        joined: which of its rows names which file; the others of the same recording count as well.
        files: rows of the manifest that are used.
    """
    start_s, end_s = (listing.rows[name].to_numpy().copy() for name in ("start_s", "end_s"))
    is_recording = joined.is_recording[files]
    recordings, clips = files[is_recording], files[~is_recording]
    file_of_first = np.full(len(start_s), -1)
    file_of_first[joined.recording_of_row[joined.row_of_file[recordings]]] = recordings
    file_of_row = file_of_first[joined.recording_of_row]
    row_of_clip = joined.row_of_file[clips]  # one that has a file of its own is not cut from a recording as well
    file_of_row[has_clip_of(joined.clip_of_row, row_of_clip)] = -1
    file_of_row[row_of_clip] = clips
    start_s[row_of_clip] = end_s[row_of_clip] = np.nan
    with_file = rows = np.flatnonzero(file_of_row >= 0)
    order = np.lexsort((end_s[rows], start_s[rows], file_of_row[rows]))
    rows = rows[order]
    keys = np.stack([file_of_row[rows], *np.nan_to_num(np.stack([start_s[rows], end_s[rows]]), nan=-1.0)])
    is_again = np.zeros(len(rows), bool)
    is_again[1:] = (keys[:, 1:] == keys[:, :-1]).all(0)
    rows = rows[~is_again]
    begins, ends, files = start_s[rows].copy(), end_s[rows].copy(), file_of_row[rows]
    length_s = pc.fill_null(manifest["duration_s"], np.inf).to_numpy()[files]
    is_alone = np.bincount(files, minlength=len(manifest))[files] == 1
    is_file = is_alone & (np.abs(ends - begins - length_s) < SAME_S)
    begins[is_file] = ends[is_file] = np.nan
    is_span = ~np.isnan(ends)
    is_behind = is_span & (begins >= length_s)
    ends = np.where(is_span, np.minimum(ends, length_s), ends)
    kept = ~is_behind
    note = _describe(files, is_span, is_file, is_behind)
    return Spans(files[kept], rows[kept], begins[kept], ends[kept], with_file, note)


def _describe(files: np.ndarray, is_span: np.ndarray, is_file: np.ndarray, is_behind: np.ndarray) -> str:
    spans = is_span & ~is_behind
    parts = [f"{spans.sum():,} clips are spans of {len(np.unique(files[spans])):,} files"]
    if is_file.any():
        parts.append(f"{is_file.sum():,} are files as long as their span, and are taken whole")
    if is_behind.any():
        parts.append(f"{is_behind.sum():,} begin behind the end of their file and are left out")
    return "; ".join(parts)
