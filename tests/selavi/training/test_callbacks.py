import math
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from selavi.batch import ClipBatch
from selavi.config import Config, as_dict
from selavi.errors import DataError, Interrupted, NumericError, UsageError
from selavi.labelling.labeller import LabellingReport
from selavi.labelling.race import ModalityRace, Race
from selavi.runs.folder import RunFolder
from selavi.runs.pulse import Pulse
from selavi.runs.resume import check_same_settings
from selavi.scores.contingency import number_labels
from selavi.training.callbacks import Poison, Progress, Survival, survival
from selavi.training.callbacks.labelling import mean_nmi
from selavi.training.callbacks.survival import Stopped

Tiny = Callable[..., Config]
CPU = torch.device("cpu")


class Saves:
    """Stands for Saving: notes at which step it was told to save."""

    def __init__(self) -> None:
        self.due, self.steps = False, []

    def is_due(self) -> bool:
        return self.due

    def save(self, trainer: SimpleNamespace, module: SimpleNamespace) -> None:
        self.steps.append(trainer.global_step)


@pytest.fixture
def saves() -> Saves:
    return Saves()


@pytest.fixture
def stop(tiny: Tiny, tmp_path: Path, saves: Saves) -> Survival:
    """Handlers installed, and given back afterwards."""
    config = tiny(f"run_dir={tmp_path / 'run'}")
    ids = [str(number) for number in range(9)]
    watched = Survival(config, ids, saves, Pulse(config.run_dir), Poison(config, ids))  # type: ignore[arg-type]
    with watched.watching():
        yield watched  # type: ignore[misc]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_is_acknowledged_at_once_and_acted_on_at_the_end_of_the_step(
    stop: Survival, capfd: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    stop.stop_together(CPU)
    os.kill(os.getpid(), number)
    said = capfd.readouterr().err
    assert "stopping after this step" in said
    assert ("press Ctrl-C again to stop now" in said) == (number == signal.SIGINT)
    with pytest.raises(Interrupted, match="no checkpoint yet, so nothing of the training is kept") as end:
        stop_before_training(stop)
    assert end.value.exit_code == code


def stop_before_training(stop: Survival) -> None:
    with stop.stopping_before():
        stop.stop_together(CPU)


def stop_in_labelling(stop: Survival, step: int) -> None:
    with stop.saving_before(SimpleNamespace(global_step=step), None):  # type: ignore[arg-type]
        stop.stop_together(CPU)


def test_clips_that_may_be_well_by_now_do_not_count_in_the_next_part(stop: Survival) -> None:
    stop.load_state_dict({"faults": {0: "corrupt: broken", 1: "vanished: No such file", 2: "unreadable: stale"}})
    assert stop.faults == {0: "corrupt: broken"}


def test_a_training_in_a_thread_leaves_the_signals_alone(tiny: Tiny) -> None:
    """Python lets the main thread alone set handlers; a server or a notebook may train in another one."""
    config = tiny()
    watched = Survival(config, ["a"], Saves(), Pulse(config.run_dir), Poison(config, ["a"]))  # type: ignore[arg-type]
    before = signal.getsignal(signal.SIGTERM)

    def train() -> None:
        with watched.watching():
            watched.on_train_start(None, None)  # type: ignore[arg-type]
            assert signal.getsignal(signal.SIGTERM) is before

    with ThreadPoolExecutor(1) as pool:
        pool.submit(train).result()


def test_a_second_signal_does_not_wait(stop: Survival) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_labelling_stops_too_where_no_other_process_waits(stop: Survival, monkeypatch: pytest.MonkeyPatch) -> None:
    stop.stop_alone()
    os.kill(os.getpid(), signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(survival, "world_size", lambda: 2)
        stop.stop_alone()
    with pytest.raises(Stopped):
        stop.stop_alone()


def test_only_what_is_there_is_promised(stop: Survival, saves: Saves, tmp_path: Path) -> None:
    kept = RunFolder(tmp_path / "run").last_checkpoint
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted) as end:
        stop_before_training(stop)
    advice = f"kept in {kept}: go on with resume=auto"
    assert str(end.value) == f"stopped by the keyboard; what was done until its last checkpoint is {advice}"
    assert saves.steps == []
    with pytest.raises(Interrupted) as end:
        stop_in_labelling(stop, 12)
    assert str(end.value) == f"stopped by the keyboard; 12 steps of it are {advice}"
    assert saves.steps == [12]
    with pytest.raises(Interrupted, match="what was done until its last checkpoint"):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def batch() -> ClipBatch:
    return ClipBatch(torch.arange(2), {}, {}, torch.zeros(2, 0), [])


def after_step(stop: Survival, batch: ClipBatch, loss: float = 0.5) -> None:
    """The hook at the end of a step."""
    trainer, module = SimpleNamespace(global_step=7, is_last_batch=False), SimpleNamespace(device=CPU)
    stop.on_train_batch_end(trainer, module, {"loss": torch.tensor(loss)}, batch, 0)  # type: ignore[arg-type]


def test_one_sum_a_step_tells_all_processes_of_signals_losses_and_when_to_save(
    stop: Survival, saves: Saves, batch: ClipBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever process has the fault: here it is another one.  They hear of it at the end of the next step."""
    sums: list[torch.Tensor] = []
    quiet = other = torch.zeros(4)

    def all_sum(flags: torch.Tensor) -> torch.Tensor:
        sums.append(flags)
        return flags + other

    monkeypatch.setattr(survival, "world_size", lambda: 2)
    monkeypatch.setattr(survival, "all_sum", all_sum)
    after_step(stop, batch)
    assert len(sums) == 1 and saves.steps == []
    other = torch.tensor([0.0, 0.0, 1.0, 0.0])  # it wants to save
    after_step(stop, batch)
    assert saves.steps == []
    other = quiet
    after_step(stop, batch)
    assert saves.steps == [7] and len(sums) == 3
    other = torch.tensor([1.0, 0.0, 1.0, 0.0])  # and its loss is not finite
    after_step(stop, batch)
    with pytest.raises(NumericError, match=r"the loss is not finite at step 7, in another process; lower optim\.lr"):
        after_step(stop, batch)
    other = quiet
    after_step(stop, batch, float("nan"))
    with pytest.raises(NumericError, match=r"the loss is not finite at step 7; lower optim\.lr: .*--change optim"):
        after_step(stop, batch)
    assert saves.steps == [7]  # what is not finite is not saved
    other = torch.tensor([0.0, 1.0, 0.0, 0.0])  # a signal has come
    after_step(stop, batch)
    other = quiet
    with pytest.raises(Interrupted, match="7 steps of it are kept"):
        after_step(stop, batch)
    assert saves.steps == [7, 7]


@pytest.mark.parametrize("is_last", [False, True])
def test_nothing_is_saved_behind_a_step_whose_loss_is_not_finite(
    stop: Survival, saves: Saves, batch: ClipBatch, is_last: bool
) -> None:
    """The loss is read late, but no later than the next checkpoint, or the end of the epoch."""
    trainer = SimpleNamespace(global_step=7, is_last_batch=is_last)
    saves.due = not is_last
    with pytest.raises(NumericError, match="the loss is not finite at step 7;"):
        stop.on_train_batch_end(trainer, SimpleNamespace(device=CPU), {"loss": torch.tensor(torch.nan)}, batch, 0)  # type: ignore[arg-type]
    assert saves.steps == []


def test_a_labelling_begins_behind_a_step_that_was_sound(stop: Survival, batch: ClipBatch) -> None:
    after_step(stop, batch, float("inf"))
    with pytest.raises(NumericError, match="the loss is not finite at step 7;"):
        stop.settle(SimpleNamespace(global_step=7), SimpleNamespace(device=CPU))  # type: ignore[arg-type]


def test_clips_that_cannot_be_decoded_are_listed_once_and_end_the_run_when_they_are_many(
    stop: Survival, batch: ClipBatch, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    one, two = ([(number, "corrupt") for number in range(count)] for count in (1, 2))
    stop.note_errors(replace(batch, errors=one))
    stop.note_errors(replace(batch, errors=one))
    assert (tmp_path / "run" / "bad_clips.csv").read_text().splitlines() == ["0,corrupt"]
    with pytest.raises(DataError, match="2 of 9 training clips could not be decoded"):
        stop.note_errors(replace(batch, errors=two))


def test_heads_whose_first_partial_labelling_labels_no_clip_have_no_nmi() -> None:
    """With few clips and a small labelling.fraction all of them may be left out."""
    human = number_labels(["a", "a", "b", "b"])
    labels = torch.tensor([[0, -1], [0, -1], [1, -1], [-1, -1]])
    assert mean_nmi(human, labels) == pytest.approx(1.0)
    assert mean_nmi(human, labels[:, 1:]) is None


def labelled_in(seconds: float, number: int, **cross_entropy: float) -> LabellingReport:
    race = Race({name: ModalityRace(0.5, nats, 1.0) for name, nats in cross_entropy.items()}, agreement=0.25)
    return LabellingReport(number, 1, 0.0, True, 8.0, 0.5, seconds, race)


def test_the_race_is_shown_and_a_modality_that_cannot_learn_is_named_once(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("heads.num_clusters=8")
    progress, chance = Progress(config, ["a"]), math.log(8)
    progress.labelled(labelled_in(1.0, 1, video=1.0, audio=chance), None, 10, 0.1)
    assert "cannot learn" not in (shown := capsys.readouterr().err)
    assert "video alone gives 50% of the labels (cross-entropy 1.00, spread 1.00), audio alone" in shown
    assert "alone they agree to 0.250 (NMI)" in shown
    for trained in (0.2, 0.5):
        progress.labelled(labelled_in(1.0, 2, video=1.0, audio=0.99 * chance), None, 10, trained)
    shown = capsys.readouterr().err
    assert shown.count("audio cannot learn the labels: its cross-entropy with them is 2.06") == 1
    assert "video cannot learn" not in shown


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (["labelling.votes=raw"], "try labelling.votes=equal,"),
        (["labelling.first=random"], "try labelling.first=crafted,"),
        (["labelling.first=crafted"], "compare with a run without it, modalities=[video]"),
    ],
)
def test_what_to_try_is_what_has_not_been_tried(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], settings: list[str], advice: str
) -> None:
    progress = Progress(tiny("heads.num_clusters=8", *settings), ["a"])
    progress.labelled(labelled_in(1.0, 2, video=1.0, audio=math.log(8)), None, 10, 0.5)
    assert advice in capsys.readouterr().err


def test_labels_that_go_on_changing_at_random_are_named_once(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(tiny("heads.num_clusters=8"), ["a"])
    warned = []
    for churn in (0.9, 0.9, 0.5, 0.8, 0.86, 0.85, 0.85, 0.85):
        progress.labelled(replace(labelled_in(1.0, 2), churn=churn), None, 10, 0.3)
        warned.append("3 labellings in a row" in capsys.readouterr().err)
    assert warned == [False] * 5 + [True] + [False] * 2


def test_labellings_ahead_count_in_the_time_left(tiny: Tiny) -> None:
    progress = Progress(tiny(), ["a"])
    progress.labelled(labelled_in(20.0, number=3), None, 10, 0.3)
    assert progress.labellings_left_s == 6 * 20
    progress.labelled(labelled_in(20.0, number=9), None, 10, 1.0)
    assert progress.labellings_left_s == 0


@pytest.mark.parametrize(
    "override",
    ["labelling.memory_gb=1", "labelling.batch_size=8", "data.num_workers=3", "trainer.accelerator=auto"],
)
def test_what_takes_less_memory_may_change_on_resume(tiny: Tiny, override: str) -> None:
    check_same_settings(as_dict(tiny()), tiny(override))


@pytest.mark.parametrize("override", ["optim.batch_size=4", "trainer.max_epochs=9", "heads.num_clusters=4"])
def test_what_changes_the_result_may_not(tiny: Tiny, override: str) -> None:
    name, value = override.split("=")
    with pytest.raises(UsageError, match=f"{name}: .* then, {value} now"):
        check_same_settings(as_dict(tiny()), tiny(override))


def test_some_settings_may_change_where_it_is_said(tiny: Tiny) -> None:
    saved, now = as_dict(tiny("optim.lr=0.1")), tiny("optim.lr=0.05", "trainer.gradient_clip_val=1.5")
    said = r"optim\.lr: 0\.1 then, 0\.05 now; trainer\.gradient_clip_val: None then, 1\.5 now"
    advice = r"to change them on purpose: .* --change optim\.lr=0\.05 trainer\.gradient_clip_val=1\.5"
    with pytest.raises(UsageError, match=rf"{said}\); use the same ones, or another run_dir; {advice}"):
        check_same_settings(saved, now)
    assert "; ".join(check_same_settings(saved, now, may_change=True)) == said.replace("\\", "")
    with pytest.raises(UsageError, match=r"heads\.num_clusters: 8 then, 4 now"):
        check_same_settings(saved, tiny("optim.lr=0.05", "heads.num_clusters=4"), may_change=True)


def test_a_setting_younger_than_a_checkpoint_does_not_end_its_run(tiny: Tiny) -> None:
    saved = as_dict(tiny())
    del saved["labelling"]["fraction"]
    check_same_settings(saved, tiny())
    with pytest.raises(UsageError, match=r"labelling\.fraction: 1\.0 then, 0\.5 now"):
        check_same_settings(saved, tiny("labelling.fraction=0.5"))
