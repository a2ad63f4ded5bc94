"""benchmarks/flat.py: its page is its results, and both ways give the same features."""

from pathlib import Path
from types import ModuleType

import torch

from selavi.encoders.r2plus1d import R2Plus1D

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("common", "flat")


def test_the_page_shows_the_results(benchmarks: dict[str, ModuleType]) -> None:
    page = (ROOT / "docs" / "results" / "flat.md").read_text(encoding="utf-8")
    assert page == benchmarks["flat"].page(benchmarks["common"].load_runs("flat"))


def test_both_ways_are_timed(benchmarks: dict[str, ModuleType]) -> None:
    rows = benchmarks["flat"].measure("demo", 1, 1)
    assert [row["mode"] for row in rows] == list(benchmarks["flat"].MODES)
    assert all(row["3-D"] > 0 and row["2-D"] > 0 and row["difference"] < 1e-4 for row in rows)


def test_3d_convolutions_are_torchs_own(benchmarks: dict[str, ModuleType]) -> None:
    """The copy does what nn.Conv3d does, and the encoder that it is of stays as it was."""
    encoder = R2Plus1D(4, 10)
    copy = benchmarks["flat"].with_3d_convolutions(encoder)
    layer, solid = encoder.stem[0], copy.stem[0]
    assert solid.forward.__func__ is torch.nn.Conv3d.forward
    assert layer.forward.__func__ is not torch.nn.Conv3d.forward
