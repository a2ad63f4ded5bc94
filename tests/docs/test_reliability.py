"""docs/reliability.md: each fault of its two tables names tests that exist."""

import re
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def rows(repository: Path) -> list[list[str]]:
    """The cells of both tables, without their heads."""
    text = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| #", "| fault"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_all_faults_are_listed(rows: list[list[str]]) -> None:
    assert [row[0] for row in rows if len(row) == 4] == [str(number) for number in range(1, 26)]
    assert len([row for row in rows if len(row) == 3]) == 17
    assert len(rows) == 25 + 17


def test_every_fault_has_tests_that_exist(rows: list[list[str]], repository: Path) -> None:
    for row in rows:
        tests = re.findall(r"`([\w/]+\.py)::(\w+)`", row[-1])
        assert tests, row
        for path, name in tests:
            assert f"def {name}(" in (repository / "tests" / path).read_text(encoding="utf-8"), f"{path}::{name}"
