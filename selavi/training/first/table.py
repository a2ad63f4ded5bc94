"""Clusters that somebody brings, as the labels of a run's clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from selavi.errors import UsageError
from selavi.id_tables import IdTable, read_table
from selavi.ids import ClipIds, explain_missing, find_ids

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class TableNotes:
    """What is to be said of the labels of a table."""

    notes: list[str]
    """What was guessed or left out, a sentence each."""
    names: list[tuple[int, int, str]]
    """Head, cluster and the table's word for it, where that is not the cluster's number."""


def read_clusters(path: Path) -> IdTable:
    """Read the columns id and cluster, and head where it is there.

    Raises:
        UsageError: there is no such file, it cannot be read, or it lacks a column.
    """
    if not path.is_file():
        raise UsageError(
            f"labelling.first={path}: there is no such file; it is crafted, kmeans, random, or a table "
            "(CSV, Parquet) with the columns id and cluster"
        )
    return read_table(path, ["id", "cluster"], ["head"])


def put_table_labels(table: IdTable, name: str, ids: Sequence[str], num_clusters: int, labels: Tensor) -> TableNotes:
    """Label clips by a table of clusters; columns beyond the table's heads begin again at its first head.

    Args:
        table: of read_clusters.
        name: what messages call it, such as labelling.first=clusters.csv.
        ids: of N clips.
        num_clusters: K.
        labels: (N, H) int32, of the heads that learn; -1 is written for a clip that the table does not name.

    Raises:
        UsageError: the table names no clip, gives one two clusters, or has fewer than 2 or more than K clusters.
    """
    match = find_ids(table["id"], ClipIds(ids).array)
    filled = pc.is_valid(table["cluster"]).to_numpy()
    chosen = (match.place >= 0) & filled
    if not chosen.any():
        raise _no_clip(table, name, ids, int(filled.sum()))
    places = match.place[chosen]
    rows = table.columns.drop_columns(["id"]).filter(pa.array(chosen))
    heads, head_of_row = _heads(rows, name)
    names, num_columns = list[tuple[int, int, str]](), labels.shape[1]
    has_all = np.ones(len(ids), dtype=bool)
    for number, head in enumerate(heads):
        of_head = head_of_row == number
        clusters = rows["cluster"].filter(pa.array(of_head))
        column, numbers = _one_head(clusters, places[of_head], name, head, ids, num_clusters)
        labels[:, number :: len(heads)] = torch.from_numpy(column)[:, None]
        has_all &= column >= 0
        if number < num_columns:
            names += [(number, cluster, word) for word, cluster in numbers.items() if word != str(cluster)]
    return TableNotes(_notes(table, int((~has_all).sum()), chosen, heads, labels.shape), names)


def _heads(rows: pa.Table, name: str) -> tuple[list[str], np.ndarray]:
    """Names of the heads in their order, and the number of that of each row."""
    if "head" not in rows.column_names:
        return [""], np.zeros(len(rows), np.int64)
    if rows["head"].null_count:
        raise UsageError(f"{name}: {rows['head'].null_count} of {len(rows)} rows have no head; fill in the column head")
    encoded = rows["head"].combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda number: _as_ordered(names[number]))
    rank_of = np.argsort(order)
    return [names[number] for number in order], rank_of[encoded.indices.to_numpy()]


def _one_head(
    clusters: pa.ChunkedArray, places: np.ndarray, called: str, head: str, ids: Sequence[str], num_clusters: int
) -> tuple[np.ndarray, dict[str, int]]:
    """(N,) labels of one head; whole numbers below K stay as they are, other names are numbered in their order.

    Returns:
        The labels, and the number of each name.
    """
    where = f" under head {head}" if head else ""
    encoded = clusters.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if not 2 <= len(names) <= num_clusters:
        advice = f"set heads.num_clusters={len(names)}, or merge clusters" if len(names) > 1 else "bring a clustering"
        raise UsageError(
            f"{called} has {len(names)} cluster{'s' * (len(names) > 1)}{where}, expected 2 to "
            f"heads.num_clusters={num_clusters}; {advice}"
        )
    own_numbers = {str(number): number for number in range(num_clusters)}
    if not all(name in own_numbers for name in names):
        own_numbers = {name: number for number, name in enumerate(sorted(names, key=_as_ordered))}
    values = np.array([own_numbers[name] for name in names], np.int32)[encoded.indices.to_numpy()]
    labels = np.full(len(ids), -1, dtype=np.int32)
    labels[places] = values
    differing = np.unique(places[labels[places] != values])
    if len(differing):
        examples = ", ".join(repr(ids[place]) for place in differing[:NUM_EXAMPLES])
        advice = "" if head else ", or tell its heads apart in a column head"
        raise UsageError(
            f"{called} gives {len(differing)} clips more than one cluster{where}, such as {examples}: "
            f"keep one row a clip{advice}"
        )
    return labels, {name: own_numbers[name] for name in names}


def _no_clip(table: IdTable, name: str, ids: Sequence[str], num_filled: int) -> UsageError:
    if not num_filled:
        return UsageError(f"{name}: none of its {len(table)} rows has a cluster")
    hint = explain_missing(table["id"].drop_null().slice(0, 1000).to_pylist(), ids)
    examples = ", ".join(map(repr, table["id"].slice(0, NUM_EXAMPLES).to_pylist()))
    return UsageError(
        f"{name}: none of its {len(table)} rows names one of the {len(ids)} training clips; it has ids "
        f"such as {examples}, the run such as {ids[0]!r}{f'; {hint}' if hint else ''}; write the ids as the run does"
    )


def _notes(table: IdTable, num_without: int, chosen: np.ndarray, heads: list[str], shape: tuple[int, ...]) -> list[str]:
    notes, (num_clips, num_columns) = list(table.notes), shape
    if num_without:
        notes.append(f"{num_without} of {num_clips} clips have no cluster there, and learn none before labelling")
    if not chosen.all():
        notes.append(f"{int((~chosen).sum())} of {len(chosen)} rows are of other clips, or without a cluster")
    if len(heads) not in (1, num_columns):
        notes.append(f"it has {len(heads)} heads for {num_columns} of the run, in turn")
    return notes


def _as_ordered(name: str) -> tuple[int, int, str]:
    """A key by which numbers come first, in their order."""
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)
