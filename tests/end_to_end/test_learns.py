"""A training on generated clips learns: its clusters are the classes, and the same seed gives the same run."""

import json
import signal
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.synthetic import CLASSES, generate
from selavi.results.cluster_table import CLUSTER_SCHEMA
from selavi.results.labels import LABEL_SCHEMA
from tests.end_to_end.runs import Train, assert_same_run, bank, losses, weights
from tools import cluster_eval, export_clusters, train

LEARNING = """\
data: {cache_gb: 1, num_workers: 0, scan_workers: 1}
video: {num_frames: 4, decode_size: 40, size: 32, crop_fraction: [0.7, 1.0], colour_jitter: 0.4, greyscale: 0.2}
audio:
  {sample_rate: 16000, num_mels: 48, num_fft: 512, window_s: 0.032, hop_s: 0.02,
   shift_mel: 0.1, tone_jitter: 1.0, mask_time: 0.2, mask_mel: 0.2}
encoders: {video_width: 8, video_depth: 10, audio_width: 8}
heads: {num_heads: 3, num_clusters: 8, dropout: 0.0}
labelling: {marginal: uniform, num_labellings: 30, head_groups: 2}
optim: {batch_size: 16, lr: 0.1, lr_clips: 16, warmup_epochs: 1, schedule: cosine}
trainer: {max_epochs: 16, accelerator: cpu}
"""
SCORES = {"nmi", "ami", "ari", "accuracy", "purity", "mean_entropy", "used_clusters", "n"}


@pytest.mark.slow
@pytest.mark.end_to_end
def test_a_small_run_finds_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Then its clusters are measured on clips it never saw, and exported."""
    root, folder, config = tmp_path / "media", tmp_path / "run", tmp_path / "learning.yaml"
    generate(root, seed=5, clips_per_class={"train": 24, "test": 8}, progress=False)
    config.write_text(LEARNING)
    settings = [f"run_dir={folder}", f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}"]
    assert train.main(["--config", str(config), *settings]) == 0
    said = capsys.readouterr().err
    assert "labelling 30/30: " in said
    verdict = json.loads((folder / "status.json").read_text())["verdict"]
    assert f"\n{verdict}\nNext: " in said and "the last labelling changed" in verdict

    labels = pq.read_table(folder / "labels" / "train.parquet")
    assert labels.schema.equals(LABEL_SCHEMA)
    assert len(labels) == 192 * 3
    assert np.array_equal(labels["cluster"].to_numpy().reshape(192, 3), bank(folder).numpy())
    for name in ("confidence", "margin", "entropy", "modality_agreement"):
        assert labels[name].null_count == 0
    assert (labels["confidence"].to_numpy() >= 1 / 8 - 1e-6).all()

    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    shown = capsys.readouterr().out
    assert "chosen (head " in shown and shown.rstrip().endswith(f"training: {verdict}")
    assert "independent clusters of these sizes would agree" in shown
    metrics = json.loads((folder / "eval" / "metrics_test.json").read_text())
    assert metrics["split"] == "test"
    assert len(metrics["heads"]) == 3
    for entry in (*metrics["heads"], metrics["chosen"], metrics["oracle"]):
        assert entry.keys() >= SCORES
        assert entry["n"] == 64
    for name in ("chosen", "oracle"):
        entry = metrics[name]
        assert {**metrics["heads"][entry["head"]], "head": entry["head"]} == entry
    assert metrics["oracle"]["nmi"] == max(head["nmi"] for head in metrics["heads"])
    assert len(pq.read_table(folder / "labels" / "test.parquet")) == 64 * 3
    assert metrics["chosen"]["nmi"] > 0.5  # chance: 0.2 on 64 clips of 8 classes
    assert cluster_eval.main([str(folder)]) == 0
    on_train = json.loads((folder / "eval" / "metrics_train.json").read_text())
    assert on_train["chosen"]["head"] == metrics["chosen"]["head"]
    assert on_train["chosen"]["nmi"] > 0.5  # chance: 0.08

    assert export_clusters.main([str(folder)]) == 0
    table = pq.read_table(folder / "clusters.parquet")
    assert table.schema.equals(CLUSTER_SCHEMA)
    assert sorted(table["id"].to_pylist()) == sorted(set(labels["id"].to_pylist()))
    assert set(table["head"].to_pylist()) == {metrics["chosen"]["head"]}
    assert set(table["label"].to_pylist()) == set(CLASSES)
    assert pa_csv.read_csv(folder / "clusters.csv").column_names == table.column_names
    assert len(pa_csv.read_csv(folder / "clusters.csv")) == 192
    page = (folder / "gallery" / "index.html").read_text(encoding="utf-8")
    addresses = page.replace("http://www.w3.org/2000/svg", "")  # the name of a format: nothing is asked there
    assert "http://" not in addresses and "https://" not in addresses
    thumbnails = list((folder / "gallery" / "thumbs").rglob("*.jpg"))
    assert len(thumbnails) > 50 and (folder / "gallery" / "data" / "map.js").exists()


@pytest.mark.end_to_end
@pytest.mark.parametrize("modality", ["video", "audio"])
@pytest.mark.parametrize("cache_gb", [0, 1])
def test_one_modality_trains_and_is_measured(fit: Train, tmp_path: Path, modality: str, cache_gb: int) -> None:
    folder = tmp_path / "run"
    assert fit(folder, f"modalities=[{modality}]", f"data.cache_gb={cache_gb}", "trainer.max_epochs=1") == 0
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    labels = pq.read_table(folder / "labels" / "train.parquet")
    assert labels["modality_agreement"].null_count == len(labels) == 64
    assert all(f".{modality}." in name for name in weights(folder) if name.startswith("model."))


@pytest.mark.end_to_end
def test_low_precision_and_linear_heads_train(fit: Train, tmp_path: Path) -> None:
    settings = ["trainer.precision=bf16-mixed", "heads.kind=linear", "encoders.audio_depth=18", "trainer.max_epochs=1"]
    assert fit(tmp_path / "run", *settings, "trainer.gradient_clip_val=1.0") == 0
    assert all(np.isfinite(losses(tmp_path / "run")))
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "run").values())


@pytest.mark.end_to_end
def test_the_same_seed_gives_the_same_run(fit: Train, finished_run: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # what others drew before does not matter
    np.random.seed(123)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    assert fit(tmp_path / "again") == 0
    assert {number: signal.getsignal(number) for number in handlers} == handlers  # training gives them back
    assert len(losses(finished_run)) == 8
    assert losses(tmp_path / "again") == losses(finished_run)
    assert_same_run(tmp_path / "again", finished_run)


@pytest.mark.end_to_end
def test_another_seed_gives_another_run(fit: Train, finished_run: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "other", "seed=1") == 0
    assert not torch.equal(bank(tmp_path / "other"), bank(finished_run))
    assert losses(tmp_path / "other") != losses(finished_run)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_number_of_workers_does_not_matter(fit: Train, tmp_path: Path) -> None:
    """The cache is off, so that the workers decode."""
    for workers in (0, 1, 2):
        settings = [f"data.num_workers={workers}", "data.cache_gb=0", "trainer.max_epochs=1"]
        assert fit(tmp_path / f"{workers}", *settings) == 0
        assert losses(tmp_path / f"{workers}") == losses(tmp_path / "0")
        assert_same_run(tmp_path / f"{workers}", tmp_path / "0")
