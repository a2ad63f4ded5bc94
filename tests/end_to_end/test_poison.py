"""Numbers that are not finite never reach a checkpoint, and their clips are named."""

import csv
import json
from pathlib import Path

import pytest
import torch

from selavi.runs.checkpoint import not_finite, read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.training.module import SelaviModule
from tests.end_to_end.runs import Train, bank, losses, weights
from tools import train


def poison(patch: pytest.MonkeyPatch, *steps: int) -> list[str]:
    """Let the sound of the second clip of some steps give numbers that are not finite; returns their ids in the end."""
    training_step = SelaviModule.training_step
    culprits: list[str] = []

    def step(self: SelaviModule, batch, number: int) -> object:  # type: ignore[no-untyped-def]
        judge = type(self.model).logits
        if self.global_step not in steps:
            return training_step(self, batch, number)
        culprits.append(self.label_bank.ids[int(batch.index[1])])

        def poisoned(model, *others: object) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
            logits = judge(model, *others)
            factors = torch.ones(logits["audio"].shape[1]).index_fill(0, torch.tensor([1]), float("inf"))
            logits["audio"] = logits["audio"] * factors[:, None]
            return logits

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(type(self.model), "logits", poisoned)
            return training_step(self, batch, number)

    patch.setattr(SelaviModule, "training_step", step)
    return culprits


@pytest.mark.end_to_end
@pytest.mark.parametrize("step", [5, 7], ids=["within an epoch", "the last step of the last epoch"])
def test_the_run_stops_before_the_step_names_the_clip_and_goes_on_with_another_rate(
    fit: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        culprits = poison(patch, step)
        assert fit(folder, "trainer.save_every_s=1e-9") == 4
    error = capsys.readouterr().err
    path = RunFolder(folder).poison(step)
    assert f"the gradient is not finite at step {step}: the logits of {culprits[0]} are not finite ({path} has" in error
    clips = json.loads(path.read_text())["clips"]
    assert [clip["id"] for clip in clips if not clip["finite_logits"]] == culprits
    assert len(clips) == 8 and {"min", "max", "mean"} == clips[0]["inputs"]["video"].keys()
    checkpoint = read_checkpoint(RunFolder(folder).last_checkpoint)
    assert checkpoint["global_step"] == step
    assert list(not_finite(checkpoint["state_dict"])) == []
    [advice] = [line for line in error.splitlines() if "--change" in line]
    words = advice.partition("a lower rate, ")[2].partition(";")[0].split()
    assert train.main(words[words.index(str(folder)) :]) == 0
    assert len(losses(folder)) == 8 - step
    [change] = json.loads(RunFolder(folder).changes.read_text())
    assert change["step"] == step and change["settings"] == ["optim.lr: 0.05 then, 0.025 now"]
    assert read_checkpoint(RunFolder(folder).last_checkpoint)["config"]["optim"]["lr"] == 0.025


@pytest.mark.end_to_end
def test_a_batch_may_be_left_out(
    fit: Train, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        culprits = poison(patch, 3, 6)
        assert fit(folder, "trainer.on_nan=skip") == 0
    with RunFolder(folder).skipped_batches.open(newline="") as file:
        assert list(csv.reader(file)) == [["3", culprits[0]], ["6", culprits[1]]]
    assert list(not_finite(weights(folder))) == []
    assert (bank(folder) >= 0).all()
    assert losses(folder)[:3] == losses(finished_run)[:3]
    with monkeypatch.context() as patch:
        poison(patch, 3, 6)
        assert fit(tmp_path / "other", "trainer.on_nan=skip", "trainer.max_skipped=1") == 4
    assert "1 batches were left out before, and trainer.max_skipped allows no more" in capsys.readouterr().err


@pytest.mark.end_to_end
def test_what_may_change_is_told(fit: Train, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([str(finished_run), "--change", "heads.num_clusters=9"]) == 2
    assert (
        "heads.num_clusters cannot be changed; a run may go on with others of data.list, optim.micro_batch, optim.lr"
        in capsys.readouterr().err
    )
    assert train.main([str(finished_run), "--change"]) == 2
    assert "--change needs settings" in capsys.readouterr().err
    assert train.main([str(finished_run), "--change", "--more", "2", "optim.lr=1"]) == 2
    assert "say --change first" in capsys.readouterr().err
