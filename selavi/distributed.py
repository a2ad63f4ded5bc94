"""Sums and gathers over processes; on one process they change nothing.  The only user of torch.distributed."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from selavi.errors import UsageError

_MEETINGS = itertools.count()
LONGEST_WAIT = timedelta(days=7)
"""Time that a process waits for one whose work is longer."""


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def message_device() -> torch.device:
    """Where a tensor must lie that is sent to the other processes."""
    if world_size() > 1 and "nccl" in dist.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def meet(environment: Mapping[str, str] = os.environ) -> None:
    """Go on when every process that torchrun has started has come here; one alone goes on at once.

    Between meetings each works for itself: rank() is 0, and nothing is summed.  Arrivals are counted in torchrun's own
    store, each meeting under its own name: a group of processes can be made there only once, and training needs it.
    """
    num_processes = int(environment.get("WORLD_SIZE") or 1)
    if num_processes == 1:
        return
    store, _, _ = next(dist.rendezvous("env://", timeout=LONGEST_WAIT))
    meeting = f"meeting {next(_MEETINGS)} of start {environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if store.add(f"{meeting}, here", 1) == num_processes:
        store.set(f"{meeting}, all here", "")
    store.wait([f"{meeting}, all here"], LONGEST_WAIT)


def part() -> None:
    """Let processes that trained together work each for itself."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def all_sum(tensor: Tensor) -> Tensor:
    """Add a tensor of one shape over all processes; the argument stays as it was.

    Raises:
        RuntimeError: another process has ended.
    """
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    try:
        dist.all_reduce(total)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(
            f"process {rank()} of {world_size()} lost touch with another one, which has ended or hangs: see what that "
            f"one printed ({reason})"
        ) from error
    return total


def sum_with_gradient(values: Tensor) -> Tensor:
    """Add a tensor over all processes, for a loss that all of them compute from the sum.

    Its gradient reaches only the own addend, times the number of processes: averaged over these, as gradients are, it
    is the gradient of that loss.
    """
    if world_size() == 1:
        return values
    return all_sum(values.detach()) + world_size() * (values - values.detach())


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Give tensors, in place, the values that they have on the first process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate (n, ...) tensors of all processes in the order of their ranks; n may differ or be 0."""
    if world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    most = max(int(c) for c in counts)
    padded = rows.new_zeros((most, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.zeros_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(c)] for part, c in zip(parts, counts, strict=True)])


@contextmanager
def fail_together() -> Iterator[None]:
    """Go on when the block has ended well on all processes, each of which must come here.

    Raises:
        UsageError: on all of them, where one has raised it: that of the first such process.
    """
    said = ""
    try:
        yield
    except UsageError as error:
        if world_size() == 1:
            raise
        said = f"{error}\0"
    if world_size() > 1:
        own = torch.tensor(list(said.encode()), dtype=torch.uint8, device=message_device())
        first, _, _ = bytes(gather_rows(own).tolist()).partition(b"\0")
        if first:
            raise UsageError(first.decode())
