"""Labels of clips that a run never saw: one table a shard, and all of them merged."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import torch

from selavi.atomic import write_atomically
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config, as_dict, chosen, freedom
from selavi.errors import DataError, UsageError
from selavi.filesystem import PASSING, why_gone
from selavi.guarded.parquet import parquet_writer, read_parquet, write_parquet
from selavi.inference.predict import BatchPredictions, predict_batch
from selavi.labelling.bank import probe_of_bank
from selavi.labelling.rule import LabelRule
from selavi.modalities import kind_of, reads_sound
from selavi.model import SelaviModel
from selavi.results.cluster_table import CLUSTER_SCHEMA, safe_in_spreadsheets
from selavi.results.naming import Names
from selavi.scores.head_choice import choose_head
from selavi.tensor_files import write_tensors
from selavi.wording import command

NEAREST = pa.list_(pa.struct([("cluster", pa.int32()), ("probability", pa.float32())]))
ASSIGNED_SCHEMA = CLUSTER_SCHEMA.append(pa.field("nearest", NEAREST, nullable=False))
"""The cluster table, and for each clip the next best clusters with their share of the row that gave its cluster."""
PART_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("status", pa.string()),  # ok, or why the clip has no label: then it has one row, and nothing but its reason
        ("reason", pa.string()),
        ("head", pa.int32()),
        ("cluster", pa.int32()),  # of the labelling, before any names.csv
        ("confidence", pa.float32()),
        ("margin", pa.float32()),
        ("entropy", pa.float32()),
        ("modality_agreement", pa.float32()),
        ("nearest", NEAREST),
    ]
)
_OF_CLIP = ("id", "path", "label", "start_s", "end_s")
_AGAIN = "remove it, and run the same command again"
BY_CHOICE = ("no_audio", "silent", "no_features")
"""Statuses that are no fault of a file."""

_PARTS_AT_ONCE = 64
"""Merged into one row group."""


def settings_digest(config: Config, state: Mapping[str, torch.Tensor], rule: LabelRule) -> str:
    """16 hex digits of what a run's labels depend on: weights, the last labelling's rule, how clips are cut."""
    digest = blake2b(digest_size=8)
    # Without defaults, so that a setting that is added later leaves what was begun before as it is.
    settings = sorted((key, value) for key, value in chosen(as_dict(config)).items() if _labels_depend_on(key, config))
    digest.update(repr(settings).encode())
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for _, values in sorted(rule.tensors().items(), key=lambda entry: (entry[0] != "potentials", entry[0])):
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()


def _labels_depend_on(key: str, config: Config) -> bool:
    section = key.partition(".")[0]
    sections = {"modalities", "heads", "labelling", *config.kinds}
    return (section in sections or key in ("data.clip_s", "data.audio_policy")) and not freedom(key)


def choose_modalities(names: Sequence[str] | None, config: Config) -> list[str]:
    """Those of a run that shall count.

    Raises:
        UsageError: it was trained without one of them.
    """
    missing = [name for name in names or () if name not in config.kinds]
    if missing:
        raise UsageError(f"--modalities {missing[0]}: the run was trained on {' and '.join(config.kinds)} alone")
    return [name for name in config.kinds if not names or name in names]


def choose_columns(head: str, bank: Mapping[str, Any], config: Config, modalities: Sequence[str]) -> list[int]:
    """The columns of the label bank that `chosen`, `all` or a number means, of those that judge by some modalities.

    Args:
        head: what the user said.
        bank: of the run's checkpoint.
        config: of the run.
        modalities: that shall count.

    Raises:
        UsageError: there is no such head, or it judges by none of these modalities.
    """
    allowed = allowed_columns(config, modalities)
    if head == "all":
        return allowed
    if head == "chosen":
        probe = probe_of_bank(bank)
        scores = None if probe is None else probe[allowed]
        return [allowed[choose_head(bank["labels"].numpy()[:, allowed], probe=scores).head]]
    if not head.isdigit() or int(head) not in allowed:
        raise UsageError(
            f"--head must be `chosen`, `all` or one of {', '.join(map(str, allowed))} (of {config.num_label_heads} "
            f"heads, those that judge by {' or '.join(modalities)}), got {head!r}"
        )
    return [int(head)]


def allowed_columns(config: Config, modalities: Sequence[str]) -> list[int]:
    """Columns of the label bank whose heads judge by one of these modalities."""
    fused = config.is_fused
    return [
        column
        for column in range(config.num_label_heads)
        if fused or set(config.head_of_column(column)[0]) & set(modalities)
    ]


def part_table(
    rows: pa.Table, first_row: int, batches: Sequence[BatchPredictions], columns: Sequence[int], config: Config
) -> pa.Table:
    """The table of one shard.

    Args:
        rows: (n,) of the list: id, path, label, start_s, end_s.
        first_row: number of the first of them in the list.
        batches: predictions of all of them, in order.
        columns: (C,) of the label bank, as they were asked for.
        config: of the run.

    Returns:
        PART_SCHEMA, sorted by clip and head: a row for each head that could judge the clip, or one row with the reason.
    """
    has_evidence = torch.cat([batch.has_evidence for batch in batches]).numpy()
    errors = {row - first_row: reason for batch in batches for row, reason in batch.errors.items()}
    for row in errors:
        has_evidence[row] = False
    clips, places = np.nonzero(has_evidence)
    values = {
        name: torch.cat([getattr(batch, name) for batch in batches])[clips, places].numpy()
        for name in ("clusters", "nearest", "probabilities")
    }
    statistics = torch.cat([batch.statistics for batch in batches], 1)[:, clips, places].numpy()
    num_nearest = values["nearest"].shape[1]
    lists = pa.ListArray.from_arrays(
        np.arange(len(clips) + 1, dtype=np.int32) * num_nearest,
        pa.StructArray.from_arrays(
            [values["nearest"].ravel().astype(np.int32), values["probabilities"].ravel()],
            fields=list(NEAREST.value_type),
        ),
    )
    labelled = {
        **{name: rows[name].take(pa.array(clips)) for name in _OF_CLIP},
        "status": pa.array(["ok"] * len(clips), pa.string()),
        "head": pa.array(np.asarray(columns, np.int32)[places]),
        "cluster": pa.array(values["clusters"].astype(np.int32)),
        **{
            name: pa.array(statistics[kind], pa.float32(), from_pandas=True)  # nan: null
            for kind, name in enumerate(("confidence", "margin", "entropy", "modality_agreement"))
        },
        "nearest": lists,
    }
    lost = np.flatnonzero(~has_evidence.any(1))
    present = {name: torch.cat([batch.present[name] for batch in batches]).numpy() for name in config.kinds}
    reasons = [
        why_lost(config, errors.get(row), {name: bool(has_modality[row]) for name, has_modality in present.items()})
        for row in lost.tolist()
    ]
    bad = {
        **{name: rows[name].take(pa.array(lost)) for name in _OF_CLIP},
        "status": pa.array([status for status, _ in reasons], pa.string()),
        "reason": pa.array([reason for _, reason in reasons], pa.string()),
    }
    order = np.argsort(np.concatenate([clips, lost]), kind="stable")
    return pa.concat_tables([_filled(labelled, len(clips)), _filled(bad, len(lost))]).take(pa.array(order))


class Shards(Protocol):
    """The clips to label and the files of each shard; datamodules.loading.new_clips.ClipList."""

    out: Path
    num_clips: int
    shard_clips: int
    media_root: Path | None

    def rows_of(self, shard: int) -> pa.Table: ...
    def part(self, shard: int) -> Path: ...
    def features(self, shard: int) -> Path: ...
    def done(self) -> list[Path]: ...


def label_shards(
    model: SelaviModel,
    augment: Augment,
    batches: Iterable[ClipBatch],
    clips: Shards,
    config: Config,
    rule: LabelRule,
    settings: Mapping[str, Any],
) -> Iterator[Counter[str]]:
    """Label batches, none of which has clips of two shards, and write the files of each shard once it is whole.

    Args:
        model: in evaluation mode.
        augment: of the same configuration and device.
        batches: every clip of some shards, in order.
        clips: which shards, and where they go.
        config: of the run.
        rule: of the last labelling.
        settings: rule (balanced or likeliest), views, heads, nearest, features, and `run`, for the features' metadata.

    Yields:
        After each shard, its clips by status.
    """
    sharpness = config.plan_sharpness
    if settings["rule"] == "likeliest":
        rule, sharpness = rule.without_sizes(), 1.0
    predict = partial(
        predict_batch,
        model,
        augment,
        num_views=settings["views"],
        config=config,
        rule=rule,
        sharpness=sharpness,
        columns=settings["heads"],
        num_nearest=settings["nearest"],
    )
    predicted = (predict(batch) for batch in batches)
    for shard, group in groupby(predicted, lambda batch: int(batch.rows[0]) // clips.shard_clips):
        rows, predictions = clips.rows_of(shard), list(group)
        if settings["features"]:
            tensors = {
                name: torch.cat([batch.features[name] for batch in predictions]) for name in predictions[0].features
            }
            metadata = {"run": str(settings["run"]), "ids": json.dumps(rows["id"].to_pylist())}
            write_tensors(clips.features(shard), tensors, metadata)
        table = part_table(rows, shard * clips.shard_clips, predictions, settings["heads"], config)
        write_parquet(table, clips.part(shard))  # last: that it is there says that the shard is done
        yield _statuses(table)


def count_statuses(parts: Sequence[Path]) -> Counter[str]:
    """Clips by status."""
    return sum((_statuses(read_parquet(part, ["id", "status"], advice=_AGAIN)) for part in parts), Counter())


def _statuses(table: pa.Table) -> Counter[str]:
    counts = table.group_by("status", use_threads=False).aggregate([("id", "count_distinct")])
    return Counter(dict(zip(counts["status"].to_pylist(), counts["id_count_distinct"].to_pylist(), strict=True)))


def check_bad(counts: Counter[str], clips: Shards, allowed: float, done: str = "labelled") -> None:
    """Write OUT/bad.csv and raise where too many clips are bad; write it too where all have been seen.

    Args:
        counts: clips by status, of all of them or of those seen so far.
        clips: the whole list.
        allowed: largest share of bad ones; statuses of BY_CHOICE do not count.
        done: what happens to the others, in a word.

    Raises:
        DataError: there are more, or none of all clips has a label.
    """
    faults = {status: count for status, count in sorted(counts.items()) if status not in ("ok", *BY_CHOICE)}
    too_many, all_seen = sum(faults.values()) > allowed * clips.num_clips, counts.total() == clips.num_clips
    if too_many or all_seen:
        write_bad(clips.done(), clips.out / "bad.csv")
    if too_many:
        reasons = ", ".join(f"{count} {status}" for status, count in faults.items())
        raise DataError(
            f"{sum(faults.values())} of {clips.num_clips} files cannot be used ({reasons}), --max-bad-fraction "
            f"{allowed:g} allows {int(allowed * clips.num_clips)}: see {clips.out / 'bad.csv'}. What is {done} is "
            f"kept; the same command with a higher limit goes on{_describe_gone(faults, clips.media_root)}"
        )
    if all_seen and not counts["ok"]:
        raise DataError(f"none of the {clips.num_clips} clips can be {done}: {clips.out / 'bad.csv'} says why")


def _describe_gone(faults: Mapping[str, int], root: Path | None) -> str:
    """What to do where clips are bad because their folder has gone; empty where it is there, or there is none."""
    reason = why_gone(root) if root and not set(PASSING).isdisjoint(faults) else ""
    if not reason:
        return ""
    return (
        f". The media folder {root} is gone ({reason}): bring it back, or say data.root=NEW where it has moved; the "
        "same command tries its clips again"
    )


def write_bad(parts: Sequence[Path], path: Path) -> None:
    """Write the clips without a label as CSV: id, status, reason."""
    columns = ["id", "status", "reason"]
    schema = pa.schema([PART_SCHEMA.field(name) for name in columns])
    with write_atomically(path) as temporary, pa_csv.CSVWriter(temporary, schema) as writer:
        for part in parts:
            table = read_parquet(part, columns, advice=_AGAIN)
            writer.write_table(table.filter(pc.not_equal(table["status"], "ok")))


def describe(counts: Counter[str], paths: tuple[Path, Path], run_dir: Path, named: bool) -> str:
    """What came out, where it is and what to run next."""
    left_out = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if status != "ok")
    bad = f"; left out: {left_out} (see {paths[0].with_name('bad.csv')})" if left_out else ""
    lines = [f"{counts['ok']} clips have labels{bad}", f"table: {paths[0]}", f"       {paths[1]}"]
    if pc.any(pc.is_valid(read_parquet(paths[0], ["label"])["label"])).as_py():
        lines.append(f"Next: measure   {command('evaluate', '--clusters', paths[0], '--labels', paths[0])}")
    if not named:
        lines.append(
            f"Next: name      {command('export', run_dir)}; save its names.csv as {run_dir}/names.csv and "
            "say the same command again"
        )
    return "\n".join(lines)


def why_lost(config: Config, error: str | None, present: Mapping[str, bool]) -> tuple[str, str]:
    """Status and reason of a clip without a label."""
    if error is not None:
        status, _, reason = error.partition(": ")
        return status, reason
    if not any(present.values()) and reads_sound(config, present):
        return "silent", "no sound in the windows that were looked at"
    return next(kind_of(config, name).missing for name, is_present in present.items() if not is_present)


def _filled(columns: Mapping[str, pa.Array], num_rows: int) -> pa.Table:
    return pa.table(
        {field.name: columns.get(field.name, pa.nulls(num_rows, field.type)) for field in PART_SCHEMA},
        schema=PART_SCHEMA,
    )


def merge_parts(
    parts: Sequence[Path],
    out: Path,
    num_nearest: int,
    names: Names | None,
    *,
    sorted_by_id: bool,
    spreadsheet_safe: bool = False,
) -> tuple[Path, Path]:
    """Merge the labels of all shards, sorted by id and head, with ranks and names, into Parquet and CSV.

    The parts are read twice, a few at a time; what is held of all rows is less than 100 bytes each, for the ranks.
    Where they are not in the order of their ids the whole table is held.

    Args:
        parts: in the order of the list.
        out: folder of assignments.parquet and assignments.csv; the CSV has the columns nearest_1, probability_1 ...
        num_nearest: how many clusters each row's `nearest` has, at most.
        names: whose decisions about clusters are applied: names, merges, rejections.  Those about single clips are
            about the clips that the run was trained on.
        sorted_by_id: whether the rows are, from the first part to the last.
        spreadsheet_safe: of the CSV; see selavi.results.cluster_table.write_table.

    Returns:
        The two paths.
    """

    def pieces() -> Iterator[pa.Table]:
        source = iter(parts)
        while some := list(islice(source, _PARTS_AT_ONCE if sorted_by_id else None)):
            table = pa.concat_tables(read_parquet(part, PART_SCHEMA.names, advice=_AGAIN) for part in some)
            table = table.filter(pc.equal(table["status"], "ok"))
            if not sorted_by_id:
                table = table.sort_by([("id", "ascending"), ("head", "ascending")])
            yield table if names is None else _with_final_clusters(table, names)

    ranks = _ranks(pieces)
    paths = out / "assignments.parquet", out / "assignments.csv"
    with (
        write_atomically(paths[1]) as csv,
        parquet_writer(paths[0], ASSIGNED_SCHEMA) as parquet,
        pa_csv.CSVWriter(csv, _csv_schema(num_nearest)) as csv_writer,
    ):
        at = 0
        for piece in pieces():
            table = _assigned(piece, ranks[at : at + len(piece)], names, num_nearest)
            at += len(piece)
            parquet.write_table(table)
            flat = _flat(table, num_nearest)
            csv_writer.write_table(safe_in_spreadsheets(flat) if spreadsheet_safe else flat)
    return paths


def _ranks(pieces: Callable[[], Iterator[pa.Table]]) -> np.ndarray:
    """(N,) 0 for the most confident clip of its head and cluster, the earlier of equals first."""
    columns = [[piece[name].to_numpy() for name in ("head", "cluster", "confidence")] for piece in pieces()]
    heads, clusters, confidence = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((-confidence, clusters, heads))  # stable
    begins = np.flatnonzero(np.diff(heads[order], prepend=-2) | np.diff(clusters[order], prepend=-2))
    lengths = np.diff(begins, append=len(order))
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order)) - np.repeat(begins, lengths)
    return ranks


def _with_final_clusters(table: pa.Table, names: Names) -> pa.Table:
    heads, clusters = table["head"].to_numpy(), table["cluster"].to_numpy().copy()
    for head in np.unique(heads).tolist():
        clusters[heads == head] = names.final_cluster(head, clusters[heads == head])
    return table.set_column(table.schema.get_field_index("cluster"), PART_SCHEMA.field("cluster"), pa.array(clusters))


def _assigned(table: pa.Table, ranks: np.ndarray, names: Names | None, num_nearest: int) -> pa.Table:
    columns = {
        "rank_in_cluster": ranks,
        "name": pa.nulls(len(table), pa.string()),
        "nearest": table["nearest"],
    }
    if names is not None:
        columns |= {"name": _names(table, names), "nearest": _final_nearest(table, names, num_nearest)}
    return pa.table(
        {field.name: columns[field.name] if field.name in columns else table[field.name] for field in ASSIGNED_SCHEMA},
        schema=ASSIGNED_SCHEMA,
    )


def _names(table: pa.Table, names: Names) -> pa.Array:
    pairs = np.stack([table["head"].to_numpy(), table["cluster"].to_numpy()], 1)
    distinct, place = np.unique(pairs, axis=0, return_inverse=True)
    names_of_clusters = pa.array([names.name(head, cluster) for head, cluster in distinct.tolist()], pa.string())
    return names_of_clusters.take(pa.array(place.ravel()))


def _final_nearest(table: pa.Table, names: Names, num_nearest: int) -> pa.Array:
    """What the clusters became: without rejected ones, without the clip's own, each once."""
    nearest, num_rows = table["nearest"].combine_chunks(), len(table)
    heads, clusters = table["head"].to_numpy(), table["cluster"].to_numpy()
    final = nearest.flatten().field("cluster").to_numpy().copy().reshape(num_rows, num_nearest)
    for head in np.unique(heads).tolist():
        final[heads == head] = names.final_cluster(head, final[heads == head])
    kept = (final >= 0) & (final != clusters[:, None])
    for place in range(final.shape[1]):
        kept[:, place] &= ~(final[:, :place] == final[:, place : place + 1]).any(1)
    entries = pa.StructArray.from_arrays(
        [final[kept], nearest.flatten().field("probability").to_numpy().reshape(num_rows, num_nearest)[kept]],
        fields=list(NEAREST.value_type),
    )
    return pa.ListArray.from_arrays(np.cumsum([0, *kept.sum(1)]).astype(np.int32), entries)


def _csv_schema(num_nearest: int) -> pa.Schema:
    schema = CLUSTER_SCHEMA
    for place in range(1, num_nearest + 1):
        schema = schema.append(pa.field(f"nearest_{place}", pa.int32()))
        schema = schema.append(pa.field(f"probability_{place}", pa.float32()))
    return schema


def _flat(table: pa.Table, num_nearest: int) -> pa.Table:
    """The columns of _csv_schema; a row with fewer than `num_nearest` has nulls behind them."""
    columns = {name: table[name] for name in CLUSTER_SCHEMA.names}
    nearest = table["nearest"].combine_chunks()
    lengths = pc.list_value_length(nearest).to_numpy(zero_copy_only=False)
    starts = np.cumsum(lengths) - lengths
    entries = nearest.flatten()
    for place in range(num_nearest):
        index = pa.array(starts + place, pa.int64(), mask=lengths <= place)
        columns[f"nearest_{place + 1}"] = entries.field("cluster").take(index)
        columns[f"probability_{place + 1}"] = entries.field("probability").take(index)
    return pa.table(columns, schema=_csv_schema(num_nearest))
