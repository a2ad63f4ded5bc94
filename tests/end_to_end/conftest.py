from pathlib import Path

import pytest

from tests.end_to_end.runs import Train
from tools import train


@pytest.fixture
def fit(tiny_yaml: Path) -> Train:
    """`fit(folder, "section.key=value", ...)` runs tools/train.py in this process."""
    return lambda folder, *overrides: train.main(["--config", str(tiny_yaml), f"run_dir={folder}", *overrides])
