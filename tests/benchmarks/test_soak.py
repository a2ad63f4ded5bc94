"""benchmarks/soak.py: what counts as growth, and what its page says of a training that was stopped again and again."""

import os
import random
from types import ModuleType
from typing import Any

import pytest

MODULES = ("common", "soak")


def life(soak: ModuleType, growth_mb: float = 0.0, files: int = 77) -> Any:
    """400 s of a process, 40 s of them its start, whose memory varies by 1 MB and grows by `growth_mb` in all."""
    draws = random.Random(0)
    samples = [
        soak.Sample(at_s, 3, 1000 + growth_mb * at_s / 400 + draws.uniform(-1, 1), 2000.0, files) for at_s in range(400)
    ]
    return soak.Life(samples=samples, first_checkpoint_s=40.0)


@pytest.mark.parametrize(("growth_mb", "is_flat"), [(0.0, True), (10.0, True), (60.0, False)])
def test_memory_that_grows_is_told_from_memory_that_varies(
    benchmarks: dict[str, ModuleType], growth_mb: float, is_flat: bool
) -> None:
    soak = benchmarks["soak"]
    watched = soak.watched(life(soak, growth_mb))
    entry = watched["main_mb"]
    assert watched["samples"] == 270  # 359 behind the first checkpoint, a quarter of them left out
    assert abs(entry["per_hour"] - 9 * growth_mb) <= 2 * entry["margin"]
    assert soak.is_flat("main_mb", watched) is is_flat
    assert soak.is_flat("files", watched)


def test_one_more_open_file_every_two_minutes_is_growth(benchmarks: dict[str, ModuleType]) -> None:
    soak = benchmarks["soak"]
    leaking = life(soak)
    leaking.samples = [soak.Sample(at_s, 3, 1000.0, 2000.0, 77 + at_s // 120) for at_s in range(400)]
    assert not soak.is_flat("files", soak.watched(leaking))


def test_a_process_that_hardly_trained_has_no_level(benchmarks: dict[str, ModuleType]) -> None:
    soak = benchmarks["soak"]
    assert soak.plateau(life(soak))["files"] == 77
    assert soak.plateau(soak.Life(samples=life(soak).samples[:42], first_checkpoint_s=40.0)) is None
    assert soak.plateau(soak.Life(samples=life(soak).samples)) is None


def test_a_process_is_seen_with_its_memory_and_files(benchmarks: dict[str, ModuleType]) -> None:
    """The leader of this test's own session, or nothing where that cannot be looked at."""
    samples = benchmarks["soak"].sample(os.getsid(0), 1.5)
    assert all(entry.main_mb > 0 and entry.files > 0 and entry.processes >= 1 for entry in samples)
    assert benchmarks["soak"].sample(-1, 0.0) == []


def test_the_page_counts_signals_and_says_what_is_equal(benchmarks: dict[str, ModuleType]) -> None:
    soak = benchmarks["soak"]
    level = {"main_mb": 970.0, "memory_mb": 2060.0, "files": 74.0}
    lives = [
        {"signal": "SIGTERM", "code": 75, "seconds": 60.0, "plateau": level},
        {"signal": "SIGUSR1", "code": -10, "seconds": 1.0, "plateau": None},
        {"signal": "", "code": 0, "seconds": 90.0, "plateau": level | {"files": 77.0}},
    ]
    result = {
        "date": "today",
        "command": "python benchmarks/soak.py",
        "machine": {"processor": "a processor", "cores": 2},
        "epochs": 1234,
        "labellings": 154,
        "seconds": 1200.0,
        "unbroken": soak.watched(life(soak)),
        "lives": lives,
        "labels_equal": True,
        "weights_equal": False,
    }
    page = soak.page(result)
    assert "The same training with 1 SIGTERM, 1 SIGUSR1" in page
    assert "3 processes, of those stopped 1 with -10, 1 with 75. What 2 of them" in page
    assert "| open files of all its processes | 74 | 77 | 74 to 77 |" in page
    assert "| open files of all its processes | 77 | 77 | 77 to 77 | +0.0 ± 0.0 | flat |" in page
    assert "are equal to those" in page and "the weights are\nNOT equal" in page
