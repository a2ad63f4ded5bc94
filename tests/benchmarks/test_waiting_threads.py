"""benchmarks/waiting_threads.py: its page is its results, and a step in a process of its own gives two times."""

import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("common", "waiting_threads")


def test_the_page_shows_the_results(benchmarks: dict[str, ModuleType]) -> None:
    module = benchmarks["waiting_threads"]
    page = (ROOT / "docs" / "results" / "waiting_threads.md").read_text(encoding="utf-8")
    assert page == module.page(json.loads(module.STORE.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_a_step_is_timed(benchmarks: dict[str, ModuleType]) -> None:
    wall, processor = benchmarks["waiting_threads"].step_seconds("GOMP_SPINCOUNT=1000", 0.1)
    assert wall > 0 and processor > 0
