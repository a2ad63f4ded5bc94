"""Room in shared memory for batches on their way from loader processes.  Imports no torch: doctor asks here too."""

import shutil
from pathlib import Path

from selavi.config import TrainerConfig
from selavi.errors import UsageError

PREFETCH = 2
"""Batches on their way from each loader process."""
IN_USE = 2
"""Batches that have arrived: the one that is worked on while the next is asked for, and that one."""
SHARED_MEMORY = Path("/dev/shm")


def needed_bytes(batch_bytes: int, num_workers: int) -> int:
    """Bytes of all batches that one loader holds at a time."""
    return batch_bytes * (PREFETCH * num_workers + IN_USE)


def processes_here(trainer: TrainerConfig, num_gpus: int) -> int:
    """Processes of a run on this machine, one a device; `num_gpus` is how many of them it could take."""
    if isinstance(trainer.devices, list):
        return max(1, len(trainer.devices))
    named = str(trainer.devices)
    return max(1, int(named) if named.isdigit() else num_gpus)


def require_shared_memory(
    batch_bytes: int, num_workers: int, setting: str = "data.num_workers", *, processes: int = 1
) -> None:
    """Raise UsageError where the batches of a run's loaders do not fit into shared memory.

    In the middle of a run a process that has no room there loses its batch, or dies of a bus error.

    Args:
        batch_bytes: size of a batch; of several loaders that are in use at a time, their sum.
        num_workers: loader processes of each process of the run.
        setting: what sets their number, for the message.
        processes: processes of the run on this machine, each with loaders of its own.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return
    needed = processes * needed_bytes(batch_bytes, num_workers)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        of_each = f" of each of {processes} processes" if processes > 1 else ""
        raise UsageError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MB free, but {num_workers} loader processes{of_each} have up to "
            f"{needed / 2**20:.0f} MB of batches there; give it more (docker run "
            f"--shm-size={-(-2 * needed // 2**30)}g), or lower {setting} or the batch size"
        )
