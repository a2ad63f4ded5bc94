"""A run goes on where it was stopped, as if nothing had happened."""

import shutil
from pathlib import Path

import pytest

from selavi.errors import Interrupted
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.training import callbacks
from tests.end_to_end.runs import Train, assert_same_run, bank, losses, stop_at


@pytest.mark.end_to_end
def test_a_resumed_run_equals_an_uninterrupted_one(
    fit: Train,
    finished_run: Path,
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
    assert read_checkpoint(RunFolder(folder).last_checkpoint)["global_step"] == 4
    assert not (folder / "status.json").exists()
    assert fit(folder, "resume=auto") == 0
    assert f"resuming from {RunFolder(folder).last_checkpoint}" in capsys.readouterr().err
    assert losses(folder) == losses(finished_run)[4:]
    assert (folder / "metrics.1.csv").exists()
    assert_same_run(folder, finished_run)
    assert fit(folder, "resume=auto") == 0
    assert "is finished; nothing to train" in capsys.readouterr().err


@pytest.mark.end_to_end
def test_resuming_may_move_the_media_and_use_other_workers(
    fit: Train, finished_run: Path, tmp_path: Path, demo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"

    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert fit(folder) == 75
    shutil.copytree(demo_set, moved)
    assert fit(folder, "resume=must", f"data.root={moved}", "data.scan_workers=2") == 0
    assert_same_run(folder, finished_run)


@pytest.mark.end_to_end
def test_resuming_may_take_less_memory(
    fit: Train, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What README advises when memory runs out: smaller batches of a labelling change rounding errors at most."""
    folder = tmp_path / "run"

    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert fit(folder) == 75
    assert fit(folder, "resume=must", "labelling.batch_size=5", "labelling.memory_gb=4", "data.num_workers=1") == 0
    assert (bank(folder) == bank(finished_run)).float().mean() > 0.95
    assert losses(folder) == pytest.approx(losses(finished_run)[4:], abs=1e-3)
