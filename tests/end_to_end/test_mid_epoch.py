"""A run goes on at any step, and in any labelling, as if nothing had happened."""

import signal
from pathlib import Path

import pytest

from datamodules.clips import ClipDataModule
from selavi.errors import Interrupted
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.training import callbacks
from tests.end_to_end.runs import Train, assert_same_run, losses


def signal_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let a signal come in a step."""
    on_batch_end = callbacks.Progress.on_train_batch_end

    def note(self: callbacks.Progress, trainer, *others: object) -> None:  # type: ignore[no-untyped-def]
        on_batch_end(self, trainer, *others)
        if trainer.global_step == step:
            survival_of(trainer).received = signal.SIGTERM

    patch.setattr(callbacks.Progress, "on_train_batch_end", note)


def survival_of(trainer) -> callbacks.Survival:  # type: ignore[no-untyped-def]
    return next(each for each in trainer.callbacks if isinstance(each, callbacks.Survival))


@pytest.mark.end_to_end
@pytest.mark.parametrize("step", range(1, 9))
def test_a_signal_at_any_step_loses_nothing(
    fit: Train, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(step, patch)
        assert fit(folder) == 75
    assert read_checkpoint(RunFolder(folder).last_checkpoint)["global_step"] == step
    assert fit(folder, "resume=must") == 0
    assert losses(folder) == losses(finished_run)[step:]
    assert_same_run(folder, finished_run)


@pytest.mark.end_to_end
@pytest.mark.parametrize("at", [pytest.param(2, marks=pytest.mark.slow), 6])
def test_a_signal_in_any_labelling_loses_nothing(
    fit: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """It comes in the first or the second pass over four batches of clips, each for one head, which is not repeated."""
    relabel, stop_alone = callbacks.LabellingCallback._relabel, callbacks.Survival.stop_alone
    labelling_loader = ClipDataModule.labelling_loader
    assert fit(tmp_path / "unbroken", "labelling.batch_size=8") == 0
    for labelling in range(1, 5):
        folder = tmp_path / f"run{labelling}"
        begun: list[object] = []
        batches: list[object] = []

        def count(self, *others, begun=begun, batches=batches, **named) -> None:  # type: ignore[no-untyped-def]
            begun.append(self)
            batches.clear()
            relabel(self, *others, **named)

        def note(self, begun=begun, batches=batches, last=labelling) -> None:  # type: ignore[no-untyped-def]
            batches.append(self)
            if len(begun) == last and len(batches) == at:
                self.received = signal.SIGTERM
            stop_alone(self)

        with monkeypatch.context() as patch:
            patch.setattr(callbacks.LabellingCallback, "_relabel", count)
            patch.setattr(callbacks.Survival, "stop_alone", note)
            assert fit(folder, "labelling.batch_size=8") == 75
        passes: list[int] = []

        def note_pass(self, number: int, passes=passes):  # type: ignore[no-untyped-def]
            passes.append(number)
            return labelling_loader(self, number)

        with monkeypatch.context() as patch:
            patch.setattr(ClipDataModule, "labelling_loader", note_pass)
            assert fit(folder, "resume=must", "labelling.batch_size=8") == 0
        assert passes[0] % 2 == (at > 4), "2 passes a labelling"
        assert_same_run(folder, tmp_path / "unbroken")


@pytest.mark.end_to_end
def test_a_killed_run_loses_what_came_after_its_last_checkpoint(
    fit: Train, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a checkpoint after every step: killed before the third and the sixth one is written, and in the end."""
    folder = tmp_path / "run"
    save = callbacks.Saving.save
    for step in (3, 6, 8):

        def die(self: callbacks.Saving, trainer, module, at: int = step) -> None:  # type: ignore[no-untyped-def]
            if trainer.global_step == at:
                raise Interrupted("killed by a test")
            save(self, trainer, module)

        with monkeypatch.context() as patch:
            patch.setattr(callbacks.Saving, "save", die)
            assert fit(folder, "resume=auto", "trainer.save_every_s=1e-9") == 75
        assert read_checkpoint(RunFolder(folder).last_checkpoint)["global_step"] == step - 1
        before = read_checkpoint(RunFolder(folder).previous_checkpoint)["global_step"]
        assert before in (step - 2, step - 1), "one is written within each labelling, too"
    assert fit(folder, "resume=auto") == 0
    assert_same_run(folder, finished_run)


@pytest.mark.end_to_end
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_goes_on(
    fit: Train, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(6, patch)
        assert fit(folder) == 75
    files = RunFolder(folder)
    content = bytearray(files.last_checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    files.last_checkpoint.write_bytes(content)
    capsys.readouterr()
    assert fit(folder, "resume=must") == 0
    assert f"resuming from {files.previous_checkpoint}" in capsys.readouterr().err
    damaged = folder / "checkpoints" / "last.damaged.1.ckpt"
    assert damaged.read_bytes() == content
    assert_same_run(folder, finished_run)
    for path in (files.last_checkpoint, files.previous_checkpoint):
        path.write_bytes(b"PK")
    files.status.unlink()
    assert fit(folder, "resume=must") == 2
    error = capsys.readouterr().err
    assert "last.ckpt" in error and "previous.ckpt" in error and "There is none to go on from" in error
