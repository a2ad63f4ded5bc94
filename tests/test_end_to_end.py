"""The whole loop on generated clips: it learns, it is deterministic, and it goes on where it was stopped."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.synthetic import CLASSES, generate
from selavi.errors import Interrupted
from selavi.results.cluster_table import CLUSTER_SCHEMA
from selavi.results.labels import LABEL_SCHEMA
from selavi.runs.checkpoint import last_checkpoint, read_checkpoint
from selavi.training import callbacks
from tools import cluster_eval, export_clusters, train

Train = Callable[..., int]

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


@pytest.fixture
def fit(tiny_yaml: Path) -> Train:
    """`fit(folder, "section.key=value", ...)` runs tools/train.py in this process."""
    return lambda folder, *overrides: train.main(["--config", str(tiny_yaml), f"run_dir={folder}", *overrides])


def bank(folder: Path) -> torch.Tensor:
    return read_checkpoint(last_checkpoint(folder))["label_bank"]["labels"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(last_checkpoint(folder))["state_dict"]


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def assert_same_run(first: Path, second: Path) -> None:
    """The same labels, weights and statistics, to the last bit."""
    assert torch.equal(bank(first), bank(second))
    mine, other = weights(first), weights(second)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert torch.equal(value, other[name]), name
    assert pq.read_table(first / "labels/train.parquet").equals(pq.read_table(second / "labels/train.parquet"))


# ---- it learns ----


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


# ---- it is deterministic ----


@pytest.fixture(scope="module")
def reference(finished_run: Path) -> Path:
    return finished_run


@pytest.mark.end_to_end
def test_the_same_seed_gives_the_same_run(fit: Train, reference: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # what others drew before does not matter
    np.random.seed(123)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    assert fit(tmp_path / "again") == 0
    assert {number: signal.getsignal(number) for number in handlers} == handlers  # training gives them back
    assert len(losses(reference)) == 8
    assert losses(tmp_path / "again") == losses(reference)
    assert_same_run(tmp_path / "again", reference)


@pytest.mark.end_to_end
def test_another_seed_gives_another_run(fit: Train, reference: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "other", "seed=1") == 0
    assert not torch.equal(bank(tmp_path / "other"), bank(reference))
    assert losses(tmp_path / "other") != losses(reference)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_number_of_workers_does_not_matter(fit: Train, tmp_path: Path) -> None:
    """The cache is off, so that the workers decode."""
    for workers in (0, 1, 2):
        settings = [f"data.num_workers={workers}", "data.cache_gb=0", "trainer.max_epochs=1"]
        assert fit(tmp_path / f"{workers}", *settings) == 0
        assert losses(tmp_path / f"{workers}") == losses(tmp_path / "0")
        assert_same_run(tmp_path / f"{workers}", tmp_path / "0")


# ---- it goes on where it was stopped ----


@pytest.mark.end_to_end
def test_a_resumed_run_equals_an_uninterrupted_one(
    fit: Train,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped in the second epoch: what came after the first epoch's checkpoint is done again."""
    folder = tmp_path / "run"
    on_batch_end = callbacks.Progress.on_train_batch_end

    def stop_at_step_six(self, trainer, *others: object) -> None:
        on_batch_end(self, trainer, *others)
        if trainer.global_step == 6:
            raise Interrupted("stopped by a test")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_train_batch_end", stop_at_step_six)
        assert fit(folder) == 75
    assert "stopped by a test\n" in capsys.readouterr().err
    assert read_checkpoint(last_checkpoint(folder))["global_step"] == 4
    assert not (folder / "status.json").exists()
    assert fit(folder, "resume=auto") == 0
    assert f"resuming from {last_checkpoint(folder)}" in capsys.readouterr().err
    assert losses(folder) == losses(reference)[4:]
    assert (folder / "metrics.1.csv").exists()
    assert_same_run(folder, reference)
    assert fit(folder, "resume=auto") == 0
    assert "is finished; nothing to train" in capsys.readouterr().err


@pytest.mark.end_to_end
def test_resuming_may_move_the_media_and_use_other_workers(
    fit: Train, reference: Path, tmp_path: Path, demo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"

    def stop(self, trainer, *_: object) -> None:
        if trainer.global_step == 5:
            raise Interrupted("stopped by a test")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.StopOnSignal, "on_train_batch_end", stop)
        assert fit(folder) == 75
    shutil.copytree(demo_set, moved)
    assert fit(folder, "resume=must", f"data.root={moved}", "data.scan_workers=2") == 0
    assert_same_run(folder, reference)


@pytest.mark.end_to_end
def test_resuming_may_take_less_memory(
    fit: Train, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What README advises when memory runs out: smaller batches of a labelling change rounding errors at most."""
    folder = tmp_path / "run"

    def stop(self, trainer, *_: object) -> None:
        if trainer.global_step == 5:
            raise Interrupted("stopped by a test")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.StopOnSignal, "on_train_batch_end", stop)
        assert fit(folder) == 75
    assert fit(folder, "resume=must", "labelling.batch_size=5", "labelling.memory_gb=4", "data.num_workers=1") == 0
    assert (bank(folder) == bank(reference)).float().mean() > 0.95
    assert losses(folder) == pytest.approx(losses(reference)[4:], abs=1e-3)


def start(repository: Path, *arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, str(repository / "tools" / "train.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.end_to_end
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_it_can_be_resumed(
    repository: Path, tiny_yaml: Path, tmp_path: Path, number: int, code: int
) -> None:
    """A run of a hundred epochs is stopped after the first."""
    folder = tmp_path / "run"
    settings = ["--config", tiny_yaml, f"run_dir={folder}", "trainer.max_epochs=100"]
    process = start(repository, *settings)
    try:
        give_up = time.monotonic() + 120
        while not last_checkpoint(folder).exists() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert "\nstopping after this step" in error
    assert ("press Ctrl-C again to stop now" in error) == (number == signal.SIGINT)
    assert "its last finished epoch is kept in" in error and "go on with resume=auto" in error
    checkpoint = read_checkpoint(last_checkpoint(folder))
    assert checkpoint["epoch"] < 99
    assert checkpoint["label_bank"]["num_labellings"] >= 1
    assert not (folder / "status.json").exists()


@pytest.mark.end_to_end
def test_two_processes_train_and_label_every_clip_once(
    repository: Path, tiny_yaml: Path, tmp_path: Path, demo_set: Path
) -> None:
    folder = tmp_path / "run"
    settings = ["trainer.devices=2", "trainer.strategy=ddp", "optim.batch_size=4", "trainer.max_epochs=2"]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(repository, "--config", tiny_yaml, f"run_dir={folder}", *settings, launcher=launcher)
    try:
        _, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, error
    labels = pq.read_table(folder / "labels" / "train.parquet")
    clips = sorted(path.relative_to(demo_set).as_posix() for path in (demo_set / "train").rglob("*.mp4"))
    for head in (0, 1):
        rows = labels.filter(np.array(labels["head"]) == head)
        assert rows["id"].to_pylist() == clips
        assert rows["cluster"].null_count == rows["confidence"].null_count == 0
    assert bank(folder).min() >= 0
    assert len(losses(folder)) == 8  # 32 clips, 2 x 4 a step, 2 epochs
    assert error.count("labelling 1/") == 1  # one of the two speaks
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0


# ---- faults on the way ----


@pytest.mark.end_to_end
def test_a_file_that_vanishes_after_the_scan_is_listed_and_the_run_goes_on(
    fit: Train, demo_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = tmp_path / "media", tmp_path / "run"
    shutil.copytree(demo_set, root)
    victim = sorted((root / "train").rglob("*.mp4"))[7]
    begin = callbacks.Progress.announce

    def delete_it(self, *arguments: object) -> None:
        begin(self, *arguments)
        victim.unlink()

    monkeypatch.setattr(callbacks.Progress, "announce", delete_it)
    settings = [f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=0"]
    assert fit(folder, *settings) == 0
    with (folder / "bad_clips.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    path = victim.relative_to(root).as_posix()
    assert rows == [[path, "vanished: No such file or directory"]]
    assert path in pq.read_table(folder / "labels" / "train.parquet")["id"].to_pylist()
    assert all(np.isfinite(losses(folder)))


@pytest.mark.end_to_end
def test_too_many_files_that_vanish_end_the_run(
    fit: Train, demo_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "media"
    shutil.copytree(demo_set, root)
    begin = callbacks.Progress.announce

    def delete_them(self, *arguments: object) -> None:
        begin(self, *arguments)
        shutil.rmtree(root / "train" / "fan_hum")
        shutil.rmtree(root / "train" / "rain_rush")

    monkeypatch.setattr(callbacks.Progress, "announce", delete_them)
    settings = [f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=0"]
    assert fit(tmp_path / "run", *settings) == 3
    error = capsys.readouterr().err
    assert "of 32 training clips could not be decoded (data.max_bad_fraction=0.2); they are listed in " in error


@pytest.mark.end_to_end
def test_a_loss_that_is_not_finite_ends_the_run(fit: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path / "run", "optim.lr=1e30", "optim.warmup_epochs=0") == 4
    error = capsys.readouterr().err
    assert "the loss is nan at step " in error or "the loss is inf at step " in error
    assert "lower optim.lr" in error


@pytest.mark.end_to_end
def test_the_log_says_where_labellings_go_wrong(
    fit: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from selavi.labelling import labeller

    assign = labeller.assign

    def one_cluster_and_no_patience(scores, marginal, **settings):  # type: ignore[no-untyped-def]
        found = assign(scores, marginal, **settings)
        return replace(found, labels=found.labels * 0, marginal_error=0.5, converged=False)

    monkeypatch.setattr(labeller, "assign", one_cluster_and_no_patience)
    assert fit(tmp_path / "run", "trainer.max_epochs=1") == 0
    error = capsys.readouterr().err
    assert "marginal error 5.0e-01, NOT CONVERGED, 1.0/8 clusters used" in error
    assert error.count("7.0 of 8 clusters hold no clip (mean over the heads); if it stays so, raise") == 1
    for noise in ("GPU available", "litlogger", "Trainer.fit", "\r", "Warning"):
        assert noise not in error
