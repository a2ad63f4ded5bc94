"""A finished run goes on for more epochs, and one that was killed as it ended is finished."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from selavi.labelling.schedule import labelling_steps
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.record import read_status
from tests.end_to_end.runs import Train, assert_same_run, losses, stop_at
from tools import train

COSINE = "optim.schedule=cosine"


@pytest.fixture(scope="module")
def two_and_two(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, finished, and two more."""
    folder = tmp_path_factory.mktemp("more") / "run"
    assert train.main(["--config", str(tiny_yaml), f"run_dir={folder}", COSINE]) == 0
    before = pq.read_table(RunFolder(folder).labels("train"))
    assert train.main([str(folder), "--more", "2"]) == 0
    assert not pq.read_table(RunFolder(folder).labels("train")).equals(before)
    return folder


@pytest.mark.end_to_end
def test_a_finished_run_goes_on_for_more_epochs(two_and_two: Path) -> None:
    status = read_status(two_and_two)
    assert (status["state"], status["epochs"]) == ("finished", 4)
    checkpoint = read_checkpoint(RunFolder(two_and_two).last_checkpoint)
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (4, 16)
    once, per_part = len(labelling_steps(8, 4)), 4
    assert once == per_part - 1
    assert checkpoint["label_bank"]["num_labellings"] == per_part + per_part - 1  # the second begins without one
    assert len(losses(two_and_two)) == 8 and RunFolder(two_and_two).metrics.with_name("metrics.1.csv").exists()
    assert "cosine" in RunFolder(two_and_two).given_settings.with_name("config.resolved.yaml").read_text()


@pytest.mark.end_to_end
@pytest.mark.parametrize("step", [5, 13], ids=["in the first part", "in the added part"])
def test_added_epochs_are_the_same_however_the_run_was_stopped(
    fit: Train, two_and_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Stopped in the first part and then told to train longer, or stopped in the added part."""
    folder = tmp_path / "run"
    more = [str(folder), "--more", "2"]
    if step > 8:
        assert fit(folder, COSINE) == 0
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        assert (train.main(more) if step > 8 else fit(folder, COSINE)) == 75
    labels = RunFolder(folder).labels("train")
    assert labels.exists() == (step > 8)  # those of the finished part stay until there are new ones
    assert (train.main(more) if step < 8 else fit(folder, COSINE, "resume=auto")) == 0
    assert_same_run(folder, two_and_two)
    assert read_status(folder)["epochs"] == 4


@pytest.mark.end_to_end
def test_the_same_command_does_not_add_epochs_twice(
    fit: Train, two_and_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert fit(folder, COSINE) == 0
    with monkeypatch.context() as patch:
        stop_at(13, patch)
        assert train.main([f"run_dir={folder}", "--more", "2"]) == 75
    assert train.main([f"run_dir={folder}", "--more", "2"]) == 0
    assert_same_run(folder, two_and_two)
    capsys.readouterr()
    assert fit(folder, COSINE, "resume=auto") == 0
    assert "is finished; nothing to train" in capsys.readouterr().err


@pytest.mark.end_to_end
def test_a_run_that_is_planned_longer_is_told_how(
    fit: Train, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    assert fit(folder, "resume=auto", "trainer.max_epochs=5") == 2
    assert f"{folder} --more 3" in capsys.readouterr().err
    for words in (["--more", "1"], [str(folder), f"run_dir={folder}", "--more", "1"], [str(folder), "--more", "0"]):
        assert train.main(words) == 2


@pytest.mark.end_to_end
def test_a_run_killed_after_its_last_checkpoint_is_finished_later(
    fit: Train, finished_run: Path, tmp_path: Path
) -> None:
    """Its labels are those of the run that was not killed, and so is its verdict."""
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    RunFolder(folder).status.unlink()
    RunFolder(folder).labels("train").unlink()
    assert fit(folder, "resume=auto") == 0
    assert_same_run(folder, finished_run)
    assert read_status(folder)["verdict"] == read_status(finished_run)["verdict"]


@pytest.mark.end_to_end
def test_an_earlier_run_killed_after_its_last_checkpoint_says_what_helps(
    fit: Train, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint does not hold how confident the labels are."""
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    RunFolder(folder).status.unlink()
    path = RunFolder(folder).last_checkpoint
    checkpoint = read_checkpoint(path)
    checkpoint["callbacks"] = {}
    torch.save(checkpoint, path)
    assert fit(folder, "resume=auto") == 2
    assert f"{folder} --more 1 trains one more epoch" in capsys.readouterr().err
    assert train.main([str(folder), "--more", "1"]) == 0
    assert read_status(folder)["epochs"] == 3
