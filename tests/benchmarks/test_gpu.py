"""benchmarks/gpu.py at the size of a test and on the processor, so that it is right before it meets a GPU."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_section_runs_and_is_kept(tmp_path: Path) -> None:
    store = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--out", str(store)]
    subprocess.run(command, cwd=ROOT, check=True)
    results = json.loads(store.read_text(encoding="utf-8"))
    assert list(results) == ["step", "ways", "compiled", "parts"], "whole trainings need sets"
    assert {case["made"]["device"] for cases in results.values() for case in cases.values()} == {"cpu"}
    [case], [compiled] = results["step"].values(), results["compiled"].values()
    assert all(case[name] > 0 and math.isfinite(case[name]) for name in ("bare", "selavi", "flops_a_clip"))
    assert all(compiled[name] > 0 and math.isfinite(compiled[name]) for name in ("bare", "selavi"))
    ways = results["ways"]
    assert len(ways) == 8
    assert all("failed" not in way for way in ways.values())
    parts = results["parts"]
    assert parts["forward"]["ms"] < parts["step"]["ms"]
