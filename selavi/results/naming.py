"""What a person decided about the clusters (names, merges, clips moved or rejected): names.csv, read and applied.

The gallery's page writes the file and this module lays it over a cluster table.  One row is one decision, about a
cluster (`id` empty) or about one clip:

    head,cluster,id,name,into,rejected
    0,12,,dog,,              cluster 12 of head 0 is called dog
    0,7,,,12,                cluster 7 is merged into 12
    0,3,,,,1                 cluster 3 is rejected
    0,12,a/b.mp4,,300,       one clip of cluster 12 moves to 300, a new cluster where the head has fewer
    0,300,,puppy,,           ... which is called puppy
    0,12,a/c.mp4,,,1         one clip of cluster 12 is rejected
    0,12,a/d.mp4,,12,        one clip is confirmed: it is right in cluster 12
"""

import csv
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.atomic import write_text
from selavi.errors import UsageError
from selavi.id_tables import choose_delimiter, describe_delimiter, describe_empty, fit_row, open_table
from selavi.ids import explain_missing, find_ids
from selavi.results.cluster_table import rank_clips

log = logging.getLogger("selavi")

COLUMNS = ("head", "cluster", "id", "name", "into", "rejected")
REJECTED = -1
"""The cluster of a rejected clip, in tables."""

_MAX_NUMBER = 2**31 - 1
_REJECTED = {"1": True, "true": True, "": False, "0": False, "false": False}  # a spreadsheet writes TRUE
_ROWS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class HeadNames:
    """The decisions about one head.

    Attributes:
        name: names by cluster; no empty one is in it.
        into: the cluster that another is merged into, as written: chains are not followed.
        rejected: clusters.
        clips: by id, the cluster that the clip was in and the one it was moved to (REJECTED: none).
    """

    name: dict[int, str] = field(default_factory=dict)
    into: dict[int, int] = field(default_factory=dict)
    rejected: set[int] = field(default_factory=set)
    clips: dict[str, tuple[int, int]] = field(default_factory=dict)

    def final(self, cluster: int) -> int:
        """Where the merges lead; REJECTED where that cluster is rejected."""
        while cluster in self.into:
            cluster = self.into[cluster]
        return REJECTED if cluster in self.rejected else cluster


@dataclass(frozen=True)
class Names:
    """The rows of a names.csv.

    Attributes:
        rows: in the file's order, each with head, cluster, id (None: about a cluster), name ("": none), into (None:
            none) and rejected (a bool).

    Raises:
        UsageError: the rows contradict each other, as described at read_names.
    """

    rows: list[dict[str, Any]]

    def __post_init__(self) -> None:
        for index, column, problem in _problems(self.rows):
            raise UsageError(f"row {index + 1} of the names, column {column}: {problem}")

    def of(self, head: int) -> HeadNames:
        """The decisions about one head."""
        return self._by_head.get(head, HeadNames())

    def final_cluster(self, head: int, clusters: np.ndarray) -> np.ndarray:
        """The clusters of any shape after merges and rejections (REJECTED); decisions about clips play no part."""
        heads = np.full(clusters.size, head, np.int64)
        return self._final(_keys(heads, clusters.reshape(-1))).reshape(clusters.shape).astype(clusters.dtype)

    def name(self, head: int, cluster: int) -> str | None:
        """The name of a final cluster."""
        return self.of(head).name.get(int(cluster))

    @cached_property
    def _by_head(self) -> dict[int, HeadNames]:
        heads: dict[int, HeadNames] = {}
        for row in self.rows:
            decisions = heads.setdefault(row["head"], HeadNames())
            cluster, into, rejected = row["cluster"], row["into"], row["rejected"]
            if row["id"] is not None:
                if into is not None or rejected:
                    decisions.clips[row["id"]] = (cluster, REJECTED if rejected else into)
                continue
            if row["name"]:
                decisions.name[cluster] = row["name"]
            if into is not None:
                decisions.into[cluster] = into
            if rejected:
                decisions.rejected.add(cluster)
        return heads

    def _final(self, keys: np.ndarray) -> np.ndarray:
        """Final clusters of (N,) keys."""
        changed = {
            _key(head, cluster): decisions.final(cluster)
            for head, decisions in self._by_head.items()
            for cluster in {*decisions.into, *decisions.rejected}
        }
        final = keys & _MAX_NUMBER
        final[keys < 0] = REJECTED
        is_changed, values = _look_up(changed, keys)
        final[is_changed] = values
        return final


def read_names(path: Path) -> Names:
    """Read a names.csv, also as a spreadsheet saves it: see selavi.id_tables.

    The columns may stand in any order; those but head and cluster may be left out.  `rejected` is 1, TRUE, 0, FALSE or
    empty.

    Raises:
        UsageError: the file cannot be read or a cell is wrong; the message names its line and column.  Wrong are:
            unknown or missing columns, rows of another length, what is not a number where one belongs, `rejected`
            that is no such word, two rows about one cluster or one clip, a row that both moves and rejects, a name
            for one clip, merges that lead back to where they begin.
    """
    file = open_table(path)
    if file is None:
        raise UsageError(f"{path} is Parquet; expected CSV with the columns {','.join(COLUMNS)}")
    delimiter = choose_delimiter(file, COLUMNS)
    empty: list[int] = []
    lines, rows = [], []
    cells_of_rows = file.rows(delimiter, empty)
    line, header = next(cells_of_rows, (1, []))
    columns = _check_header(path, line, [cell.strip() for cell in header])
    for line, cells in cells_of_rows:
        fit_row(str(path), line, cells, len(header))
        try:
            row = _read_row(dict(zip(columns, cells, strict=False)))
        except _CellError as error:
            raise UsageError(f"{path}, line {line}, column {error.column}: {error.problem}") from None
        lines.append(line)
        rows.append(row)
    for note in (describe_delimiter(file, delimiter), describe_empty(str(path), empty)):
        if note:
            log.warning(note)
    for index, column, problem in _problems(rows, lines):
        raise UsageError(f"{path}, line {lines[index]}, column {column}: {problem}")
    return Names(rows)


def named_head(names: Names, num_heads: int) -> int:
    """The head whose clusters were named: the one with the most decisions.

    Raises:
        UsageError: none of the run's heads has a cluster with a name.
    """
    counts = {head: len(names.of(head).name) for head in range(num_heads)}
    best = max(counts, key=lambda head: (counts[head], -head))
    if not counts[best]:
        raise UsageError(
            f"no cluster has a name in the names that were given, of heads 0 to {num_heads - 1}; name clusters on the "
            "run's page, and save its names.csv"
        )
    return best


def decision(
    head: int, cluster: int, name: str = "", *, clip_id: str | None = None, rejected: bool = False
) -> dict[str, Any]:
    """A row of Names about a cluster, or about one of its clips, that merges and moves nothing."""
    return {"head": head, "cluster": cluster, "id": clip_id, "name": name, "into": None, "rejected": rejected}


def write_names(names: Names, path: Path) -> None:
    """Write a names.csv that read_names gives back row by row, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in names.rows:
        into = "" if row["into"] is None else row["into"]
        writer.writerow(
            [row["head"], row["cluster"], row["id"] or "", row["name"], into, "1" if row["rejected"] else ""]
        )
    write_text(path, text.getvalue())


def apply_names(table: pa.Table, names: Names) -> pa.Table:
    """Lay the decisions over a cluster table of one head or several.

    A clip that was moved goes where it was moved to, any other where its cluster goes; from there merges are
    followed to their end.  What ends in a rejected cluster, and a rejected clip, has cluster REJECTED and no name.
    Rows about heads or clips that the table does not hold change nothing.

    Args:
        table: one row a clip and head, with at least the columns of selavi.results.cluster_table.CLUSTER_SCHEMA,
            clusters as the labelling gave them.
        names: the decisions.

    Returns:
        The same columns and clips, sorted by head, cluster and rank, which are renewed.

    Raises:
        UsageError: a row is about a clip of one cluster, and the table has that clip in another.
    """
    heads = table["head"].to_numpy().astype(np.int64)
    before = table["cluster"].to_numpy().astype(np.int64)
    after = names._final(_keys(heads, before))

    rows, was, moved_to = _clip_edits(table, heads, names)
    wrong = np.flatnonzero(before[rows] != was)
    if wrong.size:
        row, expected = int(rows[wrong[0]]), int(was[wrong[0]])
        raise UsageError(
            f"the names speak of {wrong.size} clips in clusters that they are not in, for example "
            f"{table['id'][row].as_py()!r} in cluster {expected} of head {heads[row]}, which is in {before[row]}: "
            "they belong to other labels (of another run or split, or from before more training)"
        )
    after[rows] = moved_to

    table = table.set_column(
        table.column_names.index("cluster"), table.schema.field("cluster"), pa.array(after.astype(np.int32))
    )
    name = _names_of(names, _keys(heads, after))
    return rank_clips(table.set_column(table.column_names.index("name"), table.schema.field("name"), name))


def _clip_edits(table: pa.Table, heads: np.ndarray, names: Names) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the table that are about an edited clip, (M,), with its cluster in the file and its final one."""
    by_head = names._by_head
    ids = {clip_id: index for index, clip_id in enumerate(dict.fromkeys(i for h in by_head.values() for i in h.clips))}
    edits = {
        _key(head, ids[clip_id]): (was, decisions.final(into))
        for head, decisions in by_head.items()
        for clip_id, (was, into) in decisions.clips.items()
    }
    indices = pc.index_in(table["id"], value_set=_spelt_as_in(table["id"], list(ids)))
    rows = np.flatnonzero(indices.is_valid().to_numpy())
    keys = _keys(heads[rows], indices.take(pa.array(rows)).to_numpy().astype(np.int64))
    is_edited, was = _look_up({key: edit[0] for key, edit in edits.items()}, keys)
    _, moved_to = _look_up({key: edit[1] for key, edit in edits.items()}, keys)
    return rows[is_edited], was, moved_to


def _spelt_as_in(table_ids: pa.ChunkedArray, ids: list[str]) -> pa.Array:
    """The ids as the table has them, which may be in another Unicode form; those that it does not have stay."""
    match = find_ids(pa.array(ids, pa.string()), table_ids)
    spelt = [
        clip_id if place < 0 else table_ids[place].as_py() for clip_id, place in zip(ids, match.place, strict=True)
    ]
    missing = [clip_id for clip_id, place in zip(ids, match.place, strict=True) if place < 0]
    similar = explain_missing(missing, pc.unique(table_ids).to_pylist()) if missing else ""
    if similar:
        log.warning(f"the names speak of clips that are not here in this spelling, and change nothing there: {similar}")
    return pa.array(spelt, pa.string())


def _names_of(names: Names, keys: np.ndarray) -> pa.ChunkedArray:
    """The name for each of (N,) keys, null where it has none."""
    by_head = names._by_head
    texts = {
        _key(head, cluster): name for head, decisions in by_head.items() for cluster, name in decisions.name.items()
    }
    values = pa.array(list(texts.values()), pa.string())
    index_of = {key: index for index, key in enumerate(texts)}
    chunks = []
    for start in range(0, max(keys.size, 1), _ROWS_AT_ONCE):  # an array of strings holds 2 GB at most
        part = keys[start : start + _ROWS_AT_ONCE]
        is_named, positions = _look_up(index_of, part)
        indices = np.zeros(part.size, np.int64)
        indices[is_named] = positions
        missing = np.ones(part.size, dtype=bool)
        missing[is_named] = False
        chunks.append(values.take(pa.array(indices, mask=missing)))
    return pa.chunked_array(chunks, pa.string())


def _key(head: int, number: int) -> int:
    return head << 32 | number


def _keys(heads: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """One (N,) int64 for a head and a number below 2^31; negative where the number is (a rejected cluster)."""
    numbers = numbers.astype(np.int64)
    return np.where(numbers < 0, REJECTED, heads << 32 | numbers)


def _look_up(values: dict[int, int], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the (N,) keys that `values` has, and their values; O(N log M)."""
    if not values:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    sorted_keys = np.array(sorted(values), np.int64)
    sorted_values = np.array([values[key] for key in sorted_keys.tolist()], np.int64)
    places = np.minimum(np.searchsorted(sorted_keys, keys), sorted_keys.size - 1)
    positions = np.flatnonzero(sorted_keys[places] == keys)
    return positions, sorted_values[places[positions]]


class _CellError(Exception):
    def __init__(self, column: str, problem: str) -> None:
        super().__init__(problem)
        self.column, self.problem = column, problem


def _check_header(path: Path, line: int, columns: list[str]) -> list[str]:
    while columns and not columns[-1]:
        columns = columns[:-1]
    unknown = [column for column in columns if column not in COLUMNS]
    missing = [column for column in COLUMNS[:2] if column not in columns]
    doubled = [column for column in COLUMNS if columns.count(column) > 1]
    if unknown or missing or doubled:
        faults = (("unknown", unknown), ("missing", missing), ("twice", doubled))
        problems = "; ".join(f"{what}: {', '.join(map(repr, which))}" for what, which in faults if which)
        raise UsageError(f"{path}, line {line}: expected the columns {','.join(COLUMNS)}; {problems}")
    return columns


def _read_row(cells: dict[str, str]) -> dict[str, Any]:
    for column in ("head", "cluster", "into"):
        cell = cells.get(column, "")
        if cell == "" and column == "into":
            continue
        if not re.fullmatch(r"[0-9]{1,10}", cell) or int(cell) > _MAX_NUMBER:
            raise _CellError(column, f"expected a whole number from 0 to {_MAX_NUMBER}, got {_shown(cell)}")
    rejected = _REJECTED.get(cells.get("rejected", "").lower())
    if rejected is None:
        raise _CellError("rejected", f"expected 1 or nothing, got {_shown(cells['rejected'])}")
    return {
        "head": int(cells["head"]),
        "cluster": int(cells["cluster"]),
        "id": cells.get("id") or None,
        "name": cells.get("name", ""),
        "into": int(cells["into"]) if cells.get("into") else None,
        "rejected": rejected,
    }


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:40] + "…")


def _problems(rows: list[dict[str, Any]], lines: list[int] | None = None) -> Iterator[tuple[int, str, str]]:
    """Yield (row, column, problem) where rows contradict themselves or each other."""
    seen: dict[tuple[int, int | str], int] = {}
    merges: dict[tuple[int, int], tuple[int, int]] = {}
    for index, row in enumerate(rows):
        head, cluster, clip_id, into = row["head"], row["cluster"], row["id"], row["into"]
        about = f"cluster {cluster}" if clip_id is None else f"clip {_shown(clip_id)}"
        first = seen.setdefault((head, cluster if clip_id is None else clip_id), index)
        if first != index:
            place = f"row {first + 1}" if lines is None else f"line {lines[first]}"
            column = "cluster" if clip_id is None else "id"
            yield index, column, f"a second row about {about} of head {head}; the first is {place}"
        if clip_id is not None and row["name"]:
            yield index, "name", f"expected nothing in a row about one clip, got {_shown(row['name'])}"
        if into is not None and row["rejected"]:
            yield index, "rejected", f"{about} cannot both be rejected and go into cluster {into}"
        if clip_id is None and into is not None:
            merges[head, cluster] = (into, index)
    yield from _cycles(merges)


def _cycles(merges: dict[tuple[int, int], tuple[int, int]]) -> Iterator[tuple[int, str, str]]:
    """Yield a problem for each ring of merges, at its last row."""
    done: set[tuple[int, int]] = set()
    for start in merges:
        path: list[tuple[int, int]] = []
        here: dict[tuple[int, int], int] = {}
        at = start
        while at in merges and at not in done and at not in here:
            here[at] = len(path)
            path.append(at)
            at = (at[0], merges[at][0])
        if at in here:
            ring = path[here[at] :]
            last = max(merges[place][1] for place in ring)
            way = " -> ".join(str(cluster) for _, cluster in [*ring, ring[0]])
            yield last, "into", f"merges of head {at[0]} lead back to where they begin: {way}"
        done.update(path)
