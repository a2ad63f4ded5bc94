"""Several processes train as one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from selavi.config import LabellingConfig
from selavi.labelling.schedule import labelling_steps_of_parts
from selavi.runs.folder import RunFolder
from tests.end_to_end.runs import assert_same_run, bank, losses, start
from tools import cluster_eval


@pytest.mark.end_to_end
def test_two_processes_train_and_label_every_clip_once(
    repository: Path, tiny_yaml: Path, tmp_path: Path, demo_set: Path
) -> None:
    folder = tmp_path / "run"
    settings = ["trainer.devices=2", "trainer.strategy=ddp", "optim.batch_size=4", "trainer.max_epochs=2"]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(repository, "--config", tiny_yaml, f"run_dir={folder}", *settings, launcher=launcher)
    try:
        _, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, error
    labels = pq.read_table(folder / "labels" / "train.parquet")
    clips = sorted(path.relative_to(demo_set).as_posix() for path in (demo_set / "train").rglob("*.mp4"))
    for head in (0, 1):
        rows = labels.filter(np.array(labels["head"]) == head)
        assert rows["id"].to_pylist() == clips
        assert rows["cluster"].null_count == rows["confidence"].null_count == 0
    assert bank(folder).min() >= 0
    assert len(losses(folder)) == 8  # 32 clips, 2 x 4 a step, 2 epochs
    assert error.count("labelling 1/") == 1  # one of the two speaks
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0


@pytest.mark.slow
@pytest.mark.end_to_end
def test_two_processes_fine_tune_as_one(repository: Path, tiny_yaml: Path, finished_run: Path, tmp_path: Path) -> None:
    """Lightning's own launcher starts the second when the first has filled the run folder."""
    folder = tmp_path / "run"
    settings = ["trainer.devices=2", "trainer.strategy=ddp", "optim.batch_size=4", "trainer.max_epochs=1"]
    settings += ["finetune.validation_fraction=0.3", "finetune.test_views=1", "finetune.test_crops=1"]
    words = [finished_run, "--config", tiny_yaml, f"run_dir={folder}", *settings]
    process = start(repository, *words, tool="finetune")
    try:
        _, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, error
    figures = json.loads(RunFolder(folder).finetuning("test").read_text())
    assert figures["test"]["clips"] == 16
    assert error.count("held out; into") == 1  # one of the two speaks


@pytest.mark.slow
@pytest.mark.end_to_end
def test_two_processes_go_on_just_before_a_labelling_as_if_nothing_had_happened(
    repository: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    """Each normalises its own batches; what it has learned of them is lost where the run stops, but for the first."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    settings = ["--config", tiny_yaml, "trainer.devices=2", "trainer.strategy=ddp", "optim.batch_size=4"]
    settings += ["trainer.max_epochs=3", "labelling.num_labellings=4", "resume=auto"]
    at_step = labelling_steps_of_parts([3], 4, 4, LabellingConfig().power)[2]

    def train(folder: Path, tool: str, *words: object) -> tuple[int, str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *launcher, str(repository / tool), *map(str, (*words, *settings))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, f"run_dir={folder}"], env=environment, capture_output=True, text=True, timeout=400
        )
        return done.returncode, done.stderr

    code, error = train(unbroken, "tools/train.py")
    assert code == 0, error
    code, error = train(broken, "tests/end_to_end/stopped_at.py", at_step)
    assert f"stopped by a signal; {at_step} steps of it are kept" in error
    code, error = train(broken, "tools/train.py")
    assert code == 0, error
    assert_same_run(unbroken, broken)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits to be buried."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "is killed"])
def test_a_process_that_hangs_or_dies_ends_the_others_and_is_named(
    repository: Path, tiny_yaml: Path, tmp_path: Path, number: int
) -> None:
    """The second of two that Lightning's launcher started; the run then goes on from its last checkpoint."""
    folder = tmp_path / "run"
    settings = ["--config", tiny_yaml, f"run_dir={folder}", "trainer.devices=2", "trainer.strategy=ddp"]
    settings += ["optim.batch_size=4", "trainer.max_epochs=60", "trainer.timeout_s=20"]
    process = start(repository, *settings)
    files = RunFolder(folder)
    try:
        give_up = time.monotonic() + 200  # two processes start slowly on a busy machine
        while not files.last_checkpoint.exists() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.1)
        words = (files.pulse / "1").read_text()
        pid = int(words.split()[1])
        os.kill(pid, number)
        began = time.monotonic()
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 75, error
    assert f"lost touch with process 1 of 2 ({words}), last heard of" in error
    assert time.monotonic() - began < 60
    assert has_ended(pid)
