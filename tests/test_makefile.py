"""What the targets of the Makefile would do; nothing is run."""

import shutil
import subprocess
from pathlib import Path

import pytest


def plan(repository: Path, folder: Path, *targets: str) -> str:
    """Commands of targets where no environment is there yet."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--dry-run", f"VENV={folder / 'venv'}", *targets]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout


def test_the_demo_installs_no_test_packages(repository: Path, tmp_path: Path) -> None:
    commands = plan(repository, tmp_path, "demo")
    assert "pip install --editable ." in commands and "[dev]" not in commands


@pytest.mark.parametrize("target", ["test", "lint", "types", "test-browser"])
def test_what_checks_the_code_does(repository: Path, tmp_path: Path, target: str) -> None:
    assert "pip install --editable '.[dev]'" in plan(repository, tmp_path, target)


def test_the_page_shows_the_clips_that_were_measured(repository: Path, tmp_path: Path) -> None:
    commands = plan(repository, tmp_path, "demo").splitlines()
    measured = next(line for line in commands if "tools/cluster_eval.py runs/demo" in line)
    exported = next(line for line in commands if "tools/export_clusters.py runs/demo" in line)
    assert "--split test" in measured and "--split test" in exported
