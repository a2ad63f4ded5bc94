"""Columns of a table that somebody brings: what the page shows of clips beside their pictures, or in their place."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.errors import UsageError
from selavi.filesystem import look
from selavi.id_tables import read_table
from selavi.ids import explain_missing, find_ids

MOST_LETTERS = 500
"""Letters of a cell that are shown."""


@dataclass(frozen=True)
class Columns:
    """What a table says of N clips.

    Attributes:
        names: of the columns that are shown as text.
        texts: N rows of them, large_string, null where the table says nothing.
        pictures: (N,) large_string, the URL of a picture as seen from the page, null where there is none; None: no
            column names any.
        notes: what was left out or guessed, a sentence each.
    """

    names: Sequence[str]
    texts: pa.Table
    pictures: pa.Array | None = None
    notes: Sequence[str] = field(default_factory=list)

    def rows(self, rows: np.ndarray) -> list[list[str | None]]:
        """The texts of some clips, in the order of `names`."""
        columns = [self.texts[name].take(pa.array(rows)).to_pylist() for name in self.names]
        return [list(cells) for cells in zip(*columns, strict=True)] if columns else [[] for _ in rows]

    def urls(self, rows: np.ndarray) -> list[str | None]:
        """The pictures of some clips."""
        if self.pictures is None:
            return [None] * len(rows)
        urls: list[str | None] = self.pictures.take(pa.array(rows)).to_pylist()
        return urls


def read_columns(path: Path, names: Sequence[str], picture: str, ids: pa.ChunkedArray, page_folder: Path) -> Columns:
    """Read what a table says of clips.

    Args:
        path: CSV or Parquet, with a column id.
        names: of columns that are shown as text; a URL is text, which nothing loads.
        picture: the column of files with pictures, whose paths start from the table's folder; "": none.
        ids: (N,) of the clips.
        page_folder: that the page lies in.

    Raises:
        UsageError: the file cannot be read, lacks a column, repeats an id, or has none of these clips.
    """
    table = read_table(path, list(dict.fromkeys(["id", *names, *([picture] if picture else [])])))
    if repeated := len(table["id"].drop_null()) - pc.count_distinct(table["id"]).as_py():
        raise UsageError(f"{path}: {repeated} of {len(table)} rows repeat an id; keep one row a clip")
    place = find_ids(ids, table["id"]).place
    num_clips = int((place >= 0).sum())
    if not num_clips:
        own, others = (column.slice(0, 1000).to_pylist() for column in (ids, table["id"]))
        similar = explain_missing(own, others)
        raise UsageError(
            f"{path} has none of the {len(ids):,} clips: ids of clips are such as {own[0]!r}, of its rows such as "
            f"{others[0] if others else None!r}{similar and '; ' + similar}"
        )
    notes = [*table.notes]
    if num_clips < len(ids):
        notes.append(f"{path} has {num_clips:,} of {len(ids):,} clips; nothing of it is shown of the others")
    rows = pa.array(place, pa.int64(), mask=place < 0)
    cells = {name: table[name].take(rows).combine_chunks().cast(pa.large_string()) for name in [*names]}
    texts = pa.table({name: _cut(values) for name, values in cells.items()})
    pictures = None
    if picture:
        files = table[picture].take(rows).to_pylist()
        pictures = pa.array([_url(path.parent, page_folder, file) for file in files], pa.large_string())
        if missing := pictures.null_count:
            notes.append(f"{missing:,} of {len(ids):,} clips have no picture: the column {picture} names no file")
    return Columns(list(names), texts, pictures, notes)


def _cut(values: pa.Array) -> pa.Array:
    short = pc.utf8_slice_codeunits(values, 0, MOST_LETTERS)
    is_long = pc.greater(pc.utf8_length(values), MOST_LETTERS)
    dots, nothing = (pa.scalar(text, pa.large_string()) for text in ("…", ""))
    return pc.if_else(is_long, pc.binary_join_element_wise(short, dots, nothing), values)


def _url(folder: Path, page_folder: Path, file: str | None) -> str | None:
    """A file of the table as seen from the page; None where there is no such file."""
    if not file or look(folder / file).kind != "file":
        return None
    return quote(Path(os.path.relpath(folder / file, page_folder)).as_posix(), safe="/")
