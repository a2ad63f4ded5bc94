"""benchmarks/plain_loop.py: steps of a run and of a plain loop take turns over one batch."""

from pathlib import Path
from types import ModuleType

import pytest

MODULES = ("common", "overhead", "gpu", "plain_loop")


def test_steps_of_both_are_timed_in_turns(
    benchmarks: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_loop = benchmarks["plain_loop"]
    steps: list[str] = []
    step_of_plain = plain_loop.PlainLoop.step
    step_of_run = plain_loop.SelaviModule.training_step
    monkeypatch.setattr(
        plain_loop.PlainLoop, "step", lambda self, batch: steps.append("plain") or step_of_plain(self, batch)
    )
    monkeypatch.setattr(
        plain_loop.SelaviModule,
        "training_step",
        lambda self, batch, number: steps.append("run") or step_of_run(self, batch, number),
    )
    measured = plain_loop.measure("tiny", 2, tmp_path)
    assert steps == ["run", "plain"] * (plain_loop.WARM + 2)
    assert len(measured["pairs"]) == 2
    assert all(seconds > 0 for pair in measured["pairs"] for way in pair.values() for seconds in way)


def test_the_ratio_is_that_of_the_pairs(benchmarks: dict[str, ModuleType]) -> None:
    """The run takes a tenth longer in each pair, however long these take."""
    plain_loop = benchmarks["plain_loop"]
    pairs = [{"plain": (0.1 * n, 0.2 * n), "run": (0.11 * n, 0.2 * n)} for n in range(1, 101)]
    entry = plain_loop.summarise({"words": "some steps", "pairs": pairs})
    assert entry["wall"]["ratio"] == pytest.approx(1.1)
    assert entry["cpu"]["interval"] == pytest.approx((1, 1))
    page = plain_loop.page({"date": "today", "machine": {"processor": "P", "cores": 2}, "torch": "2", "sizes": [entry]})
    assert "| some steps | 100 | 5050.0 | 5555.0 | 1.100 (1.100 to 1.100) | 1.000 (1.000 to 1.000) |" in page
