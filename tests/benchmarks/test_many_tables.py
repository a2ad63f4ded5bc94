"""benchmarks/many_tables.py: tables are what their numbers say, and the page is what came of them."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("common", "score_tables", "many_tables")


@pytest.mark.parametrize(
    "kind", ["normal", "classes", "low_rank", "student", "pareto", "repeated", "identity", "sparse"]
)
def test_every_kind_is_a_function_of_its_seed(benchmarks: dict[str, ModuleType], kind: str) -> None:
    make = benchmarks["score_tables"].KINDS[kind]
    first, second = (make(torch.Generator().manual_seed(3), 200, 12) for _ in range(2))
    assert first.shape == (200, 12) and first.isfinite().all()
    assert torch.equal(first, second)
    assert len(first.unique(dim=0)) <= (6 if kind == "repeated" else 200)


def test_drawn_tables_are_log_probabilities_of_many_sizes(benchmarks: dict[str, ModuleType]) -> None:
    tables = [benchmarks["score_tables"].draw(number) for number in (3, 5, 11, 12)]
    assert len({table.scores.shape for table in tables}) == 4
    for table in tables:
        torch.testing.assert_close(table.scores.float().exp().sum(1), torch.ones(len(table.scores)), atol=0.2, rtol=0)
        assert table.marginal.sum().item() == pytest.approx(1) and (table.marginal > 0).all()
    assert benchmarks["score_tables"].draw(5).name == tables[1].name
    assert torch.equal(benchmarks["score_tables"].draw(5).scores, tables[1].scores)


def test_the_page_shows_the_results(benchmarks: dict[str, ModuleType]) -> None:
    module = benchmarks["many_tables"]
    if not module.STORE.exists():
        pytest.skip("not measured yet: python benchmarks/many_tables.py")
    page = (ROOT / "docs" / "results" / "many_tables.md").read_text(encoding="utf-8")
    assert page == module.page(module.stored(), module.timed())


def test_a_table_that_was_not_solved_is_named(benchmarks: dict[str, ModuleType]) -> None:
    module = benchmarks["many_tables"]
    solved = module.solve(11)
    assert solved["converged"] and solved["kind"] == "classes" and solved["sizes"] == "uniform"
    failed = solved | {"name": "12: made up", "converged": False, "error": 0.5, "passes": 200}
    page = module.page({"11": solved, "12": failed}, [])
    assert "| all | 2 |" in page and "| 12: made up | 200, stopped | 5.0e-01 |" in page
    assert f"at most {solved['inner']:.1f} |" in page


def test_times_are_ratios_of_searches_that_take_turns(
    benchmarks: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, searches = benchmarks["many_tables"], []
    solved = module.solve(12)
    monkeypatch.setattr(module, "assign", lambda *_, **__: searches.append(module.search.TUNING))
    row = module.time_of(12)
    usual = module.search.TUNING
    assert searches == [usual, module.ALL_ROWS] * module.ROUNDS and usual != module.ALL_ROWS
    slow = row | {"candidates": 3.0, "all_rows": 2.0}
    fast = row | {"name": "13: made up", "candidates": 1.0, "all_rows": 4.0}
    page = module.page({"12": solved}, [slow, fast])
    assert "| 2 tables together, 1 of them slower | 0.67 |" in page and "| median table | 0.88 |" in page
    assert "| least: 13: made up | 0.25 |" in page and f"| most: {row['name']} | 1.50 |" in page
