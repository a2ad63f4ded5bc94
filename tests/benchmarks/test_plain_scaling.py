"""benchmarks/plain_scaling.py: solver and loop take turns, the loop has a limit, and where it is faster it is named."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

MODULES = ("common", "score_tables", "many_tables", "transport", "plain_scaling")


def test_the_loop_reaches_the_error_or_stops_at_its_limit(benchmarks: dict[str, ModuleType]) -> None:
    plain = benchmarks["plain_scaling"]
    drawn = benchmarks["score_tables"].draw(11)
    seconds, error = plain.looped(drawn, 60.0)
    assert seconds > 0 and error <= 1e-6
    limited, reached = plain.looped(drawn, 0.0)
    assert limited < seconds and reached > 1e-6


def test_both_find_the_same_labels(benchmarks: dict[str, ModuleType]) -> None:
    transport = benchmarks["transport"]
    drawn = benchmarks["score_tables"].draw(11)
    labels, *_ = transport.scaling(transport.sharpen(drawn.scores), drawn.marginal, "error", sys.maxsize)
    found = benchmarks["plain_scaling"].assign(drawn.scores, drawn.marginal)
    assert (labels == found.labels).double().mean() > 0.999


def test_they_take_turns(benchmarks: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = benchmarks["plain_scaling"]
    turns: list[str] = []
    monkeypatch.setattr(plain, "labelled", lambda drawn: turns.append("solver") or (0.5, 1e-7))
    monkeypatch.setattr(plain, "looped", lambda drawn, most_s: turns.append("loop") or (most_s, np.nan))
    row = plain.race(benchmarks["score_tables"].draw(11))
    assert turns == ["solver", "loop"] * 3
    assert row["loop_s"] == 0.5 * plain.MOST_TIMES and row["loop_error"] is None


def test_a_table_on_which_the_loop_is_faster_is_named(benchmarks: dict[str, ModuleType]) -> None:
    plain = benchmarks["plain_scaling"]
    made = benchmarks["common"].measured_here()
    row = {"kind": "normal", "solver_s": 0.5, "loop_s": 1.5, "loop_error": 0.1, "environment": made}
    faster = row | {"name": "7: made up", "loop_s": 0.25, "loop_error": 1e-7}
    assert "Nowhere." in plain.page([row, row | {"loop_error": None}])
    assert "| all | 2 | 2 | 3.00 |" in plain.page([row, row | {"loop_error": None}])
    page = plain.page([row, faster])
    assert "| all | 2 | 1 | 0.50 |" in page and "| 7: made up | 500 | 250 |" in page


def test_scaling_is_what_it_was_without_a_limit(benchmarks: dict[str, ModuleType]) -> None:
    transport = benchmarks["transport"]
    plan = transport.sharpen(torch.randn(200, 5).log_softmax(1) / 20)
    _, iterations, error = transport.scaling(plan, torch.full((5,), 0.2, dtype=torch.float64), "error")
    assert iterations > 1 and error <= 1e-6
