"""What goes wrong on the way is said, counted and survived within limits."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from selavi.training import callbacks
from tests.end_to_end.runs import Train, losses


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
    assert "the gradient is not finite at step " in error or "numbers that are not finite at step " in error
    assert "optim.lr" in error and "--change" in error  # what to try


@pytest.mark.end_to_end
def test_the_log_says_where_labellings_go_wrong(
    fit: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from selavi.labelling.methods import transport

    assign = transport.assign

    def one_cluster_and_no_patience(scores, marginal, **settings):  # type: ignore[no-untyped-def]
        found = assign(scores, marginal, **settings)
        return replace(found, labels=found.labels * 0, marginal_error=0.5, converged=False)

    monkeypatch.setattr(transport, "assign", one_cluster_and_no_patience)
    assert fit(tmp_path / "run", "trainer.max_epochs=1") == 0
    error = capsys.readouterr().err
    assert "marginal error 5.0e-01, NOT CONVERGED, 1.0/8 clusters used" in error
    assert error.count("7.0 of 8 clusters hold no clip (mean over the heads); if it stays so, raise") == 1
    for noise in ("GPU available", "litlogger", "Trainer.fit", "\r", "Warning"):
        assert noise not in error
