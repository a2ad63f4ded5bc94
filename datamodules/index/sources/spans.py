"""Lists whose rows name spans of recordings: several clips of one file, each from a begin to an end in seconds."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.sources.join import Join
from datamodules.index.sources.listing import Listing

_SAME_S = 0.5
"""A file whose length differs less from that of the span is the clip itself, cut before the list was used."""


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
    note: str
    """What was found, as a sentence."""


def has_times(listing: Listing) -> bool:
    """Whether some rows name a span."""
    return listing.rows["end_s"].null_count < len(listing.rows)


def find_spans(manifest: pa.Table, listing: Listing, joined: Join, files: np.ndarray) -> Spans:
    """Every row of a list of paths that names one of some files, in the order of the files and of time.

    Args:
        manifest: as scanned.
        listing: of paths, with times.
        joined: which of its rows names which file; the others of the same path count as well.
        files: rows of the manifest that are used.
    """
    start_s, end_s = (listing.rows[name].to_numpy() for name in ("start_s", "end_s"))
    clip_of_file = joined.clip_of_row[joined.row_of_file[files]]
    file_of_clip = np.full(len(joined.clip_of_row), -1)
    file_of_clip[clip_of_file] = files
    file_of_row = file_of_clip[joined.clip_of_row]
    rows = np.flatnonzero(file_of_row >= 0)
    order = np.lexsort((end_s[rows], start_s[rows], file_of_row[rows]))
    rows = rows[order]
    keys = np.stack([file_of_row[rows], *np.nan_to_num(np.stack([start_s[rows], end_s[rows]]), nan=-1.0)])
    is_again = np.zeros(len(rows), bool)
    is_again[1:] = (keys[:, 1:] == keys[:, :-1]).all(0)
    rows = rows[~is_again]
    begins, ends, files = start_s[rows].copy(), end_s[rows].copy(), file_of_row[rows]
    length_s = pc.fill_null(manifest["duration_s"], np.inf).to_numpy()[files]
    is_alone = np.bincount(files, minlength=len(manifest))[files] == 1
    is_file = is_alone & (np.abs(ends - begins - length_s) < _SAME_S)
    begins[is_file] = ends[is_file] = np.nan
    is_span = ~np.isnan(ends)
    is_behind = is_span & (begins >= length_s)
    ends = np.where(is_span, np.minimum(ends, length_s), ends)
    kept = ~is_behind
    return Spans(files[kept], rows[kept], begins[kept], ends[kept], _describe(files, is_span, is_file, is_behind))


def _describe(files: np.ndarray, is_span: np.ndarray, is_file: np.ndarray, is_behind: np.ndarray) -> str:
    spans = is_span & ~is_behind
    parts = [f"{spans.sum():,} clips are spans of {len(np.unique(files[spans])):,} files"]
    if is_file.any():
        parts.append(f"{is_file.sum():,} are files as long as their span, and are taken whole")
    if is_behind.any():
        parts.append(f"{is_behind.sum():,} begin behind the end of their file and are left out")
    return "; ".join(parts)
