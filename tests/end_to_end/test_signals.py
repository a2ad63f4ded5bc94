"""A signal ends a run with advice, and what it had learned is kept."""

import signal
import time
from pathlib import Path

import pytest

from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from tests.end_to_end.runs import start


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_and_it_can_be_resumed(
    repository: Path, tiny_yaml: Path, tmp_path: Path, number: int, code: int
) -> None:
    """A run of a hundred epochs is stopped after the first."""
    folder = tmp_path / "run"
    settings = ["--config", tiny_yaml, f"run_dir={folder}", "trainer.max_epochs=100"]
    process = start(repository, *settings)
    try:
        give_up = time.monotonic() + 120
        while not RunFolder(folder).last_checkpoint.exists() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert "\nstopping after this step" in error
    assert ("press Ctrl-C again to stop now" in error) == (number == signal.SIGINT)
    assert "steps of it are kept in" in error and "go on with resume=auto" in error
    checkpoint = read_checkpoint(RunFolder(folder).last_checkpoint)
    assert checkpoint["epoch"] < 99
    assert checkpoint["label_bank"]["num_labellings"] >= 1
    assert not (folder / "status.json").exists()
