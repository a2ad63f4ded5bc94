"""The cluster table: one row a clip and head, the same schema in Parquet and CSV."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from selavi.atomic import write_atomically
from selavi.errors import UsageError
from selavi.guarded.json_file import as_written
from selavi.guarded.parquet import read_parquet, write_parquet
from selavi.runs.folder import RunFolder
from selavi.wording import command

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

LABEL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("head", pa.int32()),
        ("cluster", pa.int32()),
        ("confidence", pa.float32()),
        ("margin", pa.float32()),
        ("entropy", pa.float32()),
        ("modality_agreement", pa.float32()),
    ]
)
"""RUN/labels/SPLIT.parquet: a row for each head of each clip."""

_ROWS_AT_ONCE = 1_000_000
_LABEL_COLUMNS = ("id", "head", "cluster", "confidence", "margin", "entropy", "modality_agreement")
_KEYS = ("id", "head", "cluster")
_MANIFEST_COLUMNS = ("id", "path", "label", "start_s", "end_s", "duration_s")
_AGAIN = "make the labels again: measure this split, or train with resume=auto without status.json"


def cluster_table(labels: pa.Table, manifest: pa.Table, head: int | None) -> pa.Table:
    """Join the labels of a run with its manifest and rank the clips of each cluster.

    Args:
        labels: one row a clip and head: id, head, cluster, confidence, margin, entropy, modality_agreement.
        manifest: one row a clip: id, path, label, start_s, end_s, duration_s, ...; rows without labels are left out.
        head: the head to keep; None keeps all.

    Returns:
        A table of CLUSTER_SCHEMA, sorted by head, cluster and rank.

    Raises:
        ValueError: a column is missing, an id occurs twice, an id is not in the manifest, the heads do not
            hold the same clips, or `head` is not in the labels.
    """
    _require_columns("labels", labels, _LABEL_COLUMNS)
    _require_columns("manifest", manifest, _MANIFEST_COLUMNS)
    heads = sorted(pc.unique(labels["head"]).to_pylist())
    clip_of_row = _places_of_clips(labels, manifest)
    _require_all_clips(labels["head"].to_numpy(), clip_of_row, manifest.num_rows, heads)
    if head is not None and head not in heads:
        raise ValueError(f"expected one of the heads {heads}, got {head}")

    order = _order(labels, _ranks_of(manifest["id"])[clip_of_row], heads if head is None else [head])
    clips = _take(manifest.select(list(_MANIFEST_COLUMNS)), clip_of_row[order])
    labels = _take(labels.select([name for name in _LABEL_COLUMNS if name != "id"]), order)
    num_rows = len(order)
    columns = {
        "id": clips["id"],
        "path": clips["path"],
        "start_s": clips["start_s"],
        "end_s": pc.coalesce(clips["end_s"], clips["duration_s"]),
        "name": pa.nulls(num_rows, pa.string()),
        "rank_in_cluster": _ranks(labels["head"].to_numpy(), labels["cluster"].to_numpy()),
        "label": clips["label"],
    }
    columns.update({name: labels[name] for name in labels.column_names})
    return pa.table({name: columns[name] for name in CLUSTER_SCHEMA.names}).cast(CLUSTER_SCHEMA)


def rank_clips(table: pa.Table) -> pa.Table:
    """Sort a cluster table by head, cluster, confidence (falling) and id, and number rank_in_cluster anew."""
    heads = sorted(pc.unique(table["head"]).to_pylist())
    table = _take(table, _order(table, _ranks_of(table["id"]), heads))
    ranks = pa.array(_ranks(table["head"].to_numpy(), table["cluster"].to_numpy()).astype(np.int32))
    place = table.column_names.index("rank_in_cluster")
    return table.set_column(place, table.schema.field("rank_in_cluster"), ranks)


def _order(table: pa.Table, id_ranks: np.ndarray, heads: list[int]) -> np.ndarray:
    """The rows of some heads by head, cluster, confidence (falling; what is no number comes last) and id.

    Args:
        table: R rows with head, cluster and confidence.
        id_ranks: (R,) numbers that are in the order of the ids.
        heads: those to keep, in the order in which they come.
    """
    head_of_row, clusters, confidence = (table[name].to_numpy() for name in ("head", "cluster", "confidence"))
    if len(clusters) and clusters.min() >= 0 and clusters.max() < 1 << 16:
        clusters = clusters.astype(np.uint16)  # numpy sorts these by counting

    def of_head(head: int) -> np.ndarray:
        rows = np.flatnonzero(head_of_row == head)
        for keys in (id_ranks, -confidence, clusters):  # the last one counts most
            own = keys[rows]
            if (own[1:] < own[:-1]).any() or own.dtype.kind == "f":
                rows = rows[np.argsort(own, kind="stable")]
        return rows

    with ThreadPoolExecutor(pa.cpu_count()) as pool:  # numpy sorts without Python's lock
        return np.concatenate([np.zeros(0, np.int64), *pool.map(of_head, heads)])


def _ranks_of(ids: pa.ChunkedArray) -> np.ndarray:
    """(N,) numbers in the order of N ids."""
    ids = ids.cast(pa.large_string()).combine_chunks()
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


def read_labels(run_dir: Path, split: str) -> pa.Table:
    """Read RUN/labels/SPLIT.parquet: one row a clip and head, heads in order within a clip.

    Raises:
        UsageError: there is none; the message says how to make it.
    """
    path = RunFolder(run_dir).labels(split)
    if not path.exists():
        splits = ", ".join(sorted(file.stem for file in path.parent.glob("*.parquet"))) or "none"
        raise UsageError(
            f"{run_dir} has no labels of split {split!r} (found: {splits}); labels of the training clips "
            f"appear when training ends, others with {command('evaluate', run_dir, '--split', split)}"
        )
    return _checked_labels(read_parquet(path, advice=_AGAIN), path)


def _checked_labels(labels: pa.Table, path: Path) -> pa.Table:
    """The labels, with the columns of LABEL_SCHEMA in its kinds, a row for each head of each clip.

    Raises:
        UsageError: they are not so.
    """
    with as_written(path, _AGAIN):
        for field in LABEL_SCHEMA:
            if field.name not in labels.column_names and field.name not in _KEYS:
                continue  # whoever needs it says so
            if labels[field.name].type != field.type:
                place = labels.schema.get_field_index(field.name)
                labels = labels.set_column(place, field, labels[field.name].cast(field.type))
            if field.name in _KEYS and labels[field.name].null_count:
                raise ValueError(f"rows without {field.name}")
        heads = labels["head"].to_numpy()
        num_heads = int(heads.max()) + 1 if len(heads) else 0
        if not num_heads or len(heads) % num_heads or (heads.reshape(-1, num_heads) != np.arange(num_heads)).any():
            raise ValueError("expected a row for each head of each clip, in order")
    return labels


def assignments(labels: pa.Table) -> np.ndarray:
    """The (N, H) clusters of a table that read_labels gave."""
    return _by_head(labels, "cluster")


def probe_of(labels: pa.Table) -> np.ndarray | None:
    """The (H,) probe scores of the heads, of training clips; None in what earlier versions wrote."""
    kept = (labels.schema.metadata or {}).get(b"probe")
    return None if kept is None else np.array(json.loads(kept), dtype=np.float64)


def agreement_of_modalities(run_dir: Path, split: str) -> np.ndarray | None:
    """(N, H) modality_agreement of RUN/labels/SPLIT.parquet, NaN for a clip with one modality; None without a file."""
    if not RunFolder(run_dir).labels(split).exists():
        return None
    return _by_head(read_labels(run_dir, split), "modality_agreement")


def _by_head(labels: pa.Table, column: str) -> np.ndarray:
    num_heads = int(pc.max(labels["head"]).as_py()) + 1
    return labels[column].to_numpy().reshape(-1, num_heads)


def write_cluster_table(table: pa.Table, run_dir: Path, *, spreadsheet_safe: bool = False) -> tuple[Path, Path]:
    """Write RUN/clusters.parquet and its twin RUN/clusters.csv through write_table.

    Returns:
        The two paths.
    """
    folder = RunFolder(run_dir)
    parquet_path, csv_path = folder.clusters, folder.clusters_csv
    write_table(table, parquet_path)
    write_table(table, csv_path, spreadsheet_safe=spreadsheet_safe)
    return parquet_path, csv_path


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


def _require_columns(what: str, table: pa.Table, names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ValueError(
            f"the {what} table lacks the columns {missing}: expected {list(names)}, got {table.column_names}"
        )


def _places_of_clips(labels: pa.Table, manifest: pa.Table) -> np.ndarray:
    """(R,) the row of the manifest that each row of the labels belongs to.

    Raises:
        ValueError: an id occurs twice in the manifest, or is not there.
    """
    num_recordings = manifest.num_rows
    doubled = num_recordings - pc.count_distinct(manifest["id"], mode="all").as_py()
    if doubled:
        raise ValueError(f"{doubled} of {num_recordings} manifest rows repeat an id: scan the media again")
    ids, lengths = _runs(labels["id"])
    places = pc.fill_null(pc.index_in(ids, value_set=manifest["id"].combine_chunks()), -1).to_numpy()
    unknown = pc.unique(ids.filter(pa.array(places < 0)))
    if len(unknown):
        num_ids = pc.count_distinct(ids, mode="all").as_py()
        raise ValueError(
            f"{len(unknown)} of {num_ids} labelled clips are not in the manifest of {num_recordings} "
            f"recordings, for example {unknown[0].as_py()!r}: labels and manifest must come from the same run"
        )
    return np.repeat(places.astype(np.int64), lengths)


def _runs(ids: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Each of the ids that differs from the one before it, and how many rows it has: the heads of a clip come in a row.

    So a text is looked up once a clip, and not once for each head.
    """
    pieces = [pc.run_end_encode(piece.cast(pa.large_string()), run_end_type=pa.int64()) for piece in ids.chunks]
    values = [piece.values for piece in pieces]
    lengths = [np.diff(piece.run_ends.to_numpy(), prepend=0) for piece in pieces]
    return pa.chunked_array(values, pa.large_string()).combine_chunks(), np.concatenate(
        [np.zeros(0, np.int64), *lengths]
    )


def _require_all_clips(head_of_row: np.ndarray, clip_of_row: np.ndarray, num_rows: int, heads: list[int]) -> None:
    """Check that each head labels the same clips, and each of them once.

    Raises:
        ValueError: it does not.
    """
    num_clips = np.count_nonzero(np.bincount(clip_of_row, minlength=num_rows))
    for head in heads:
        clips = clip_of_row[head_of_row == head]
        num_distinct = np.count_nonzero(np.bincount(clips, minlength=num_rows))
        if num_distinct != len(clips):
            raise ValueError(
                f"head {head} labels {len(clips) - num_distinct} clips more than once: "
                f"{len(clips)} rows for {num_distinct} ids"
            )
        if num_distinct != num_clips:
            raise ValueError(f"head {head} labels {num_distinct} of {num_clips} clips, expected all of them")


def _ranks(heads: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Number the rows of each run of equal (head, cluster) from 0, rows being sorted by both."""
    rows = np.arange(heads.size)
    starts = np.ones(heads.size, dtype=bool)
    starts[1:] = (heads[1:] != heads[:-1]) | (clusters[1:] != clusters[:-1])
    return rows - np.maximum.accumulate(np.where(starts, rows, 0))
