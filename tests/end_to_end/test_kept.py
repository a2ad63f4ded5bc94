"""A run that labels from the features of its steps reads the clips for its first and its last labels alone."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datamodules.clips import ClipDataModule
from selavi.config import load_run_config
from selavi.labelling.kept import KeptFeatures
from selavi.training.forecast import num_fresh_labellings, num_relabellings
from tests.end_to_end.runs import bank
from tools import train

Fit = Callable[..., int]
SETTINGS = ("labelling.first=random", "labelling.num_labellings=9", "trainer.max_epochs=4", "labelling.power=1")
STEPS = 4
"""Of an epoch."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of the passes over the clips that are made."""
    made: list[int] = []
    begin = ClipDataModule.labelling_loader

    def counted(self: ClipDataModule, number: int) -> object:
        made.append(number)
        return begin(self, number)

    monkeypatch.setattr(ClipDataModule, "labelling_loader", counted)
    yield made


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_clips_are_read_before_an_epoch_is_over_and_at_the_end(
    fit: Fit, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[KeptFeatures] = []
    join = KeptFeatures.table
    monkeypatch.setattr(KeptFeatures, "table", lambda self: joined.append(self) or join(self))
    assert fit(tmp_path / "run", *SETTINGS, "labelling.features=kept") == 0
    config = load_run_config(tmp_path / "run")
    num_fresh, num_all = (count(config, STEPS) for count in (num_fresh_labellings, num_relabellings))
    warm_up = 1
    assert num_fresh < num_all - 4
    assert len(passes) == warm_up + config.labelling.head_groups * num_fresh
    assert len(joined) == num_all - num_fresh < config.labelling.head_groups * (num_all - num_fresh)
    assert len(logged(tmp_path / "run", "labelling/churn")) == num_all
    assert (bank(tmp_path / "run") >= 0).all()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_labels_with_any_number_of_workers(fit: Fit, tmp_path: Path) -> None:
    for workers in (0, 2):
        settings = (*SETTINGS, "labelling.features=kept", f"data.num_workers={workers}")
        assert fit(tmp_path / str(workers), *settings) == 0
    assert bank(tmp_path / "0").equal(bank(tmp_path / "2"))


def test_a_run_that_goes_on_reads_clips_until_an_epoch_is_over(fit: Fit, tmp_path: Path, passes: list[int]) -> None:
    assert fit(tmp_path / "run", *SETTINGS, "labelling.features=kept") == 0
    passes.clear()
    assert train.main([str(tmp_path / "run"), "--more", "4"]) == 0
    assert len(passes) == 2 * (1 + 1)  # in the first epoch, whose begin is the end of the part before; and the last one
    assert (bank(tmp_path / "run") >= 0).all()
