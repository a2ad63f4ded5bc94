import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selavi import memory
from selavi.errors import UsageError
from selavi.results import labels as labels_module
from selavi.results.labels import LABEL_SCHEMA, blocks_of_head, count_heads, read_labels, write_labels
from selavi.runs.folder import RunFolder

NUM_CLIPS, NUM_HEADS = 7, 3
IDS = [f"é/{number:02}.mp4" for number in range(NUM_CLIPS)]


def write(run_dir: Path, probe: torch.Tensor | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels of a split `train`; returns the clusters and the statistics."""
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randint(5, (NUM_CLIPS, NUM_HEADS), generator=generator, dtype=torch.int32)
    names = ("confidence", "margin", "entropy", "modality_agreement")
    statistics = {name: torch.rand(NUM_CLIPS, NUM_HEADS, generator=generator) for name in names}
    statistics["modality_agreement"][2] = torch.nan
    write_labels(run_dir, "train", IDS, clusters, statistics, probe)
    return clusters.numpy(), {name: values.numpy() for name, values in statistics.items()}


@pytest.mark.parametrize("rows", [1, 2, 4, 1 << 16])
def test_what_is_read_is_what_was_written(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "_ROWS_AT_ONCE", 2 * NUM_HEADS)
    clusters, statistics = write(tmp_path, torch.tensor([0.5, 0.25, 1.0]))
    batches = labels_module.ParquetReader.batches
    monkeypatch.setattr(labels_module.ParquetReader, "batches", lambda *words: batches(*words, rows=rows))
    assert not read_labels(tmp_path, "train").statistics
    labels = read_labels(tmp_path, "train", with_statistics=True)
    assert labels.ids.to_pylist() == IDS and np.array_equal(labels.clusters, clusters)
    assert labels.probe is not None and labels.probe.tolist() == [0.5, 0.25, 1.0]
    for name, values in statistics.items():
        assert np.array_equal(labels.statistics[name], values, equal_nan=True)
        assert np.array_equal(labels.of_head(1)[name], values[:, 1], equal_nan=True)
    assert labels.cluster_of(2) == dict(zip(IDS, clusters[:, 2].tolist(), strict=True))
    with pytest.raises(UsageError, match="one of the heads 0 to 2, got 3"):
        labels.cluster_of(3)
    assert count_heads(tmp_path, "train") == NUM_HEADS
    ids, of_head = zip(*blocks_of_head(tmp_path, "train", 2), strict=True)
    assert pa.concat_arrays(ids).to_pylist() == IDS and np.concatenate(of_head).tolist() == clusters[:, 2].tolist()
    with pytest.raises(UsageError, match="one of the heads 0 to 2, got 3"):
        next(blocks_of_head(tmp_path, "train", 3))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process has mapped")
def test_the_statistics_of_many_clips_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clusters, statistics = write(tmp_path)
    monkeypatch.setattr(memory, "LARGE", 1)
    labels = read_labels(tmp_path, "train", with_statistics=True)
    folder = RunFolder(tmp_path).labels("train").parent
    assert Path("/proc/self/maps").read_text(encoding="utf-8").count(str(folder)) == 4
    assert [file.name for file in folder.iterdir()] == ["train.parquet"]
    assert np.array_equal(labels.clusters, clusters)
    for name, values in statistics.items():
        assert np.array_equal(labels.statistics[name], values, equal_nan=True)


def rows_of(table: pa.Table, *rows: int) -> pa.Table:
    return table.take(pa.array(rows))


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, LABEL_SCHEMA.field(name).type))


DAMAGE: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a row is missing": (lambda table: table.slice(1), "a row for each head of each clip, in order"),
    "the last row is missing": (lambda table: table.slice(0, len(table) - 1), "a row for each head of each clip"),
    "rows are swapped": (lambda table: rows_of(table, 1, 0, *range(2, len(table))), "each clip, in order"),
    "no rows": (lambda table: table.slice(0, 0), "a row for each head of each clip"),
    "a clip occurs twice": (lambda table: rows_of(table, *range(len(table)), 0, 1, 2), "each clip once"),
    "a clip follows itself": (lambda table: rows_of(table, 0, 1, 2, *range(len(table))), "each of them once"),
    "a head has another clip": (
        lambda table: with_column(table, "id", ["x", *table["id"].to_pylist()[1:]]),
        "all heads to have the same clips",
    ),
    "a cluster is missing": (
        lambda table: with_column(table, "cluster", [None, *table["cluster"].to_pylist()[1:]]),
        "rows without cluster",
    ),
    "a number is a text": (lambda table: table.set_column(1, "head", pa.array(["x"] * len(table))), "damaged"),
    "no ids": (lambda table: table.drop_columns(["id"]), "lacks the columns id"),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("rows", [2, 1 << 16])
def test_damaged_labels_are_refused(what: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    path = RunFolder(tmp_path).labels("train")
    damage, message = DAMAGE[what]
    pq.write_table(damage(pq.read_table(path).replace_schema_metadata()), path)
    batches = labels_module.ParquetReader.batches
    monkeypatch.setattr(labels_module.ParquetReader, "batches", lambda *words: batches(*words, rows=rows))
    with pytest.raises(UsageError, match=message) as caught:
        read_labels(tmp_path, "train")
    assert str(path) in str(caught.value) and "make the labels again" in str(caught.value)


def test_statistics_of_earlier_versions_are_asked_for_where_they_are_needed(tmp_path: Path) -> None:
    clusters, _ = write(tmp_path)
    path = RunFolder(tmp_path).labels("train")
    pq.write_table(pq.read_table(path).replace_schema_metadata().drop_columns(["modality_agreement"]), path)
    labels = read_labels(tmp_path, "train", with_statistics=True)
    assert np.array_equal(labels.clusters, clusters)
    with pytest.raises(UsageError, match="lack the columns modality_agreement: make the labels again"):
        labels.of_head(0)
