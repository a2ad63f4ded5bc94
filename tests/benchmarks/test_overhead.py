"""benchmarks/overhead.py pairs steps with and without callbacks; its page shows medians with their intervals."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

MODULES = ("common", "overhead")


def measured(overhead_s: float) -> dict[str, Any]:
    """A hundred pairs of steps of 10 ms to 19.9 ms, the longer ones by `overhead_s`."""
    without = [0.010 + 0.0001 * number for number in range(100)]
    pairs = [{"with": [value + overhead_s, value + overhead_s], "without": [value, value]} for value in without]
    return {
        "pairs": pairs,
        "hooks_s": [9e-5] * 7,
        "saves_s": [0.03, 0.02],
        "steps_per_epoch": 6,
        "num_parameters": 1234,
    }


def test_differences_are_taken_within_pairs(benchmarks: dict[str, ModuleType]) -> None:
    entry = benchmarks["overhead"].summarise("tiny", measured(1e-4))
    assert entry["wall"]["difference_us"] == pytest.approx(100)
    assert entry["wall"]["interval_us"] == pytest.approx([100, 100])
    assert entry["wall"]["without_ms"] == pytest.approx(14.95)
    assert (entry["pairs"], entry["saves"], entry["save_ms"]) == (100, 2, pytest.approx(25))


def test_the_interval_of_a_median_is_made_of_the_values_around_it(benchmarks: dict[str, ModuleType]) -> None:
    interval = benchmarks["overhead"].median_interval
    assert interval([float(value) for value in range(100)]) == (40, 60)
    assert interval([3.0, 1.0, 2.0]) == (1, 3)


def test_the_page_says_what_part_of_a_step_it_is(benchmarks: dict[str, ModuleType]) -> None:
    overhead = benchmarks["overhead"]
    result = {
        "machine": {"processor": "a processor", "cores": 2},
        "torch": "2",
        "date": "today",
        "sizes": [overhead.summarise("tiny", measured(1e-4))],
    }
    page, words = overhead.page(result), overhead.SIZES["tiny"].words
    assert f"| {words} | 100 | 14.95 | 15.05 | 100 (100 to 100) | 100 (100 to 100) | 90 |" in page
    assert f"| {words} | 0.67 % (0.67 to 0.67) | 0.67 % (0.67 to 0.67) | 0.60 % | less |" in page
    assert f"| {words} | 1,234 | 2 | 25.0 | 0.004 % | 27.87 % of 0.09 s |" in page


def test_what_the_interval_does_not_tell_is_not_said(benchmarks: dict[str, ModuleType]) -> None:
    verdict = benchmarks["overhead"].verdict
    intervals = [[-50.0, 90.0], [50.0, 150.0], [150.0, 200.0]]
    verdicts = [verdict({"without_ms": 10.0, "interval_us": interval}) for interval in intervals]
    assert verdicts == ["less", "the pairs do not tell", "more"]


def test_every_other_step_goes_without_and_disturbed_ones_do_not_count(benchmarks: dict[str, ModuleType]) -> None:
    """Six steps, of which the first is disturbed by the start and the fourth by a checkpoint: two pairs."""
    switched, other = object(), object()
    switch = benchmarks["overhead"].Switch([switched], num_pairs=2)
    trainer = SimpleNamespace(callbacks=[switched, other, switch], should_stop=False)
    module = SimpleNamespace(label_bank=SimpleNamespace(num_labellings=0))
    switch.on_train_start(trainer, module)
    modes = []
    for step in range(6):
        modes.append(switched in trainer.callbacks)
        if step == 3:
            switch.on_train_epoch_end(trainer, module)
        assert not trainer.should_stop
        switch.on_train_batch_end(trainer, module)
    assert trainer.should_stop
    assert len(switch.pairs) == 2
    assert modes[0] and modes[1] != modes[2] and modes[4] != modes[5]
