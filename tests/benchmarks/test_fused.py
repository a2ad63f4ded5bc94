"""benchmarks/fused.py: its page is its results, and a tiny measurement gives what the page shows."""

from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("common", "fused")


def test_the_page_shows_the_results(benchmarks: dict[str, ModuleType]) -> None:
    page = (ROOT / "docs" / "results" / "fused.md").read_text(encoding="utf-8")
    assert page == benchmarks["fused"].page(benchmarks["common"].load_runs("fused"))


def test_both_encoders_are_timed(benchmarks: dict[str, ModuleType]) -> None:
    rows = benchmarks["fused"].measure("demo", 1, 1)
    assert [row["modality"] for row in rows] == ["video", "audio"]
    assert all(row["plain"] > 0 and row["fused"] > 0 and row["difference"] < 1e-4 for row in rows)
