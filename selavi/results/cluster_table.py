"""The cluster table: one row a clip and head, the same schema in Parquet and CSV."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from selavi.atomic import write_atomically
from selavi.guarded.parquet import parquet_writer, write_parquet
from selavi.results.labels import SplitLabels
from selavi.runs.folder import RunFolder

CLUSTER_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("head", pa.int32(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("margin", pa.float32(), nullable=False),
        pa.field("entropy", pa.float32(), nullable=False),
        pa.field("rank_in_cluster", pa.int32(), nullable=False),
        pa.field("modality_agreement", pa.float32()),
        pa.field("label", pa.string()),
        pa.field("end_s", pa.float64()),
    ]
)
"""Column by column: id and path of the clip, and where in its recording it begins (seconds); head and cluster; the
cluster's name, null until a person names it; confidence, margin and entropy (nats) of the clip's normalised plan row;
rank_in_cluster, 0 for the most confident clip of its head and cluster; modality_agreement, null with one modality; the
clip's label or null; where in its recording it ends (seconds), null where nobody has looked."""

_ROWS_AT_ONCE = 1_000_000
_MANIFEST_COLUMNS = ("id", "path", "label", "start_s", "end_s", "duration_s")


class ClusterTables:
    """The labels of a run joined with its manifest, the clips of each cluster ranked: a table for each head.

    A head takes memory while its table is made, so that one does not need room for all.

    Args:
        labels: of the clips of a split.
        manifest: one row a clip: id, path, label, start_s, end_s, duration_s, ...; rows without labels are left out.

    Raises:
        ValueError: a column is missing, an id occurs twice in the manifest, or one is not there.
    """

    def __init__(self, labels: SplitLabels, manifest: pa.Table) -> None:
        missing = [name for name in _MANIFEST_COLUMNS if name not in manifest.column_names]
        if missing:
            raise ValueError(
                f"the manifest table lacks the columns {missing}: expected {list(_MANIFEST_COLUMNS)}, got "
                f"{manifest.column_names}"
            )
        self._labels, self._manifest = labels, manifest.select(list(_MANIFEST_COLUMNS))
        self._places = _places_of_clips(labels.ids, manifest)
        self._id_ranks = _ranks_of(labels.ids)

    def of_head(self, head: int) -> pa.Table:
        """A table of CLUSTER_SCHEMA, sorted by cluster and rank.

        Raises:
            UsageError: there is no such head, or the labels lack a column.
        """
        columns = self._labels.of_head(head)
        clusters, confidence = columns["cluster"], columns["confidence"]
        order = _order(np.arange(len(clusters)), self._id_ranks, clusters, confidence)
        clips = _take(self._manifest, self._places[order])
        kept = {
            "id": clips["id"],
            "path": clips["path"],
            "start_s": clips["start_s"],
            "end_s": pc.coalesce(clips["end_s"], clips["duration_s"]),
            "head": pa.array(np.full(len(order), head, np.int32)),
            "name": pa.nulls(len(order), pa.string()),
            "rank_in_cluster": _ranks(np.zeros(len(order), np.int32), clusters[order]),
            "label": clips["label"],
        }
        kept |= {name: pa.array(values[order], from_pandas=True) for name, values in columns.items()}
        return pa.table({name: kept[name] for name in CLUSTER_SCHEMA.names}).cast(CLUSTER_SCHEMA)


def rank_clips(table: pa.Table) -> pa.Table:
    """Sort a cluster table by head, cluster, confidence (falling) and id, and number rank_in_cluster anew."""
    heads, clusters, confidence = (table[name].to_numpy() for name in ("head", "cluster", "confidence"))
    id_ranks = _ranks_of(table["id"])
    of_heads = [_order(np.flatnonzero(heads == head), id_ranks, clusters, confidence) for head in np.unique(heads)]
    table = _take(table, np.concatenate([np.zeros(0, np.int64), *of_heads]))
    ranks = pa.array(_ranks(table["head"].to_numpy(), table["cluster"].to_numpy()).astype(np.int32))
    place = table.column_names.index("rank_in_cluster")
    return table.set_column(place, table.schema.field("rank_in_cluster"), ranks)


def _order(rows: np.ndarray, id_ranks: np.ndarray, clusters: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Rows of one head by cluster, confidence (falling; what is no number comes last) and id.

    Args:
        rows: (n,) of R rows.
        id_ranks: (R,) numbers that are in the order of the ids.
        clusters: (R,) int.
        confidence: (R,) float.
    """
    if len(clusters) and clusters.min() >= 0 and clusters.max() < 1 << 16:
        clusters = clusters.astype(np.uint16)  # numpy sorts these by counting
    for keys in (id_ranks, -confidence, clusters):  # the last one counts most
        own = keys[rows]
        if (own[1:] < own[:-1]).any() or own.dtype.kind == "f":
            rows = rows[np.argsort(own, kind="stable")]
    return rows


def _ranks_of(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(N,) numbers in the order of N ids."""
    ids = ids.cast(pa.large_string())
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    ranks = np.arange(len(ids))
    if not pc.all(pc.less_equal(ids[:-1], ids[1:]), min_count=0).as_py():  # a scan gives them in order
        ranks[pc.array_sort_indices(ids).to_numpy()] = np.arange(len(ids))
    return ranks


def _take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """table.take on several threads, and also where the texts of a column have more than 2 GB together."""
    fields = [field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field for field in table.schema]
    wide = table.cast(pa.schema(fields)).combine_chunks()

    def block(first: int) -> pa.Table:
        return wide.take(pa.array(rows[first : first + _ROWS_AT_ONCE])).cast(table.schema)

    with ThreadPoolExecutor(pa.cpu_count()) as pool:
        return pa.concat_tables(pool.map(block, range(0, max(len(rows), 1), _ROWS_AT_ONCE)))


def write_cluster_tables(
    tables: Iterable[pa.Table], run_dir: Path, *, spreadsheet_safe: bool = False
) -> tuple[Path, Path]:
    """Write RUN/clusters.parquet and its twin RUN/clusters.csv, table by table; see write_table.

    Args:
        tables: of CLUSTER_SCHEMA, one after the other; each can be forgotten before the next one comes.
        run_dir: the run's folder.
        spreadsheet_safe: see write_table.

    Returns:
        The two paths.
    """
    folder = RunFolder(run_dir)
    with (
        write_atomically(folder.clusters_csv) as csv_path,
        parquet_writer(folder.clusters, CLUSTER_SCHEMA) as parquet,
        pa_csv.CSVWriter(csv_path, CLUSTER_SCHEMA) as csv,
    ):
        for table in tables:
            parquet.write_table(table)
            csv.write_table(safe_in_spreadsheets(table) if spreadsheet_safe else table)
    return folder.clusters, folder.clusters_csv


def write_table(table: pa.Table, path: Path, *, spreadsheet_safe: bool = False) -> None:
    """Write a table as Parquet or CSV, by the suffix of `path`, whole or not at all.

    The CSV (UTF-8, one header row, lines end with a line feed) holds every text between quotes and null as nothing
    between two commas, so any text comes back as it was.  A column `nearest`, a list of (cluster, probability) a
    row, becomes the columns nearest_1, probability_1, nearest_2 ...; the first row tells how many.

    Args:
        table: of any columns; in CSV none may be nested but `nearest`.
        path: ends with .parquet or .csv.
        spreadsheet_safe: put a ' before each text of a CSV that begins with =, +, -, @, a tab or a carriage return,
            which a spreadsheet may take for a formula and run.  Off by default, as such ids (those of YouTube begin
            with '-' at times) are then no longer the ids.

    Raises:
        ValueError: another suffix, or spreadsheet_safe for Parquet.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"expected a path that ends with .parquet or .csv, got {path}")
    if path.suffix == ".parquet" and spreadsheet_safe:
        raise ValueError(f"spreadsheet_safe is for CSV, got {path}: Parquet holds texts as they are")
    if path.suffix == ".parquet":
        write_parquet(table, path)
        return
    flat = _flat(table)
    flat = safe_in_spreadsheets(flat) if spreadsheet_safe else flat
    with write_atomically(path) as temporary:
        pa_csv.write_csv(flat, temporary)


def safe_in_spreadsheets(table: pa.Table) -> pa.Table:
    """Put a ' before each text that begins with =, +, -, @, a tab or a carriage return."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            safe = pc.replace_substring_regex(table[field.name], r"^([=+\-@\t\r])", r"'\1")
            table = table.set_column(place, field, safe)
    return table


def _flat(table: pa.Table) -> pa.Table:
    """The table with two columns for each rank of `nearest`, where it has that column."""
    if "nearest" not in table.column_names:
        return table
    nearest = table["nearest"].combine_chunks()
    table = table.drop_columns(["nearest"])
    for rank in range(len(nearest[0]) if len(nearest) else 0):
        item = pc.list_element(nearest, rank)
        table = table.append_column(f"nearest_{rank + 1}", pc.struct_field(item, "cluster"))
        table = table.append_column(f"probability_{rank + 1}", pc.struct_field(item, "probability"))
    return table


def _places_of_clips(ids: pa.Array, manifest: pa.Table) -> np.ndarray:
    """(N,) the row of the manifest of each of N clips.

    Raises:
        ValueError: an id occurs twice in the manifest, or is not there.
    """
    num_recordings = manifest.num_rows
    doubled = num_recordings - pc.count_distinct(manifest["id"], mode="all").as_py()
    if doubled:
        raise ValueError(f"{doubled} of {num_recordings} manifest rows repeat an id: scan the media again")
    scanned = manifest["id"].cast(pa.large_string()).combine_chunks()
    places = pc.index_in(ids, value_set=scanned)
    unknown = ids.filter(places.is_null())
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} of {len(ids)} labelled clips are not in the manifest of {num_recordings} "
            f"recordings, for example {unknown[0].as_py()!r}: labels and manifest must come from the same run"
        )
    return places.to_numpy().astype(np.int64)


def _ranks(heads: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Number the rows of each run of equal (head, cluster) from 0, rows being sorted by both."""
    rows = np.arange(heads.size)
    starts = np.ones(heads.size, dtype=bool)
    starts[1:] = (heads[1:] != heads[:-1]) | (clusters[1:] != clusters[:-1])
    return rows - np.maximum.accumulate(np.where(starts, rows, 0))
