"""The table of labelling.table: somebody's labels, or the clips of a run whose clusters a person gave names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from selavi.errors import UsageError
from selavi.id_tables import IdTable, choose_delimiter, open_table, read_table
from selavi.results.labels import read_labels
from selavi.results.naming import REJECTED, HeadNames, named_head, read_names
from selavi.runs.folder import RunFolder


def read_given(path: Path) -> IdTable:
    """Read the columns id and cluster, and head where it is there; of a names.csv, its named clips with their names.

    Raises:
        UsageError: there is no such file, it cannot be read, or lacks a column; a names.csv lies in no run's folder, or
            names nothing.
    """
    if not path.is_file():
        raise UsageError(
            f"labelling.table={path}: there is no such file; give a table (CSV, Parquet) with the columns id and "
            "cluster, or the names.csv of a run"
        )
    if is_names(path):
        return named_clips(path)
    return read_table(path, ["id", "cluster"], ["head"])


def is_names(path: Path) -> bool:
    """Whether a file is a names.csv, by its header: decisions about clusters in place of clips."""
    file = open_table(path)
    if file is None:
        return False
    _, header = next(file.rows(choose_delimiter(file, ("head", "cluster", "id", "into"))), (1, []))
    return {"head", "cluster", "into"} <= {cell.strip() for cell in header}


def named_clips(path: Path) -> IdTable:
    """The clips of a run that its names.csv gives a name: those of named clusters, of all splits that were labelled.

    Merges are followed, moved clips are where they were moved to, and rejected ones are left out.

    Args:
        path: of the names.csv, in the run's folder.

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
    splits = [read_labels(path.parent, file.stem) for file in files]
    head = named_head(names, max(labels.clusters.shape[1] for labels in splits))
    clusters = {clip_id: cluster for labels in splits for clip_id, cluster in labels.cluster_of(head).items()}
    decisions = names.of(head)
    called = [_name_of(clip_id, cluster, decisions, path) for clip_id, cluster in clusters.items()]
    is_named = [bool(name) for name in called]
    ids = pa.array(clusters, pa.large_string())
    columns = pa.table({"id": ids, "cluster": pa.array(called, pa.large_string())})
    notes = [f"names of head {head}: {sum(is_named)} of {len(clusters)} clips have one"]
    return IdTable(columns.filter(pa.array(is_named)), notes)


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
