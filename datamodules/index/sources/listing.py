"""What every parser of a list returns, and how a list file is read: text (also gzipped) or Parquet."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.suffixes import MEDIA_SUFFIXES, PICTURE_SUFFIXES
from selavi.errors import UsageError
from selavi.guarded.parquet import ParquetReader
from selavi.id_tables import TextFile, describe_empty, fit_row, open_table

LISTING_SCHEMA = pa.schema(
    [
        ("name", pa.string()),  # what `Listing.by` says
        ("label", pa.string()),  # null where the list gives none
        ("split", pa.string()),  # null where the list gives none
        ("id", pa.string()),  # null where the list gives none
        ("start_s", pa.float64()),  # where the clip begins in its file, and where it ends; null for the whole file
        ("end_s", pa.float64()),
    ]
)

SUFFIX = rf"(?i:\.(?:{'|'.join(sorted(suffix[1:] for suffix in MEDIA_SUFFIXES | PICTURE_SUFFIXES))}))"
VIDEO = r"[A-Za-z0-9_-]{11}"  # a YouTube id; it may begin with - or _, and hold _ anywhere
NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"
# Anchored by the id's length, because an id such as abc_000_123 looks like a name with times.
CLIP_NAME = rf"^(?P<youtube>{VIDEO})(?:_(?P<start>{NUMBER})(?:_(?P<end>{NUMBER}))?)?(?:{SUFFIX})?$"

CLIP_S = 10.0
"""Length of a clip of VGG-Sound, Kinetics, AudioSet."""
SAMPLE_LINES = 20
_ROWS_AT_ONCE = 1 << 16

# Column names in the wild, best first; compared in lower case, with _ for spaces and without a leading #.
COLUMNS: dict[str, tuple[str, ...]] = {
    "video": ("youtube_id", "video_id", "ytid", "yt_id"),
    "start": ("time_start", "start_s", "start_seconds", "start_second", "start_time", "start"),
    "end": ("time_end", "end_s", "end_seconds", "end_second", "end_time", "end"),
    "path": (
        "path",
        "file_path",
        "filepath",
        "video_path",
        "file_name",
        "filename",
        "file",
        "video",
        "clip",
        "video_id",
        "youtube_id",
    ),
    "label": ("label", "class", "class_name", "label_name", "category"),
    "split": ("split", "subset", "partition", "set", "train/test_split"),
    "id": ("id", "clip_id"),
}


@dataclass(frozen=True)
class Listing:
    """The rows of a list, in its order.

    by: what a name names.  clip: a YouTube id, with a start or without; path: a media file; class: a whole class.
    rows: LISTING_SCHEMA.
    notes: what was guessed or left out, a sentence each.
    """

    by: Literal["clip", "path", "class"]
    rows: pa.Table
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListSample:
    """The beginning of a list file: its first lines that are not empty, or a Parquet file's column names.

    text: the file, None where it is Parquet; notes: what is guessed or left out while it is read, a sentence each.
    """

    path: Path
    lines: tuple[str, ...]
    parquet_columns: tuple[str, ...] | None = None
    text: TextFile | None = None
    notes: list[str] = field(default_factory=list)

    def cells(self, delimiter: str = ",") -> list[list[str]]:
        """The lines as CSV."""
        return [[cell.strip() for cell in row] for row in csv.reader(self.lines, delimiter=delimiter)]


@dataclass(frozen=True)
class ListFormat:
    """One list format.

    title: what the user reads, such as "a VGG-Sound list"; example: one line of it.
    fits: whether a file's beginning is of this format; read: the whole file.
    """

    title: str
    example: str
    fits: Callable[[ListSample], bool]
    read: Callable[[ListSample], Listing]

    def refuse(self, sample: ListSample, why: str) -> UsageError:
        """The error for a file that is not of this format."""
        return UsageError(f"{sample.path} was read as {self.title}, but {why}; a line of one is: {self.example}")


def take_sample(path: Path) -> ListSample:
    """Read a file's beginning.

    Raises:
        UsageError: it cannot be read, is empty or is no text; see selavi.id_tables.open_table.
    """
    name = f"data.list={path}"
    file = open_table(path, name)
    if file is None:
        with ParquetReader(path, name=name) as table:
            return ListSample(path, (), tuple(table.schema.names))
    lines = (line for _, line in file.lines() if re.search(r'[^\s,;&"]', line))  # others are a spreadsheet's empty rows
    first = tuple(islice(lines, SAMPLE_LINES))
    if not first:
        raise UsageError(f"{name} is empty; download the list again")
    return ListSample(path, first, text=file)


def read_columns(sample: ListSample, delimiter: str | None, skip_header: bool, places: Sequence[int]) -> list[pa.Array]:
    """Read some columns of a whole text file as strings without outer white space, by position.

    Rows without any text are left out, which the sample's notes say.

    Args:
        sample: of the file.
        delimiter: between cells, which may be quoted; None: a line is one cell, and quotes mean nothing.
        skip_header: leave out the first line.
        places: the columns' places, in the order of the result.

    Raises:
        UsageError: a line has more or fewer cells than the first.
    """
    file = sample.text
    assert file is not None
    empty: list[int] = []
    rows: Iterator[tuple[int, list[str]]]
    if delimiter is None:
        rows = ((line, [text]) for line, text in file.lines() if text.strip())
    else:
        rows = file.rows(delimiter, empty)
    chunks: list[list[pa.Array]] = [[] for _ in places]
    width = None
    while part := list(islice(rows, _ROWS_AT_ONCE)):
        width = len(part[0][1]) if width is None else width
        for line, cells in part:
            if len(cells) != width:
                fit_row(file.name, line, cells, width)
        for column, place in zip(chunks, places, strict=True):
            column.append(pc.utf8_trim_whitespace(pa.array([cells[place] for _, cells in part], pa.string())))
    note = describe_empty(file.name, empty)
    if note and note not in sample.notes:
        sample.notes.append(note)
    columns = [pa.chunked_array(column, pa.string()).combine_chunks() for column in chunks]
    return [column.slice(1 if skip_header else 0) for column in columns]


def find_columns(header: Sequence[str], roles: Sequence[str]) -> dict[str, int]:
    """Which of `roles` a header names, and in which column; no column is found twice."""
    names = [name.strip().lstrip("#").strip().lower().replace(" ", "_") for name in header]
    columns: dict[str, int] = {}
    for role in roles:
        for name in COLUMNS[role]:
            if name in names and names.index(name) not in columns.values():
                columns[role] = names.index(name)
                break
    return columns


def require_once(sample: ListSample, header: Sequence[str], columns: dict[str, int]) -> None:
    """Raise UsageError where a column that is read is in the header twice, so that nobody knows which one counts."""
    names = [name.strip() for name in header]
    twice = [names[place] for place in columns.values() if names.count(names[place]) > 1]
    if twice:
        raise UsageError(f"data.list={sample.path} has the column {twice[0]} more than once: keep one of them")


def matches(pattern: str, cells: Sequence[str]) -> bool:
    """Whether every cell is of `pattern`, from its first letter to its last."""
    return all(re.fullmatch(pattern, cell) for cell in cells)


def listing(
    by: Literal["clip", "path", "class"],
    sample: ListSample,
    name: pa.Array,
    label: pa.Array | None = None,
    split: pa.Array | None = None,
    clip_id: pa.Array | None = None,
    times: tuple[pa.Array, pa.Array] | None = None,
) -> Listing:
    """Build a Listing; where the list has no splits, its file name may say one (split_of_file)."""
    if split is None:
        split = pa.repeat(pa.scalar(split_of_file(sample.path), pa.string()), len(name))
    nothing = pa.nulls(len(name), pa.string())
    columns = [name] + [nothing if column is None else _none_for_empty(column) for column in (label, split, clip_id)]
    columns += times or [pa.nulls(len(name), pa.float64())] * 2
    return Listing(by, pa.table(columns, schema=LISTING_SCHEMA))


def clip_listing(
    source: ListFormat,
    sample: ListSample,
    name: pa.Array,
    start: pa.Array | None = None,
    label: pa.Array | None = None,
    split: pa.Array | None = None,
    end: pa.Array | None = None,
) -> Listing:
    """Build a Listing of YouTube clips, named {id}, {id}_{start} or {id}_{start}_{end}; without an end, of CLIP_S.

    Raises:
        UsageError: a name is none; the message gives the row.
    """
    if start is not None:
        name = pc.binary_join_element_wise(name, start, "_")
    good = pc.match_substring_regex(name, CLIP_NAME).to_numpy(zero_copy_only=False)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise source.refuse(
            sample,
            f"row {row + 1} names {name[row].as_py()!r}, which is not the 11 characters of a YouTube id"
            + (" with a start in seconds" if start is not None else "")
            + " (a spreadsheet may have changed it)",
        )
    parts = pc.extract_regex(name, CLIP_NAME)
    start_s = _numbers(pc.struct_field(parts, "start"))
    end_s = _numbers(pc.struct_field(parts, "end") if end is None else end)
    times = start_s, pc.coalesce(end_s, pc.add(start_s, CLIP_S))
    return listing("clip", sample, name, label, split, times=times)


def _numbers(column: pa.Array) -> pa.Array:
    """Numbers of text; null for what is none."""
    good = pc.match_substring_regex(column, rf"^\s*{NUMBER}\s*$")
    text = pc.if_else(pc.fill_null(good, False), pc.utf8_trim_whitespace(column), None)
    return pc.cast(text, pa.float64())


def split_of_file(path: Path) -> str | None:
    """The one split that a list's file name tells: test.csv, my_train.txt, trainSet.txt, testlist01.txt, AStest.csv."""
    words = ("training", "train", "validation", "validate", "valid", "val", "testing", "test")
    small = "|".join(f"[{word[0]}{word[0].upper()}]{word[1:]}" for word in words)
    large = "|".join(word.upper() for word in words)
    found = re.findall(rf"(?<![a-z])({small})(?:[Ll]ist|[Ss]et)?(?![a-z])", path.name)
    found += re.findall(rf"(?<![A-Za-z])({large})(?:LIST|SET)?(?![A-Za-z])", path.name)
    different = {word.lower() for word in found}
    return different.pop() if len(different) == 1 else None


def _none_for_empty(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
