"""Tensors that the processes of a run on one machine hold together, so that the machine holds them once.

Their memory is anonymous (memfd): no folder lists it, no size of /dev/shm limits it, and it goes with the last process
that has it, however that one ends.  The first process of a machine makes it; the others find it among the open files of
that process:

    rank      0   1   2   3  |  4   5   6   7
    machine   -------a-------  -------b-------
    writes    0                4

Where they cannot, on other systems than Linux or in containers that do not see each other's processes, each has a
tensor of its own and writes it itself: the values are the same.
"""

import hashlib
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selavi.distributed import gather_rows, message_device, rank, world_size

_PROCESSES = Path("/proc")
_NAME = "selavi-shared"


@dataclass(frozen=True)
class Shared:
    """A tensor that the processes of a machine may hold together."""

    values: Tensor
    """The same memory in all of them."""
    is_writer: bool
    """Whether this process writes it; what it wrote before `wait_for_all` the others see afterwards."""


def share(tensor: Tensor) -> Shared:
    """The values that all processes have, in memory that those of a machine hold together; every process must come.

    Args:
        tensor: equal on all processes, on the CPU; an expanded one takes no memory.  A process that has none beside it
            on its machine keeps it as it is, but for an expanded one.
    """
    if world_size() == 1 or not tensor.numel():
        return Shared(tensor.contiguous(), True)
    own = _make_memory(tensor.nbytes)
    machines, ids, files = _tell_all(_machine(), os.getpid(), -1 if own is None else own)
    first = machines.index(machines[rank()])
    mapped = _map(ids[first], files[first], tensor.nbytes) if machines.count(machines[first]) > 1 else None
    is_writer = mapped is None or rank() == first
    values = tensor.contiguous() if mapped is None else torch.frombuffer(mapped, dtype=tensor.dtype).view(tensor.shape)
    if mapped is not None and is_writer:
        values.copy_(tensor)
    wait_for_all()
    if own is not None:
        os.close(own)
    return Shared(values, is_writer)


def wait_for_all() -> None:
    """Go on when all processes have come here: the values that one has written are there for all."""
    if world_size() > 1:
        _tell_all(0)


def _tell_all(*numbers: int) -> list[list[int]]:
    """Each of some numbers as a list of those of all processes, by rank."""
    own = torch.tensor([numbers], dtype=torch.int64, device=message_device())
    return gather_rows(own).T.tolist()


def _machine() -> int:
    """A number that the processes have in common that see the same processes."""
    try:
        boot = (_PROCESSES / "sys/kernel/random/boot_id").read_bytes()
        seen = (_PROCESSES / "self/ns/pid").stat().st_ino
    except OSError:
        return -1 - rank()
    return int.from_bytes(hashlib.blake2b(b"%s %d" % (boot, seen), digest_size=7).digest(), "big")


def _make_memory(num_bytes: int) -> int | None:
    """The number of an open file in memory, which takes none before it is written; None without such files."""
    make: Callable[[str], int] | None = getattr(os, "memfd_create", None)
    if make is None:
        return None
    with suppress(OSError):
        number = make(_NAME)
        os.ftruncate(number, num_bytes)
        return number
    return None


def _map(process: int, number: int, num_bytes: int) -> mmap.mmap | None:
    """An open file of a process in memory, mapped; None where it cannot be."""
    path = _PROCESSES / str(process) / "fd" / str(number)
    try:
        if _NAME not in str(path.readlink()):  # another process has that number where /proc is that of others
            return None
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), num_bytes)
    except (OSError, ValueError):  # mmap's, where it is of another size
        return None
