"""Clusters that somebody brings, as the labels of a run's clips.

A table is read block by block: what stays of it is a number for each clip and head, and the words for the clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from selavi.errors import UsageError
from selavi.id_tables import TableBlocks, table_blocks
from selavi.ids import NONE, BlockwiseIds, ClipIds, explain_missing

NUM_EXAMPLES = 3
_ROWS_AT_ONCE = 1 << 19  # each block looks at all ids
_CLIPS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class TableNotes:
    """What is to be said of the labels of a table."""

    notes: list[str]
    """What was guessed or left out, a sentence each."""
    names: list[tuple[int, int, str]]
    """Head, cluster and the table's word for it, where that is not the cluster's number."""


def open_clusters(path: Path) -> TableBlocks:
    """The columns id and cluster, and head where it is there.

    Raises:
        UsageError: there is no such file; while its blocks are read, also that it cannot be read, or lacks a column.
    """
    if not path.is_file():
        raise UsageError(
            f"labelling.first={path}: there is no such file; it is crafted, kmeans, random, or a table "
            "(CSV, Parquet) with the columns id and cluster"
        )
    return partial(table_blocks, path, columns=["id", "cluster"], optional=["head"])


def put_table_labels(
    table: TableBlocks, name: str, ids: Sequence[str], num_clusters: int, labels: Tensor
) -> TableNotes:
    """Label clips by a table of clusters; columns beyond the table's heads begin again at its first head.

    Args:
        table: of open_clusters.
        name: what messages call it, such as labelling.first=clusters.csv.
        ids: of N clips.
        num_clusters: K.
        labels: (N, H) int32, of the heads that learn; -1 is written for a clip that the table does not name.

    Raises:
        UsageError: the table names no clip, gives one two clusters, or has fewer than 2 or more than K clusters.
    """
    columns = labels.fill_(-1).numpy()
    rows, notes = _Rows(ids, columns), list[str]()
    for block in _large_blocks(table(notes)):
        rows.take(block)
        del block  # before the next is read
    rows.take_respelt()
    rows.require_clips(name)
    order = sorted(rows.heads, key=_as_ordered)
    names, num_columns = list[tuple[int, int, str]](), labels.shape[1]
    of_columns, has_all = list[tuple[np.ndarray, np.ndarray]](), np.ones(len(ids), dtype=bool)
    for number, head in enumerate(order):
        of_head = rows.heads.pop(head)
        numbers = of_head.numbers(name, head, num_clusters)
        column = of_head.in_column(name, head, ids)
        has_all &= column >= 0
        if number < num_columns:
            of_columns.append((column, np.array([*numbers.values(), -1], np.int32)))
            names += [(number, cluster, word) for word, cluster in numbers.items() if word != str(cluster)]
    for first in range(0, len(ids), _CLIPS_AT_ONCE):
        some = slice(first, first + _CLIPS_AT_ONCE)
        final = [numbers[column[some]] for column, numbers in of_columns]  # of -1 the last
        columns[some] = np.stack([final[column % len(order)] for column in range(num_columns)], axis=1)
    notes += _notes(rows, int((~has_all).sum()), len(order), labels.shape)
    return TableNotes(notes, names)


def _large_blocks(blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Blocks of at least _ROWS_AT_ONCE rows, and what is left."""
    some = list[pa.Table]()
    for block in blocks:
        some.append(block)
        if sum(map(len, some)) >= _ROWS_AT_ONCE:
            del block  # and so nothing here holds what was yielded
            whole, some = pa.concat_tables(some), []
            yield whole
            del whole
    if some:
        yield pa.concat_tables(some)


class _Rows:
    """What there is to know of the rows of a table that name clips of the run.

    Args:
        ids: of N clips.
        columns: (N, H) int32, -1; the first heads keep their numbers there.
    """

    def __init__(self, ids: Sequence[str], columns: np.ndarray) -> None:
        self.heads: dict[str, _Head] = {}
        self.num_rows = self.num_filled = self.num_chosen = self.num_without_head = 0
        self._ids, self._columns = ids, columns
        self._places = BlockwiseIds(ClipIds(ids).array)
        self._respelt: list[pa.Table] = []
        self._examples: list[str | None] = []
        self._first_ids: list[str] = []

    def take(self, block: pa.Table) -> None:
        """The next rows: columns id, cluster and perhaps head, large_string."""
        self.num_rows += len(block)
        self.num_filled += len(block) - block["cluster"].null_count
        self._examples += block["id"].slice(0, NUM_EXAMPLES - len(self._examples)).to_pylist()
        self._first_ids += block["id"].drop_null().slice(0, 1000 - len(self._first_ids)).to_pylist()
        places = self._places.find(block["id"])
        self._put(block, places)
        missing = block.filter(pa.array(places == NONE))
        respelt = missing.filter(pa.array(self._places.may_be_respelt(missing["id"])))
        if len(respelt):
            self._respelt.append(respelt)

    def take_respelt(self) -> None:
        """After the last block: the rows whose ids are there in another Unicode form."""
        if self._respelt:
            rows = pa.concat_tables(self._respelt)
            self._put(rows, self._places.find_respelt(rows["id"]))

    def _put(self, rows: pa.Table, places: np.ndarray) -> None:
        chosen = (places != NONE) & pc.is_valid(rows["cluster"]).to_numpy()
        self.num_chosen += int(chosen.sum())
        rows, places = rows.filter(pa.array(chosen)), places[chosen]
        if "head" not in rows.column_names:
            self._head("").put(places, rows["cluster"])
            return
        self.num_without_head += rows["head"].null_count
        encoded = rows["head"].combine_chunks().dictionary_encode()
        numbers = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy()
        order = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers, minlength=len(encoded.dictionary)))
        clusters = rows["cluster"].take(pa.array(order))
        for head, first, end in zip(encoded.dictionary.to_pylist(), [0, *ends], ends, strict=False):
            self._head(head).put(places[order[first:end]], clusters.slice(first, end - first))

    def _head(self, name: str) -> _Head:
        if name not in self.heads:
            number, (num_clips, num_columns) = len(self.heads), self._columns.shape
            self.heads[name] = _Head(num_clips, self._columns[:, number] if number < num_columns else None)
        return self.heads[name]

    def require_clips(self, name: str) -> None:
        """Check that there are rows of clips, and that each has a head, or none of them.

        Raises:
            UsageError: that is not so.
        """
        if not self.num_filled:
            raise UsageError(f"{name}: none of its {self.num_rows} rows has a cluster")
        if not self.num_chosen:
            hint = explain_missing(self._first_ids, self._ids)
            examples = ", ".join(map(repr, self._examples))
            raise UsageError(
                f"{name}: none of its {self.num_rows} rows names one of the {len(self._ids)} training clips; it has "
                f"ids such as {examples}, the run such as {self._ids[0]!r}{f'; {hint}' if hint else ''}; write the ids "
                "as the run does"
            )
        if self.num_without_head:
            raise UsageError(
                f"{name}: {self.num_without_head} of {self.num_chosen} rows have no head; fill in the column head"
            )


class _Head:
    """The clusters of one head, by the number of their words in the order in which they came.

    Args:
        num_clips: N.
        column: (N,) int32, -1, for the numbers; None: the rows are kept until they are asked for.
    """

    def __init__(self, num_clips: int, column: np.ndarray | None) -> None:
        self._words: dict[str, int] = {}
        self._column = column
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []
        self._is_double: np.ndarray | None = None
        self._num_clips = num_clips

    def put(self, places: np.ndarray, clusters: pa.ChunkedArray) -> None:
        """Take n rows: the clips' places (n,) and the words for their clusters (n,)."""
        encoded = clusters.combine_chunks().dictionary_encode()
        words = [self._words.setdefault(word, len(self._words)) for word in encoded.dictionary.to_pylist()]
        numbers = np.array(words, np.int32)[encoded.indices.to_numpy()]
        if self._column is None:
            self._rows.append((places.astype(np.int32), numbers))
        else:
            self._put(self._column, places, numbers)

    def _put(self, column: np.ndarray, places: np.ndarray, numbers: np.ndarray) -> None:
        before = column[places]
        column[places] = numbers
        now = column[places]
        differs = (now != numbers) | ((before >= 0) & (before != now))
        if differs.any():
            if self._is_double is None:
                self._is_double = np.zeros(self._num_clips, dtype=bool)
            self._is_double[places[differs]] = True

    def numbers(self, called: str, head: str, num_clusters: int) -> dict[str, int]:
        """The cluster that each word means: whole numbers below K themselves, other words in their order.

        Raises:
            UsageError: there are fewer than 2, or more than K.
        """
        names = list(self._words)
        if not 2 <= len(names) <= num_clusters:
            advice = (
                f"set heads.num_clusters={len(names)}, or merge clusters" if len(names) > 1 else "bring a clustering"
            )
            raise UsageError(
                f"{called} has {len(names)} cluster{'s' * (len(names) > 1)}{_under(head)}, expected 2 to "
                f"heads.num_clusters={num_clusters}; {advice}"
            )
        own_numbers = {str(number): number for number in range(num_clusters)}
        if not all(name in own_numbers for name in names):
            own_numbers = {name: number for number, name in enumerate(sorted(names, key=_as_ordered))}
        return {name: own_numbers[name] for name in names}

    def in_column(self, called: str, head: str, ids: Sequence[str]) -> np.ndarray:
        """(N,) int32, the number of each clip's word, -1 for none.

        Raises:
            UsageError: a clip has several.
        """
        column = np.full(self._num_clips, -1, np.int32) if self._column is None else self._column
        for places, numbers in self._rows:
            self._put(column, places, numbers)
        if self._is_double is not None:
            doubles = np.flatnonzero(self._is_double)
            examples = ", ".join(repr(ids[place]) for place in doubles[:NUM_EXAMPLES].tolist())
            advice = "" if head else ", or tell its heads apart in a column head"
            raise UsageError(
                f"{called} gives {len(doubles)} clips more than one cluster{_under(head)}, such as {examples}: "
                f"keep one row a clip{advice}"
            )
        return column


def _under(head: str) -> str:
    return f" under head {head}" if head else ""


def _notes(rows: _Rows, num_without: int, num_heads: int, shape: tuple[int, ...]) -> list[str]:
    notes, (num_clips, num_columns) = list[str](), shape
    if num_without:
        notes.append(f"{num_without} of {num_clips} clips have no cluster there, and learn none before labelling")
    if rows.num_chosen < rows.num_rows:
        left_out = rows.num_rows - rows.num_chosen
        notes.append(f"{left_out} of {rows.num_rows} rows are of other clips, or without a cluster")
    if num_heads not in (1, num_columns):
        notes.append(f"it has {num_heads} heads for {num_columns} of the run, in turn")
    return notes


def _as_ordered(name: str) -> tuple[int, int, str]:
    """A key by which numbers come first, in their order."""
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)
