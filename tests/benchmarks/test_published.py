"""Published figures are those of benchmarks/results: pages and README are made from them, nothing by hand."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("common", "demo", "small_sets", "metrics")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:  # short names that another test may mean differently
        del sys.modules[name]


@pytest.mark.parametrize("name", ["demo", "small_sets"])
def test_the_page_shows_the_results(benchmarks: dict[str, ModuleType], name: str) -> None:
    if not (ROOT / "benchmarks" / "results" / f"{name}.json").exists():
        pytest.skip(f"not measured yet: python benchmarks/{name}.py")
    runs = benchmarks["common"].load_runs(name)
    assert (ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8") == benchmarks[name].page(runs)


def test_the_page_of_metrics_shows_the_results(benchmarks: dict[str, ModuleType]) -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "metrics.json").read_text(encoding="utf-8"))
    shown = (ROOT / "docs" / "results" / "metrics.md").read_text(encoding="utf-8")
    assert shown == benchmarks["metrics"].page(results)


def test_the_readme_shows_the_results(benchmarks: dict[str, ModuleType]) -> None:
    if not (ROOT / "benchmarks" / "results" / "demo.json").exists():
        pytest.skip("not measured yet: python benchmarks/demo.py")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    common, demo = benchmarks["common"], benchmarks["demo"]
    assert readme == common.fill(readme, "demo", demo.readme_numbers(common.load_runs("demo")))


def test_numbers_go_between_their_marks(benchmarks: dict[str, ModuleType]) -> None:
    fill = benchmarks["common"].fill
    text = "a\n<!-- numbers: x -->\nold\n<!-- end: x -->\nb\n<!-- numbers: y -->\nkept\n<!-- end: y -->\n"
    filled = fill(text, "x", "new\n")
    assert filled == text.replace("old", "new")
    assert fill(filled, "x", "new") == filled
    with pytest.raises(ValueError, match="no place for numbers"):
        fill(text, "z", "new")


def test_a_job_with_other_settings_is_another_run(benchmarks: dict[str, ModuleType]) -> None:
    jobs = benchmarks["demo"].jobs([0, 1], ablation=True, trial=[])
    folders = [job.run_dir() for job in jobs]
    assert len(set(folders)) == len(jobs) == 5  # two seeds of the first row, one of the other three
    assert [job.run_dir() for job in benchmarks["demo"].jobs([0, 1], ablation=True, trial=[])] == folders
    changed = benchmarks["demo"].jobs([0, 1], ablation=True, trial=["trainer.max_epochs=1"])
    assert not set(folders) & {job.run_dir() for job in changed}


def test_every_job_is_a_valid_configuration(benchmarks: dict[str, ModuleType]) -> None:
    from selavi.config import load_config

    small = benchmarks["small_sets"]
    jobs = benchmarks["demo"].jobs([0], ablation=True, trial=[])
    for small_set in small.SETS.values():
        jobs += small.jobs(small_set, list(small.MODALITIES), [0], [])
    for job in jobs:
        found = load_config(ROOT / job.config, [*job.overrides, f"seed={job.seed}"]).modalities
        assert ("video" in job.row, "sound" in job.row) == ("video" in found, "audio" in found)
