"""The numbers of docs/prepared.md are those of benchmarks/results/prepared.json."""

import importlib
import json
import sys
from pathlib import Path

import pytest


def test_the_page_shows_the_results(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    try:
        prepared, common = importlib.import_module("prepared"), importlib.import_module("common")
        results = json.loads((repository / "benchmarks" / "results" / "prepared.json").read_text(encoding="utf-8"))
        page = (repository / "docs" / "prepared.md").read_text(encoding="utf-8")
        assert page == common.fill(page, "prepared", prepared.numbers(results))
    finally:
        for name in ("prepared", "common", "clips"):  # short names that another test may mean differently
            sys.modules.pop(name, None)
