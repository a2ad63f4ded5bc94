"""A set of 16 training and 8 test clips, smaller than that of the other tests: a sweep trains on it many times."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.synthetic import generate
from tests.conftest import TINY
from tools import train

SHORT = ("trainer.max_epochs=1", "labelling.num_labellings=2", "trainer.save_every_s=1e-9")


@pytest.fixture(scope="session")
def few_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody writes here."""
    root = tmp_path_factory.mktemp("few") / "media"
    generate(root, seed=5, clips_per_class={"train": 2, "test": 1}, progress=False)
    return root


@pytest.fixture(scope="session")
def fit_short(few_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """`fit_short(folder, "section.key=value", ...)` trains one epoch of two steps, with a checkpoint after each."""
    path = tmp_path_factory.mktemp("config") / "short.yaml"
    cache = tmp_path_factory.mktemp("cache")
    path.write_text(TINY.replace("data: {", f"data: {{root: {few_clips}, cache_dir: {cache}, "), encoding="utf-8")
    return lambda folder, *words: train.main(["--config", str(path), *SHORT, f"run_dir={folder}", *words])


@pytest.fixture(scope="session")
def short_run(fit_short: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which nothing fails.  Nobody writes here."""
    folder = tmp_path_factory.mktemp("short") / "run"
    assert fit_short(folder) == 0
    return folder
