from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.doctor.machine import Machine, check_machine, read_machine
from datamodules.doctor.report import Check, Outcome
from datamodules.loading import shared_memory
from selavi.config import Config
from selavi.errors import UsageError
from selavi.modalities import num_bytes

TORCH = {"cuda": "13.0", "gpus": [], "said": []}
GPU = {"name": "H100", "memory_gb": 80.0, "bf16": True}
MACHINE = Machine(
    cores=8,
    memory_bytes=64 * 2**30,
    shared_bytes=8 * 2**30,
    disk_bytes=100 * 2**30,
    open_files=1 << 20,
    gpus=[GPU],
    no_gpu="",
    processes=1,
    on_gpu=True,
)


def machine_checks(machine: Machine, config: Config) -> dict[str, Check]:
    return {check.name: check for check in check_machine(machine, config)}


def test_shared_memory_must_hold_the_batches_of_both_loaders() -> None:
    config = Config()
    clip = 30 * 144 * 144 * 3 + 2 * 24_000
    assert num_bytes(config) == clip
    needed = clip * (16 + 64) * (2 * 4 + 2)
    assert machine_checks(replace(MACHINE, shared_bytes=needed), config)["/dev/shm"].mark == "ok"
    short = machine_checks(replace(MACHINE, shared_bytes=64 * 2**20), config)["/dev/shm"]
    assert short.mark == "problem" and "67 MB free, 1.5 GB needed" in short.finding and "--shm-size=3g" in short.advice
    config.data.num_workers = 0
    assert machine_checks(replace(MACHINE, shared_bytes=0), config)["/dev/shm"].mark == "ok"


def test_a_small_machine_is_warned_of() -> None:
    small = replace(MACHINE, cores=2, memory_bytes=2**30, disk_bytes=10**9, open_files=256)
    config = Config()
    config.data.cache_gb = 4
    checks = machine_checks(small, config)
    assert all(checks[name].mark == "warning" for name in ("cores", "memory", "disk", "open files"))
    assert checks["cores"].advice.startswith("data.num_workers=2")


def test_a_gpu_that_torch_does_not_see_is_explained() -> None:
    config = Config()
    assert machine_checks(MACHINE, config)["GPU"].finding == "H100 (80 GB), bfloat16"
    none = replace(MACHINE, gpus=[], on_gpu=False)
    assert machine_checks(none, config)["GPU"].mark == "warning"
    config.trainer.accelerator = "gpu"
    assert machine_checks(none, config)["GPU"].mark == "problem"
    old = machine_checks(replace(none, no_gpu="the NVIDIA driver on your system is too old"), config)["GPU"]
    assert "there is a driver, but the NVIDIA driver on your system is too old" in old.finding
    config.trainer.precision = "bf16-mixed"
    assert "emulated" in machine_checks(replace(MACHINE, gpus=[{**GPU, "bf16": False}]), config)["GPU"].finding


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    config = Config()
    config.data.cache_dir, config.trainer.devices = str(tmp_path / "not" / "there"), 3
    machine = read_machine(config, Outcome(facts={**TORCH, "gpus": [GPU]}))
    assert machine.cores >= 1 and machine.memory_bytes > 0 and machine.disk_bytes > 0
    assert (machine.processes, machine.on_gpu) == (3, True)
    config.trainer.devices, config.trainer.accelerator = "auto", "cpu"
    machine = read_machine(config, Outcome(facts={**TORCH, "gpus": [GPU, GPU]}))
    assert (machine.processes, machine.on_gpu) == (1, False)


def test_all_processes_of_a_run_share_cores_and_memory() -> None:
    """A machine with eight GPUs passed the check for one process, and a loader process died of a bus error later."""
    config = Config()
    needed = shared_memory.needed_bytes((16 + 64) * num_bytes(config), 4)
    one = replace(MACHINE, shared_bytes=needed, cores=4)
    assert all(check.mark == "ok" for check in check_machine(one, config))
    checks = machine_checks(replace(one, processes=8, memory_bytes=20 * 2**30), config)
    assert checks["/dev/shm"].mark == "problem" and "(32 loader processes)" in checks["/dev/shm"].finding
    assert checks["cores"].finding == "4 for the 8 processes of a run, but data.num_workers=4"
    assert checks["memory"].mark == "warning" and "8 models" in checks["memory"].finding


@pytest.mark.parametrize(
    ("devices", "num_gpus", "processes"), [("auto", 0, 1), ("auto", 8, 8), (4, 8, 4), ("2", 0, 2), ([0, 3], 4, 2)]
)
def test_a_run_has_a_process_for_each_device(devices, num_gpus: int, processes: int) -> None:
    config = Config()
    config.trainer.devices = devices
    assert shared_memory.processes_here(config.trainer, num_gpus) == processes


def test_shared_memory_is_refused_for_all_processes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    free = shared_memory.shutil.disk_usage("/")._replace(free=10 * 2**20)
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda _: free)
    shared_memory.require_shared_memory(2**20, 4)
    with pytest.raises(UsageError, match="has 10 MB free, but 4 loader processes of each of 2 processes have up to 20"):
        shared_memory.require_shared_memory(2**20, 4, processes=2)
