"""What the end-to-end tests share: runs that are started, stopped, read and compared."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from selavi.errors import Interrupted
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.training import callbacks

Train = Callable[..., int]


def bank(folder: Path) -> torch.Tensor:
    return read_checkpoint(RunFolder(folder).last_checkpoint)["label_bank"]["labels"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(RunFolder(folder).last_checkpoint)["state_dict"]


def losses(folder: Path) -> list[float]:
    """Of the steps since the run was last taken up."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def assert_same_run(first: Path, second: Path) -> None:
    """The same labels, weights and statistics, to the last bit."""
    assert torch.equal(bank(first), bank(second))
    mine, other = weights(first), weights(second)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert torch.equal(value, other[name]), name
    assert pq.read_table(first / "labels/train.parquet").equals(pq.read_table(second / "labels/train.parquet"))


def start(
    repository: Path, *arguments: object, launcher: tuple[str, ...] = (), tool: str = "train"
) -> subprocess.Popen[str]:
    """A tool in a process of its own."""
    command = [sys.executable, *launcher, str(repository / "tools" / f"{tool}.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def stop_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Stop a training in this process after a step, as a signal does."""

    def stop(self: callbacks.Survival, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == step:
            raise Interrupted("stopped by a test")

    patch.setattr(callbacks.Survival, "on_train_batch_end", stop)
