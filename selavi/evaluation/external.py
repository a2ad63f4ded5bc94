"""Clusters that anyone made, scored against labels: two files that must name the same clips."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.atomic import write_text
from selavi.errors import UsageError
from selavi.id_tables import IdTable, describe_numbers, leave_out_nan, read_table
from selavi.ids import IdMatch, explain_missing, find_ids
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import bootstrap_intervals, score_contingency

LEVEL, NUM_RESAMPLES = 0.95, 200

SHOWN = {
    "nmi": "normalised mutual information, arithmetic average; equal to the V-measure",
    "ami": "the same, adjusted for chance",
    "ari": "adjusted Rand index",
    "homogeneity": "1 where each cluster holds one label",
    "completeness": "1 where each label lies in one cluster",
    "accuracy": "clusters and labels matched one to one (Hungarian)",
    "purity": "each cluster read as its commonest label: many-to-one accuracy, weighted by size",
    "left_out_accuracy": "the same, each clip judged by the others of its cluster: 0 for clusters of one clip",
    "mean_purity": "largest share of a label, mean over clusters (SeLaVi's mean maximal purity)",
    "mean_entropy": "entropy of the labels inside a cluster in nats, mean over clusters",
}


def evaluate_files(clusters_path: Path, labels_path: Path, seed: int = 0) -> dict[str, Any]:
    """Score the clusters of one file against the labels of another, and write the figures beside the first.

    Args:
        clusters_path: CSV or Parquet with the columns id and cluster, one row a clip, in any order.
        labels_path: the same with id and label; may be the same file.  Clips without a label are left out.
        seed: of the intervals.

    Returns:
        What CLUSTERS_metrics.json holds: the scores of metrics.score_contingency, the paths, the intervals by
        score (low, high, bias), level, number of resamples and seed, what was guessed or left out (notes), and
        `written`, the path of the JSON.

    Raises:
        UsageError: as read_joined, or the JSON cannot be written.
    """
    clusters, labels, notes = read_joined(clusters_path, labels_path)
    contingency = contingency_matrix(labels, clusters)
    intervals = bootstrap_intervals(contingency, num_resamples=NUM_RESAMPLES, level=LEVEL, seed=seed)
    path = clusters_path.with_name(f"{clusters_path.name.split('.')[0]}_metrics.json")
    result: dict[str, Any] = {
        "clusters": str(clusters_path),
        "labels": str(labels_path),
        "notes": notes,
        **score_contingency(contingency),
        "intervals": {name: asdict(interval) for name, interval in intervals.items()},
        "level": LEVEL,
        "num_resamples": NUM_RESAMPLES,
        "seed": seed,
    }
    try:
        write_text(path, json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}; copy {clusters_path.name} to a folder of your own") from error
    return {**result, "written": str(path)}


def read_column(path: Path, column: str) -> IdTable:
    """Read the columns `id` and `column` of a CSV or Parquet file; see selavi.id_tables.

    Every cell is taken as it is written: the ids 007 and 7 differ.

    Returns:
        id, every one once, and `column`; null where there is none.

    Raises:
        UsageError: the file cannot be read, lacks a column, holds another kind of values, or ids are missing or occur
            twice; with counts and examples.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected CSV or Parquet with the columns id and {column}")
    table = read_table(path, ["id", column])
    if not len(table):
        raise UsageError(f"{path} holds no row; expected one a clip, with the columns id and {column}")
    values = leave_out_nan(table[column], column, str(path), table.notes)
    faults = [*_missing_ids(table["id"]), *_repeated_ids(table["id"])]
    if faults:
        raise UsageError(f"{path}: " + "; ".join(faults))
    return IdTable(pa.table({"id": table["id"], column: values}), table.notes)


def read_joined(clusters_path: Path, labels_path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray, list[str]]:
    """Read both files and bring the labels into the order of the clusters.

    Returns:
        (N,) clusters and (N,) labels of the clips that have a label, and what was guessed or left out.

    Raises:
        UsageError: the files do not name the same clips, a clip has no cluster, or none has a label, with counts and
            examples; or as read_column.
    """
    clusters, labels = read_column(clusters_path, "cluster"), read_column(labels_path, "label")
    _require_clusters(clusters, clusters_path)
    match = find_ids(clusters["id"], labels["id"])
    _require_same_ids(match, clusters["id"], clusters_path, labels["id"], labels_path)
    notes = [*clusters.notes, *(note for note in labels.notes if note not in clusters.notes)]
    notes += describe_numbers(clusters["cluster"], "cluster", str(clusters_path))
    if match.num_respelt:
        notes.append(
            f"{match.num_respelt} ids of {clusters_path} and {labels_path} match in another Unicode form "
            "(composed or combining letters)"
        )
    ordered = labels["label"].take(pa.array(match.place))
    labelled = pc.is_valid(ordered)
    left_out = len(ordered) - pc.sum(labelled).as_py()
    if left_out == len(ordered):
        raise UsageError(f"none of the {left_out} clips has a label in {labels_path}; fill in the column label")
    if left_out:
        example = _examples(clusters["id"].filter(pc.invert(labelled)))
        notes.append(f"{left_out} of {len(ordered)} clips have no label and are left out, such as {example}")
    return clusters["cluster"].filter(labelled), ordered.filter(labelled), notes


def _require_clusters(clusters: IdTable, path: Path) -> None:
    missing = pc.is_null(clusters["cluster"])
    count = pc.sum(missing).as_py()
    if count:
        raise UsageError(
            f"{path}: {count} of {len(clusters)} clips have no cluster, such as "
            f"{_examples(clusters['id'].filter(missing))}: leave them out of both files, or give them one"
        )


def _require_same_ids(
    match: IdMatch, ids: pa.ChunkedArray, path: Path, others: pa.ChunkedArray, others_path: Path
) -> None:
    matched = match.place >= 0
    spoken_of = np.zeros(len(others), dtype=bool)
    spoken_of[match.place[matched]] = True
    faults, similar = [], []
    for own_ids, is_matched, other_ids, its_path, other_path in (
        (ids, matched, others, path, others_path),
        (others, spoken_of, ids, others_path, path),
    ):
        alone = own_ids.filter(pa.array(~is_matched))
        if len(alone):
            faults.append(
                f"{len(alone)} of {len(own_ids)} in {its_path} are not in {other_path}, such as {_examples(alone)}"
            )
            similar.append(explain_missing(alone.slice(0, 1000).to_pylist(), other_ids.to_pylist()))
    if faults:
        advice = (
            "write both files for the same clips" if matched.any() else "write the ids of both files in the same way"
        )
        hint = f"{similar[0]}; " if similar[0] else ""
        raise UsageError(f"the ids differ: {'; '.join(faults)}; {matched.sum()} match; {hint}{advice}")


def format_scores(result: dict[str, Any]) -> str:
    """A table to read: a score a line, with its interval and meaning, then the sizes."""
    lines = [
        f"{result['n']} clips of {result['clusters']}: {result['used_clusters']} clusters, "
        f"{result['num_labels']} labels of {result['labels']}",
        f"{'':18}{'score':>8}{result['level']:>9.0%} interval",
    ]
    for name, meaning in SHOWN.items():
        interval = result["intervals"].get(name)
        shown = "" if interval is None else f"{interval['low']:.3f} to {interval['high']:.3f}"
        lines.append(f"{name:18}{result[name]:8.3f}{shown:>18}  {meaning}")
    sizes = ", ".join(f"{result[f'size_{name}']:g} ({name})" for name in ("min", "p10", "median", "p90", "max"))
    lines.append(f"cluster sizes: {sizes}; their entropy is {result['size_entropy']:.3f} of the largest possible")
    lines.append(f"intervals: {result['num_resamples']} times as many clips drawn from these, less the bias of drawing")
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join([*lines, f"full figures: {result['written']}"])


def _missing_ids(ids: pa.ChunkedArray) -> list[str]:
    if not ids.null_count:
        return []
    rows = pc.indices_nonzero(pc.is_null(ids))
    first = ", ".join(str(row + 1) for row in rows.slice(0, 3).to_pylist())
    return [f"{ids.null_count} of {len(ids)} rows have no id, such as row {first}"]


def _repeated_ids(ids: pa.ChunkedArray) -> list[str]:
    ids = ids.drop_null()
    num_distinct = pc.count_distinct(ids).as_py()
    if num_distinct == len(ids):
        return []
    counts = pc.value_counts(ids)
    repeated = pc.struct_field(counts, "values").filter(pc.greater(pc.struct_field(counts, "counts"), 1))
    return [
        f"{len(repeated)} ids occur more than once ({len(ids)} rows, {num_distinct} ids), such as "
        f"{_examples(repeated)}: keep one row a clip (of several heads, one)"
    ]


def _examples(ids: Any) -> str:
    return ", ".join(repr(value) for value in ids.slice(0, 3).to_pylist())
