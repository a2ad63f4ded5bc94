"""What this machine offers, against what the processes of a run need."""

import os
import re
import resource
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.doctor.report import Check, Mark, Outcome
from datamodules.loading.shared_memory import SHARED_MEMORY, needed_bytes, processes_here
from selavi.config import Config
from selavi.filesystem import free_disk
from selavi.modalities import num_bytes

_WORKER_BYTES = 400 * 2**20
"""Memory of a loader process: mostly torch."""
_MODEL_BYTES = 2**30
"""Memory of each process of a run beside its loader processes."""
_FILES_A_WORKER = 6
"""Open files of a training process for each of its loader processes: pipes."""


@dataclass(frozen=True)
class Machine:
    """What this process may use, as the system and its control group say."""

    cores: int
    memory_bytes: int
    """Memory that is free now."""
    shared_bytes: int
    """Free in /dev/shm; -1: the system has no such folder."""
    disk_bytes: int
    """Free where data.cache_dir is."""
    open_files: int
    """Most that one process may open."""
    gpus: Sequence[Mapping[str, Any]]
    """Name, memory_gb and bf16 of each that torch sees."""
    no_gpu: str
    """Why torch sees none although the machine has a driver; empty otherwise."""
    processes: int
    """Processes of a run here, which share the cores and the memory: one a device."""
    on_gpu: bool
    """Whether a run here takes a GPU."""


def read_machine(config: Config, torch: Outcome) -> Machine:
    """Look at this machine, as a run with these settings would find it; `torch` is the outcome of its probe."""
    gpus = torch.facts["gpus"]
    on_gpu = bool(gpus) and config.trainer.accelerator != "cpu"
    return Machine(
        cores=_cores(),
        memory_bytes=_free_memory(),
        shared_bytes=shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else -1,
        disk_bytes=free_disk(config.data.cache_dir),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        gpus=gpus,
        no_gpu="" if gpus else _why_no_gpu(torch),
        processes=processes_here(config.trainer, len(gpus) if on_gpu else 0),
        on_gpu=on_gpu,
    )


def _cores() -> int:
    cores: float = len(os.sched_getaffinity(0))
    quota = _text("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return max(1, int(cores))


def _free_memory() -> int:
    available = re.search(r"MemAvailable:\s+(\d+)", _text("/proc/meminfo"))
    memory = int(available[1]) * 1024 if available else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    used = re.search(r"^anon (\d+)", _text("/sys/fs/cgroup/memory.stat"), re.MULTILINE)  # without the page cache
    return min(memory, int(limit) - int(used[1])) if limit.isdigit() and used else memory


def _why_no_gpu(torch: Outcome) -> str:
    """Why torch sees no GPU although the machine has a driver; "" where it has none."""
    if not os.path.exists("/proc/driver/nvidia/version"):
        return ""
    if torch.facts["cuda"] is None:
        return "this torch is CPU-only"
    return " ".join(torch.facts["said"])[:300] or "torch does not see it"


def check_machine(machine: Machine, config: Config) -> list[Check]:
    """Compare a machine with what all processes of a run on it need."""
    return [
        _check_cores(machine, config),
        _check_memory(machine, config),
        _check_shared_memory(machine, config),
        _check_disk(machine, config),
        _check_open_files(machine, config),
        _check_gpu(machine, config),
    ]


def _check_cores(machine: Machine, config: Config) -> Check:
    text = f"{machine.cores} for {_all_processes(machine)}"
    share = max(1, machine.cores // machine.processes)
    if config.data.num_workers <= share:
        return Check("machine", "cores", "ok", text)
    text += f", but data.num_workers={config.data.num_workers}"
    return Check("machine", "cores", "warning", text, f"data.num_workers={share}: more do not help")


def _check_memory(machine: Machine, config: Config) -> Check:
    needed = machine.processes * (config.data.num_workers * _WORKER_BYTES + _MODEL_BYTES)
    text = f"{_gb(machine.memory_bytes)} free"
    if machine.memory_bytes >= needed:
        return Check("machine", "memory", "ok", text)
    models = "a model" if machine.processes == 1 else f"{machine.processes} models"
    text += f", the loader processes and {models} want about {_gb(needed)}"
    return Check("machine", "memory", "warning", text, "lower data.num_workers")


def _check_shared_memory(machine: Machine, config: Config) -> Check:
    """In a labelling, the batches of an epoch that it interrupts are in memory, too."""
    workers = config.data.num_workers
    batch_bytes = (config.optim.batch_size + config.labelling.batch_size) * num_bytes(config)
    needed = machine.processes * needed_bytes(batch_bytes, workers)
    if not workers:
        return Check("machine", "/dev/shm", "ok", "not used: data.num_workers=0")
    if machine.shared_bytes < 0:
        return Check("machine", "/dev/shm", "ok", "there is none")
    text = f"{_gb(machine.shared_bytes)} free, {_gb(needed)} needed ({machine.processes * workers} loader processes)"
    if machine.shared_bytes >= needed:
        return Check("machine", "/dev/shm", "ok", text)
    advice = (
        f"start the container with more (docker run --shm-size={-(-2 * needed // 2**30)}g), or lower "
        "data.num_workers, optim.batch_size or labelling.batch_size; data.num_workers=0 needs none"
    )
    return Check("machine", "/dev/shm", "problem", text, advice)


def _check_disk(machine: Machine, config: Config) -> Check:
    text = f"{_gb(machine.disk_bytes)} free where data.cache_dir is"
    if machine.disk_bytes >= config.data.cache_gb * 1e9:
        return Check("machine", "disk", "ok", text)
    advice = "point data.cache_dir at a larger disk, or lower data.cache_gb"
    return Check("machine", "disk", "warning", f"{text}, data.cache_gb={config.data.cache_gb:g}", advice)


def _check_open_files(machine: Machine, config: Config) -> Check:
    needed = 256 + config.data.num_workers * _FILES_A_WORKER
    text = f"{machine.open_files} for a process"
    if machine.open_files >= needed:
        return Check("machine", "open files", "ok", text)
    text += f", {config.data.num_workers} loader processes want about {needed}"
    return Check("machine", "open files", "warning", text, f"ulimit -n {max(4096, 2 * needed)}")


def _check_gpu(machine: Machine, config: Config) -> Check:
    gpus, accelerator = machine.gpus, config.trainer.accelerator
    if accelerator == "cpu":
        return Check("machine", "GPU", "ok", "not used: trainer.accelerator=cpu")
    if not gpus:
        mark: Mark = "problem" if accelerator in ("gpu", "cuda") else "warning"
        if machine.no_gpu:
            advice = "a newer driver, or torch's build for the CUDA that this driver knows"
            return Check("machine", "GPU", mark, f"there is a driver, but {machine.no_gpu}", advice)
        advice = "without one train small models: the configurations demo and small, trainer.accelerator=cpu"
        return Check("machine", "GPU", mark, "none", advice)
    names, bf16 = ", ".join(f"{gpu['name']} ({gpu['memory_gb']:.0f} GB)" for gpu in gpus), gpus[0]["bf16"]
    if config.trainer.precision == "bf16-mixed" and not bf16:
        text = f"{names}: bfloat16 is emulated there, and slow"
        return Check("machine", "GPU", "warning", text, "trainer.precision=32-true")
    return Check("machine", "GPU", "ok", f"{names}, {'bfloat16' if bf16 else 'no bfloat16'}")


def _all_processes(machine: Machine) -> str:
    return "this process" if machine.processes == 1 else f"the {machine.processes} processes of a run"


def _text(path: str) -> str:
    """The text of a file of the system, empty where it has none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.0f} MB"
