"""A file of vectors, with the ids that its rows belong to.

    rows of the file    0   1   2   3                      several rows of an id are views of it
    their ids           b   a   a   c
    ids                 a         b    c                   each once, in ascending order
    first               0         2    3    4 (end)        where the rows of each id begin in ...
    order               1   2     0    3                   ... the rows by id

A row with a number that is not finite is no vector; an id without any vector is absent.  Both are counted and told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.arrays.formats import blocks, open_file
from selavi.arrays.rows import Rows
from selavi.errors import UsageError
from selavi.ids import find_ids

BLOCK_BYTES = 64 << 20
"""Bytes of float32 vectors that are held at once."""


@dataclass(frozen=True)
class Vectors:
    """Vectors by id.

    Attributes:
        path: of the file.
        rows: what it holds.
        ids: (I,) large_string, each once, in ascending order.
        first: (I + 1,) where the rows of each id begin in `order`.
        order: the rows that hold a vector, by id.
        notes: what was left out or guessed, a sentence each.
    """

    path: Path
    rows: Rows
    ids: pa.Array
    first: np.ndarray
    order: np.ndarray
    notes: list[str] = field(default_factory=list)

    @property
    def num_dims(self) -> int:
        """D."""
        return self.rows.num_dims

    @property
    def num_views(self) -> int:
        """The most vectors that an id has."""
        return int(np.diff(self.first).max(initial=0))

    def select(self, ids: pa.ChunkedArray) -> Selected:
        """The vectors of some clips (N,), in their order; some of them may have none."""
        match = find_ids(ids, self.ids)
        return Selected(self, match.place, match.num_respelt)


@dataclass(frozen=True)
class Selected:
    """Vectors of N clips.

    Attributes:
        vectors: all of the file's.
        place: (N,) of each clip among the ids of the file; -1: it has none.
        num_respelt: clips whose id was found in another Unicode form only.
    """

    vectors: Vectors
    place: np.ndarray
    num_respelt: int

    @property
    def present(self) -> np.ndarray:
        """(N,) bool, whether each clip has a vector."""
        return self.place >= 0

    def read(self, clips: np.ndarray, view: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """One vector of some clips.

        Args:
            clips: (n,) numbers of clips.
            view: which of a clip's vectors, for all or for each (n,): a whole number, counted round; or a share in
                [0, 1) of how many it has.

        Returns:
            (n, D) float32, 0 where a clip has none; and (n,) bool, whether it has one.
        """
        place = self.place[clips]
        present = place >= 0
        values = np.zeros((len(clips), self.vectors.num_dims), np.float32)
        begin, end = self.vectors.first[place[present]], self.vectors.first[place[present] + 1]
        count = end - begin
        chosen = np.broadcast_to(view, clips.shape)[present]
        number = (chosen * count).astype(np.int64) if chosen.dtype.kind == "f" else chosen % count
        values[present] = self.vectors.rows.read(self.vectors.order[begin + number])
        return values, present


def open_vectors(
    path: Path, ids: Path | None = None, key: str = "", views: bool = False, *, cache_dir: Path
) -> Vectors:
    """Open a file of vectors and look at every number in it, a block at a time.

    Args:
        path: of a format of selavi.arrays.formats.
        ids: a file with an id for each row; None: those that the file has itself, else the numbers of the rows.
        key: name of the array or column that holds the vectors, where the file has several.
        views: whether an id may have several rows.
        cache_dir: where formats of which no single row can be read are kept as memory maps.

    Raises:
        UsageError: the file cannot be read, is of no known format, its ids do not match its rows or are there twice, or
            it holds no vector at all; with counts and what to change.
    """
    opened = open_file(path, ids, key, cache_dir)
    rows, notes, names = opened.rows, [*opened.notes], opened.ids
    if names is None:
        names = pa.array(np.arange(rows.num_rows)).cast(pa.large_string())
        notes.append(f"{path} has no ids, and none are named: the numbers of its rows are taken, 0 to {len(names) - 1}")
    if len(names) != rows.num_rows:
        raise UsageError(f"{path} has {rows.num_rows:,} rows, but there are {len(names):,} ids ({opened.ids_from})")
    is_finite, is_zero = _look_at(rows)
    has_id = names.is_valid().to_numpy(zero_copy_only=False)
    kept = np.flatnonzero(is_finite & has_id)
    left_out = _left_out(is_finite, has_id)
    if not len(kept):
        raise UsageError(f"{path}: none of its {rows.num_rows:,} rows can be used: {left_out}")
    if left_out:
        notes.append(f"{path}: {rows.num_rows - len(kept):,} of {rows.num_rows:,} rows are left out: {left_out}")
    zeros = int(is_zero[kept].sum())
    if zeros:
        notes.append(
            f"{path}: {zeros:,} of {len(kept):,} vectors are all 0 and count as any other; NaN stands for one that is "
            "missing"
        )
    distinct, first, order = _by_id(names.take(pa.array(kept)))
    if len(distinct) < len(kept) and not views:
        example = distinct[int(np.argmax(np.diff(first) > 1))].as_py()
        raise UsageError(
            f"{path}: {len(kept) - len(distinct):,} of {len(kept):,} rows repeat an id, such as {example!r}; say "
            "views=true if they are several views of a clip, or give each row an id of its own"
        )
    return Vectors(path, rows, distinct, first, kept[order], notes)


def _by_id(names: pa.Array) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Distinct ids (I,) in ascending order, where their rows begin (I + 1,), and the rows (R,) by id."""
    encoded = names.dictionary_encode()
    ascending = pc.array_sort_indices(encoded.dictionary)
    place = np.empty(len(ascending), np.int64)
    place[ascending.to_numpy()] = np.arange(len(ascending))
    of_row = place[encoded.indices.to_numpy()]
    counts = np.bincount(of_row, minlength=len(ascending))
    first = np.concatenate([[0], np.cumsum(counts)])
    return encoded.dictionary.take(ascending), first, np.argsort(of_row, kind="stable")


def _look_at(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row is finite, and whether it is all zero: (R,) bool each."""
    is_finite, is_zero = np.zeros(rows.num_rows, bool), np.zeros(rows.num_rows, bool)
    for block in blocks(rows.num_rows, rows.num_dims, BLOCK_BYTES):
        values = rows.read(np.arange(block.start, block.stop))
        is_finite[block], is_zero[block] = np.isfinite(values).all(1), ~values.any(1)
    return is_finite, is_zero


def _left_out(is_finite: np.ndarray, has_id: np.ndarray) -> str:
    """How many rows are no vectors and why; empty where all are."""
    not_finite, nameless = int((~is_finite).sum()), int((is_finite & ~has_id).sum())
    parts = [f"{not_finite:,} have numbers that are not finite (NaN, Inf, or beyond float32)"] if not_finite else []
    return ", ".join(parts + ([f"{nameless:,} have no id"] if nameless else []))
