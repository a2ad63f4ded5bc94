"""The parts of a run really run, in the sizes of the run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selavi.config import Config
from selavi.errors import UsageError
from selavi.labelling.bank import LabelBank, ids_of_bank
from selavi.labelling.labeller import Labeller
from selavi.runs.checkpoint import read_checkpoint, saved_bytes
from selavi.runs.folder import RunFolder
from selavi.training import rehearsal
from selavi.training.forecast import Clips, checkpoint_bytes
from selavi.training.speed import Trial

Tiny = Callable[..., Config]


def test_a_step_and_a_batch_have_the_size_of_the_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("step", "encode"):
        part = getattr(Trial, name)
        note = lambda self, batch, name=name, part=part: (seen.append((name, len(batch.index))), part(self, batch))  # noqa: E731
        monkeypatch.setattr(Trial, name, note)
    measured = rehearsal.rehearse(tiny("optim.batch_size=12"), 32)
    assert seen == [("step", 12)] * 2 + [("encode", 16)] * 2
    assert (measured.encode_clips, measured.block_clips) == (16, 32)
    assert measured.step_s > 0 and measured.encode_s > 0 and measured.solve_s > 0
    assert 1.01 * measured.peak_bytes > measured.kept_bytes > 50_000_000  # Python and torch alone
    assert rehearsal.rehearse(tiny(), 10).encode_clips == 10  # no batch is larger than the set


@pytest.mark.parametrize(
    "settings",
    [
        ["labelling.source=own"],
        ["labelling.source=concat", "labelling.method=kmeans"],
        ["labelling.source=cross", "labelling.method=kmeans"],
        ["labelling.source=concat"],
        ["modalities=[audio]"],
        ["labelling.fraction=0.5"],
        ["trainer.precision=bf16-mixed", "heads.kind=linear"],
    ],
)
def test_every_way_to_label_is_rehearsed(tiny: Tiny, settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    banks: list[LabelBank] = []
    relabel = Labeller.relabel
    monkeypatch.setattr(
        Labeller, "relabel", lambda self, bank, *rest: (banks.append(bank), relabel(self, bank, *rest))[1]
    )
    monkeypatch.setattr(rehearsal, "BLOCK_ROWS", 24)
    config = tiny(*settings)
    measured = rehearsal.rehearse(config, 100)
    assert measured.block_clips == 24 and measured.solve_s > 0
    assert banks[0] is banks[1] and banks[0].num_labellings == 2  # warm, then timed
    assert banks[0].labels.shape == (24, len(config.label_sets))  # one head of each label set


def test_a_checkpoint_has_the_size_that_was_forecast(tiny: Tiny, finished_run: Path) -> None:
    saved = RunFolder(finished_run).last_checkpoint
    ids = ids_of_bank(read_checkpoint(saved)["label_bank"])
    clips = Clips(len(ids), 48, sum(map(len, ids)) / len(ids))
    measured = rehearsal.rehearse(tiny(), len(ids))
    assert checkpoint_bytes(tiny(), clips, measured) == pytest.approx(saved.stat().st_size, rel=0.1)


def test_the_size_of_a_file_is_known_without_writing_it(tmp_path: Path) -> None:
    values = {"weights": torch.zeros(100_000), "name": "x" * 1000}
    torch.save(values, tmp_path / "file")
    assert saved_bytes(values) == pytest.approx((tmp_path / "file").stat().st_size, rel=0.01)


def test_memory_that_ends_in_the_labelling_is_a_usage_error(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(rehearsal, "_label_block", full)
    with pytest.raises(UsageError, match=r"do not fit in the memory of the processor; lower optim\.batch_size=8"):
        rehearsal.rehearse(tiny(), 32)


def test_weights_to_start_from_that_do_not_fit_are_refused(tiny: Tiny, finished_run: Path) -> None:
    with pytest.raises(UsageError, match="video_width"):
        rehearsal.rehearse(tiny(f"encoders.init={finished_run}", "encoders.video_width=8"), 32)
