"""Which file is which row of a list.  Whole columns at a time: lists and folders have millions of rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.sources.listing import CLIP_NAME, SUFFIX, Listing
from selavi.ids import compose_where_unambiguous

NONE, SEVERAL = -1, -2
SAME_S = 0.5
"""A file whose length differs less from that of a clip is the clip itself, cut before the list was used."""


@dataclass(frozen=True)
class Join:
    """The rows of a list against the rows of a manifest.

    row_of_file: (files,) the list's row that a file is; NONE: none, SEVERAL: more than one clip, so that none counts.
    clip_of_row: (rows,) the first row that names the same clip.
    num_respelt: files whose path the list writes in another Unicode form.
    recording_of_row: (rows,) the first row whose clip lies in the same recording.
    is_recording: (files,) bool, whether the file may hold several clips; `row_of_file` is then the first of them.
    """

    row_of_file: np.ndarray
    clip_of_row: np.ndarray
    recording_of_row: np.ndarray
    is_recording: np.ndarray
    num_respelt: int = 0


def join(
    listing: Listing,
    paths: pa.ChunkedArray,
    labels: pa.ChunkedArray,
    root: str,
    duration_s: np.ndarray | None = None,
) -> Join:
    """Find the row of each file.

    Args:
        listing: the list.
        paths: of the files, below `root`.
        labels: of the files, as their folders say; where a list names a clip with several labels, the file's decides.
        root: that absolute paths of the list may begin with.
        duration_s: (files,) NaN where it is not known; None: of none.  Tells a whole recording from a clip of it.
    """
    names, listed_labels = listing.rows["name"], folded(listing.rows["label"])
    if listing.by == "class":
        kinds = folded(names)
        first = _first(kinds, kinds)
        return Join(_first(folded(labels), kinds), first, first, np.zeros(len(paths), bool))
    matching = _Matching(len(paths), folded(labels), listed_labels)
    if listing.by == "clip":
        files = pc.replace_substring_regex(_text(paths), "^.*/", "")
        return _join_clips(matching, listing, files, np.full(len(paths), np.nan) if duration_s is None else duration_s)
    return _join_paths(matching, _text(names), _text(paths), root)


def has_clip_of(clip_of_row: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(rows of the list,) bool: whether it names the same clip as one of `rows`."""
    clips = np.zeros(len(clip_of_row), dtype=bool)
    clips[clip_of_row[rows]] = True
    return clips[clip_of_row]


def folded(labels: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Labels as they are compared: 'Playing Guitar' and playing_guitar are one; '' where there is none."""
    encoded = pc.fill_null(_text(labels), "").dictionary_encode()  # many clips, few labels
    lower = pc.utf8_lower(pc.utf8_normalize(encoded.dictionary, "NFC"))  # combining letters are no letters of their own
    words = pc.replace_substring_regex(lower, r"[^\pL\pN]+", "_")
    return pc.utf8_trim(words, "_").take(encoded.indices)


class _Matching:
    """Rows of files found so far, by one key after another, the surest first."""

    def __init__(self, num_files: int, file_labels: pa.Array, listed_labels: pa.Array) -> None:
        self.row_of_file = np.full(num_files, NONE)
        self._labels, self._listed_labels = file_labels, listed_labels

    def add(self, file_keys: pa.Array, keys: pa.Array, clip_of_row: np.ndarray) -> None:
        """Match files that have no row yet; null keys match nothing."""
        files = np.flatnonzero((self.row_of_file == NONE) & pc.is_valid(file_keys).to_numpy(zero_copy_only=False))
        rows = np.flatnonzero(pc.is_valid(keys).to_numpy(zero_copy_only=False))
        if not len(files) or not len(rows):
            return
        file_keys, keys, clips = file_keys.take(pa.array(files)), keys.take(pa.array(rows)), clip_of_row[rows]
        first = _first(keys, keys)
        row_of_key = _find(file_keys, keys, first, clips)
        repeated = np.bincount(first, minlength=len(rows)) > 1
        doubtful = np.flatnonzero((row_of_key == SEVERAL) | ((row_of_key >= 0) & repeated[row_of_key]))
        if len(doubtful):  # rows with one key, of one clip or of several: the label may tell
            file_keys = _pair(file_keys.take(pa.array(doubtful)), self._labels.take(pa.array(files[doubtful])))
            keys = _pair(keys, self._listed_labels.take(pa.array(rows)))
            by_label = _find(file_keys, keys, _first(keys, keys), clips)
            row_of_key[doubtful] = np.where(by_label >= 0, by_label, row_of_key[doubtful])
        self.row_of_file[files] = np.where(row_of_key >= 0, rows[np.maximum(row_of_key, 0)], row_of_key)


def _join_clips(matching: _Matching, listing: Listing, files: pa.Array, duration_s: np.ndarray) -> Join:
    """By YouTube id and start; by the id alone where the list or the file's name has no start.

    A file of that kind which is longer than the clip is the recording: it holds every clip with that id.
    """
    names = _text(listing.rows["name"])
    listed, named = pc.extract_regex(names, CLIP_NAME), pc.extract_regex(files, CLIP_NAME)
    listed_video, video = pc.struct_field(listed, "youtube"), pc.struct_field(named, "youtube")
    listed_start, start = _start_ms(listed, in_ms=False), _start_ms(named, in_ms=False)
    keys = _pair(listed_video, listed_start)
    identity = _pair(listed_video, pc.fill_null(listed_start, ""))
    clip_of_row, recording_of_row = _first(identity, identity), _first(listed_video, listed_video)
    row_of_video = _first(pc.if_else(pc.is_null(start), video, None), listed_video)
    lengths_s = pc.subtract(listing.rows["end_s"], listing.rows["start_s"])
    clip_s = lengths_s.take(pa.array(row_of_video, mask=row_of_video < 0)).to_numpy()
    is_recording = (row_of_video >= 0) & (duration_s > clip_s + SAME_S)
    matching.row_of_file[is_recording] = row_of_video[is_recording]
    matching.add(_pair(video, start), keys, clip_of_row)
    matching.add(_pair(video, _start_ms(named, in_ms=True)), keys, clip_of_row)
    matching.add(video, pc.if_else(pc.is_null(listed_start), listed_video, None), clip_of_row)
    matching.add(pc.if_else(pc.is_null(start), video, None), listed_video, clip_of_row)
    return Join(matching.row_of_file, clip_of_row, recording_of_row, is_recording)


def _start_ms(parts: pa.Array, in_ms: bool) -> pa.Array:
    """The start of each name in whole milliseconds, as text; null where there is none.

    Most tools write seconds, AudioSet's write milliseconds: which of them a list knows decides.
    """
    text = pc.struct_field(parts, "start")
    numbers = pc.cast(pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text), pa.float64())
    return pc.cast(pc.cast(pc.round(pc.multiply(numbers, 1.0 if in_ms else 1000.0)), pa.int64()), pa.large_string())


def _join_paths(matching: _Matching, names: pa.Array, paths: pa.Array, root: str) -> Join:
    """By the path, also in another Unicode form; else by as many of the last folders as both have, and any suffix."""
    names = pc.replace_substring_regex(pc.replace_substring(names, "\\", "/"), "/+(\\./+)*", "/")
    below_root = pc.starts_with(names, f"{root}/")
    names = pc.if_else(below_root, pc.utf8_slice_codeunits(names, len(root) + 1), names)
    names = pc.replace_substring_regex(names, "^(\\./|/)+", "")
    clip_of_row = _first(names, names)
    matching.add(paths, names, clip_of_row)
    num_exact = int((matching.row_of_file >= 0).sum())
    paths, names = compose_where_unambiguous(paths, names)
    matching.add(paths, names, clip_of_row)
    num_respelt = int((matching.row_of_file >= 0).sum()) - num_exact

    # What is left: another suffix, a root that moved, folders added above or left out.
    taken = has_clip_of(clip_of_row, matching.row_of_file[matching.row_of_file >= 0])
    names = pc.if_else(pa.array(taken), pa.scalar(None, names.type), names)
    names, paths = (pc.replace_substring_regex(column, f"{SUFFIX}$", "") for column in (names, paths))
    depths, file_depths = _depths(names), _depths(paths)
    for depth in sorted({*np.unique(depths), *np.unique(file_depths)} - {0}, reverse=True):
        matching.add(_tails(paths, file_depths, depth), _where(names, depths == depth), clip_of_row)
        matching.add(_where(paths, file_depths == depth), _tails(names, depths, depth), clip_of_row)
    return Join(matching.row_of_file, clip_of_row, clip_of_row, np.ones(len(paths), bool), num_respelt)


def _depths(paths: pa.Array) -> np.ndarray:
    """The number of parts of each path; 0 where there is none."""
    depths: np.ndarray = pc.fill_null(pc.add(pc.count_substring(paths, "/"), 1), 0).to_numpy(zero_copy_only=False)
    return depths


def _tails(paths: pa.Array, depths: np.ndarray, depth: int) -> pa.Array:
    """The last `depth` parts of each path; null where it has fewer."""
    parts = pc.extract_regex(_where(paths, depths >= depth), rf"(?P<tail>(?:[^/]*/){{{depth - 1}}}[^/]*)$")
    return pc.struct_field(parts, "tail")


def _where(column: pa.Array, chosen: np.ndarray) -> pa.Array:
    return pc.if_else(pa.array(chosen), column, pa.scalar(None, column.type))


def _find(file_keys: pa.Array, keys: pa.Array, first: np.ndarray, clip_of_row: np.ndarray) -> np.ndarray:
    """The first row with each key, or NONE, or SEVERAL where rows of different clips have it.

    first: of each of `keys`, the first row that has it.
    """
    several = np.zeros(len(keys), dtype=bool)
    several[first[clip_of_row != clip_of_row[first]]] = True
    rows = _first(file_keys, keys)
    return np.where((rows >= 0) & several[rows], SEVERAL, rows)


def _first(values: pa.Array, keys: pa.Array) -> np.ndarray:
    """The first place in `keys` of each of `values`, or NONE."""
    places: np.ndarray = pc.fill_null(pc.index_in(values, value_set=keys, skip_nulls=True), NONE).to_numpy()
    return places.astype(np.int64)


def _pair(left: pa.Array, right: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(left, right, pa.scalar("\n", pa.large_string()))


def _text(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One piece whatever its length: offsets of plain strings end at 2 GB."""
    whole = column.cast(pa.large_string())
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
