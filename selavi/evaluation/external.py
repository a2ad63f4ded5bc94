"""Clusters that anyone made, scored against labels: two files that must name the same clips."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from selavi.atomic import write_text
from selavi.errors import UsageError
from selavi.evaluation.metrics import bootstrap_intervals, contingency_matrix, score_contingency

MISSING = ("", "nan", "NaN", "NA", "N/A", "<NA>", "null", "NULL")
"""Cells of a CSV that stand for no cluster or no label; an id is missing where it is empty."""

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
        labels_path: the same with id and label; may be the same file.
        seed: of the intervals.

    Returns:
        What CLUSTERS_metrics.json holds: the scores of metrics.score_contingency, the paths, the intervals by
        score (low, high, bias), level, number of resamples and seed, and `written`, the path of the JSON.

    Raises:
        UsageError: as read_joined, or the JSON cannot be written.
    """
    clusters, labels = read_joined(clusters_path, labels_path)
    contingency = contingency_matrix(labels, clusters)
    intervals = bootstrap_intervals(contingency, num_resamples=NUM_RESAMPLES, level=LEVEL, seed=seed)
    path = clusters_path.with_name(f"{clusters_path.name.split('.')[0]}_metrics.json")
    result: dict[str, Any] = {
        "clusters": str(clusters_path),
        "labels": str(labels_path),
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


def read_column(path: Path, column: str) -> pa.Table:
    """Read the columns `id` and `column` of a CSV (.tsv: tabs; .gz: compressed) or Parquet file.

    Every cell of a CSV is taken as it is written: the ids 007 and 7 differ.

    Returns:
        id, large_string, every one once, and `column`, integers or large_string, none missing.

    Raises:
        UsageError: the file cannot be read, lacks a column, holds another kind of values, or ids or values are
            missing, or ids occur twice; with counts and examples.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected CSV or Parquet with the columns id and {column}")
    try:
        table = _read_parquet(path, column) if _is_parquet(path) else _read_csv(path, column)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read as CSV (UTF-8, with a header row) or Parquet: {error}") from error
    if table.num_rows == 0:
        raise UsageError(f"{path} holds no row; expected one a clip, with the columns id and {column}")
    table = pa.table({name: _plain(path, name, table[name]) for name in ("id", column)})
    faults = [*_missing_values(table, column), *_repeated_ids(table["id"])]
    if faults:
        raise UsageError(f"{path}: " + "; ".join(faults))
    return table


def read_joined(clusters_path: Path, labels_path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Read both files and bring the labels into the order of the clusters.

    Returns:
        (N,) clusters and (N,) labels.

    Raises:
        UsageError: the files do not name the same clips, with counts and examples; or as read_column.
    """
    clusters, labels = read_column(clusters_path, "cluster"), read_column(labels_path, "label")
    rows = pc.index_in(clusters["id"], value_set=labels["id"])
    faults = []
    for path, ids, others_path, others in (
        (clusters_path, clusters["id"], labels_path, labels["id"]),
        (labels_path, labels["id"], clusters_path, clusters["id"]),
    ):
        alone = ids.filter(pc.invert(pc.is_in(ids, value_set=others)))
        if len(alone):
            faults.append(f"{len(alone)} of {len(ids)} in {path} are not in {others_path}, such as {_examples(alone)}")
    if faults:
        shared = len(rows) - rows.null_count
        advice = "write both files for the same clips" if shared else "write the ids of both files in the same way"
        raise UsageError(f"the ids differ: {'; '.join(faults)}; {shared} match; {advice}")
    return clusters["cluster"], labels["label"].take(rows)


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
    return "\n".join([*lines, f"full figures: {result['written']}"])


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _read_parquet(path: Path, column: str) -> pa.Table:
    _require_columns(path, pq.read_schema(path).names, column)
    return pq.read_table(path, columns=["id", column])


def _read_csv(path: Path, column: str) -> pa.Table:
    parse = pa_csv.ParseOptions(delimiter="\t" if ".tsv" in path.suffixes else ",")
    with pa_csv.open_csv(path, parse_options=parse) as reader:
        _require_columns(path, reader.schema.names, column)
    as_written = pa_csv.ConvertOptions(
        column_types={"id": pa.large_string(), column: pa.large_string()},
        include_columns=["id", column],
        null_values=[""],
        strings_can_be_null=True,
    )
    table = pa_csv.read_csv(path, parse_options=parse, convert_options=as_written)
    values = table[column]
    known = pc.invert(pc.is_in(values, value_set=pa.array(MISSING, pa.large_string())))
    return pa.table({"id": table["id"], column: pc.if_else(known, values, None)})


def _require_columns(path: Path, names: list[str], column: str) -> None:
    wrong = [name for name in ("id", column) if names.count(name) != 1]
    if wrong:
        raise UsageError(
            f"{path} has the columns {', '.join(names)}; expected id and {column}, once each: "
            "rename them in the header, or write them to a file of their own"
        )


def _plain(path: Path, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids and words as large_string, other integers and booleans as they are."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.large_string())
    if pa.types.is_integer(kind) or (name != "id" and pa.types.is_boolean(kind)):
        return values.cast(pa.large_string()) if name == "id" else values
    if pa.types.is_null(kind):
        return values.cast(pa.large_string())
    raise UsageError(
        f"{path}: the column {name} holds {kind}; expected integers or strings "
        "(integers become floats in pandas where some are missing: astype('Int64') keeps them)"
    )


def _missing_values(table: pa.Table, column: str) -> list[str]:
    faults = []
    if table["id"].null_count:
        rows = pc.indices_nonzero(pc.is_null(table["id"]))
        first = ", ".join(str(row + 1) for row in rows.slice(0, 3).to_pylist())
        faults.append(f"{table['id'].null_count} of {table.num_rows} rows have no id, such as row {first}")
    if table[column].null_count:
        ids = table["id"].filter(pc.is_null(table[column]))
        faults.append(
            f"{table[column].null_count} of {table.num_rows} clips have no {column}, such as {_examples(ids)}: "
            "leave them out of both files, or give them one"
        )
    return faults


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
