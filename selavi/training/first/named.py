"""The table of labelling.table: somebody's labels, or the clips of a run whose clusters a person gave names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from selavi.errors import UsageError
from selavi.id_tables import TableBlocks, choose_delimiter, open_table, table_blocks
from selavi.results.labels import blocks_of_head, count_heads
from selavi.results.naming import REJECTED, HeadNames, named_head, read_names
from selavi.runs.folder import RunFolder


def open_given(path: Path) -> TableBlocks:
    """The columns id and cluster, and head where it is there; of a names.csv, its named clips with their names.

    Raises:
        UsageError: there is no such file, or it cannot be read; while its blocks are read, also that it lacks a column,
            or, of a names.csv, that it lies in no run's folder, or names nothing.
    """
    if not path.is_file():
        raise UsageError(
            f"labelling.table={path}: there is no such file; give a table (CSV, Parquet) with the columns id and "
            "cluster, or the names.csv of a run"
        )
    if is_names(path):
        return partial(named_clips, path)
    return partial(table_blocks, path, columns=["id", "cluster"], optional=["head"])


def is_names(path: Path) -> bool:
    """Whether a file is a names.csv, by its header: decisions about clusters in place of clips."""
    file = open_table(path)
    if file is None:
        return False
    _, header = next(file.rows(choose_delimiter(file, ("head", "cluster", "id", "into"))), (1, []))
    return {"head", "cluster", "into"} <= {cell.strip() for cell in header}


def named_clips(path: Path, notes: list[str]) -> Iterator[pa.Table]:
    """Yield the clips that its names.csv gives a name: those of named clusters, of all splits that were labelled.

    Merges are followed, moved clips are where they were moved to, and rejected ones are left out.

    Args:
        path: of the names.csv, in the run's folder.
        notes: gets how many clips have a name.

    Raises:
        UsageError: there are no labels of a run beside it, or it gives no cluster a name.
    """
    names = read_names(path)
    files = sorted(RunFolder(path.parent).labels("").parent.glob("*.parquet"))
    if not files:
        raise UsageError(
            f"labelling.table={path} says which clusters have a name, and which clips they hold is to stand in "
            f"{path.parent}/labels, where there is nothing: name the names.csv in its run's folder, or a table of your "
            "own with the columns id and cluster"
        )
    head = named_head(names, max(count_heads(path.parent, file.stem) for file in files))
    decisions = names.of(head)
    num_named = num_clips = 0
    for file in files:
        for ids, clusters in blocks_of_head(path.parent, file.stem, head):
            clips = zip(ids.to_pylist(), clusters.tolist(), strict=True)
            called = [_name_of(clip_id, cluster, decisions, path) for clip_id, cluster in clips]
            is_named = [bool(name) for name in called]
            block = pa.table({"id": ids, "cluster": pa.array(called, pa.large_string())})
            yield block.filter(pa.array(is_named))
            num_named += sum(is_named)
            num_clips += len(ids)
    notes.append(f"names of head {head}: {num_named} of {num_clips} clips have one")


def _name_of(clip_id: str, cluster: int, decisions: HeadNames, path: Path) -> str:
    """The name of a clip; empty where it has none."""
    if clip_id in decisions.clips:
        was, into = decisions.clips[clip_id]
        if was != cluster:
            raise UsageError(
                f"labelling.table={path} says that {clip_id} was in cluster {was}, and its run has it in {cluster}: "
                "these are the names of other labels"
            )
        cluster = into
    final = REJECTED if cluster == REJECTED else decisions.final(cluster)
    return decisions.name.get(final, "")
