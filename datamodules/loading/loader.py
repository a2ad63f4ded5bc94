"""Batches from loader processes, any of which may hang or die."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from datamodules.loading.sampling import ViewKey
from datamodules.loading.shared_memory import IN_USE, PREFETCH, SHARED_MEMORY
from datamodules.loading.slots import ClipSource, Filled, OrderedBatches, Orders, Slots
from datamodules.processes import cpu_seconds, end_with, own_memory, script_hidden
from datamodules.stores.reader import ClipReader, Facts, ProbingReader
from selavi.batch import ClipBatch
from selavi.media import WALL_FACTOR, MediaError
from selavi.modalities import Request, Streams, Window

POLL_S = 5.0
"""How long a batch is waited for before looking whether all processes are well."""
IDLE_S = 60.0
"""A batch that has not come while no process read anything for so long is lost."""

log = logging.getLogger("selavi")


class WatchedReader:
    """A ClipReader that says, in shared memory, which row each loader process is reading and since when."""

    def __init__(self, reader: ClipReader, num_workers: int) -> None:
        self.reader = reader
        # The row, or -1 for none; when it was begun or ended, 0: never; and the processor time of the process then.
        self.now = torch.tensor([[-1.0, 0.0, 0.0]] * num_workers, dtype=torch.float64).share_memory_()
        self.given_up: dict[int, tuple[str, str]] = {}

    def read(self, row: int, window: Window, request: Request) -> Streams:
        """Read a window; see ClipReader.

        Raises:
            MediaError: also where a process that read this row was lost before.
        """
        with self.watching(row):
            return self.reader.read(row, window, request)

    def facts(self, row: int) -> Facts:
        """Probe one recording; see ProbingReader.

        Raises:
            MediaError: also where a process that read this row was lost before.
        """
        with self.watching(row):
            return cast(ProbingReader, self.reader).facts(row)

    @contextmanager
    def watching(self, row: int) -> Iterator[None]:
        """Say that this row is being read.

        Raises:
            MediaError: a process that read this row was lost before.
        """
        if row in self.given_up:
            raise MediaError(Path(), *self.given_up[row])
        worker = get_worker_info()
        if worker is not None:
            self.now[worker.id, 1] = time.monotonic()
            self.now[worker.id, 2] = time.process_time()
            self.now[worker.id, 0] = row
        try:
            yield
        finally:
            if worker is not None:
                self.now[worker.id, 1] = time.monotonic()
                self.now[worker.id, 0] = -1


class ReadSource(ClipSource, Protocol):
    """A ClipSource whose clips come from a reader that can be exchanged."""

    reader: ClipReader

    def id_of(self, row: int) -> str:
        """The id of a clip, for messages."""
        ...


@dataclass(frozen=True)
class _Lost:
    """A loader process that died or hangs."""

    number: int
    pid: int
    row: int
    """What it was reading; -1 for nothing."""
    exit_code: int | None
    """None: it hangs."""

    def describe(self, clip_id: str | None) -> str:
        what = "hangs"
        if self.exit_code is not None:
            killed = f"was killed by {signal.Signals(-self.exit_code).name}" if self.exit_code < 0 else None
            what = killed or f"ended with exit code {self.exit_code}"
        return f"loader process {self.number} (pid {self.pid}) {what}" + (f" at clip {clip_id}" if clip_id else "")


class Loader:
    """A pass over a dataset in batches, as a DataLoader gives them, that outlives its processes.

    Where a process hangs at a clip, or the same clip kills it twice, the clip is given up (it comes without any
    modality, with its reason) and the pass goes on.  Any other death is forgiven once in a pass.  Views are a function
    of their key, so a pass that was taken up again gives what an unbroken one would have given.

    Attributes:
        begin_at: batches of the next pass that are left out, because an interrupted run has seen them; 0 afterwards.

    Args:
        dataset: its reader is replaced by a WatchedReader.
        sampler: keys of a pass, in order; Lightning calls its set_epoch.
        batch_size: clips a batch.
        clip_bytes: of the inputs of a clip; see selavi.modalities.num_bytes.
        num_workers: processes; 0: this one, which nothing protects.
        timeout_s: seconds of processor time that a clip may take; a process that takes more than twice as many hangs,
            and one that takes WALL_FACTOR times as many on the wall.
        pin_memory: for a faster way to a GPU.
        block: no batch crosses a multiple of this number of rows; 0: every batch but the last is full.
    """

    def __init__(
        self,
        dataset: ReadSource,
        sampler: Sampler[ViewKey],
        batch_size: int,
        *,
        clip_bytes: int,
        num_workers: int,
        timeout_s: float,
        pin_memory: bool,
        block: int = 0,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.num_workers, self.hang_s, self.pin_memory = num_workers, 2 * timeout_s + 1.0, pin_memory
        self.watched = dataset.reader = WatchedReader(dataset.reader, num_workers)
        self.batches = BatchSampler(sampler, batch_size, block)
        self.batch_bytes = batch_size * clip_bytes
        self.begin_at = 0
        self._slots: Slots | None = None
        self._loader: DataLoader | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yield the batches of a pass.

        Raises:
            RuntimeError: processes died twice in this pass, at different clips; or a batch was lost on its way.
        """
        delivered, self.begin_at = self.begin_at, 0
        suspects: set[int] | None = None  # rows that were being read when a process died; None: none died yet
        while True:
            batches: Iterator[ClipBatch | Filled] | None = None
            lost: list[_Lost] = []
            while not lost:
                try:
                    if batches is None:
                        batches = self._start(delivered)  # waits for the processes of an earlier pass
                    batch = next(batches)
                except StopIteration:
                    return
                except (RuntimeError, OSError, EOFError) as error:
                    waited = str(error).startswith("DataLoader timed out")
                    if not waited:
                        time.sleep(0.2)  # a broken connection is seen before the end of its process
                    lost = self._lost()
                    if waited and batches is None and not lost:
                        self._stop(lost)  # they are at clips of a pass that was given up half way: new ones begin
                        continue
                    if not lost and not waited:
                        raise
                    if not lost and self._idle():
                        raise RuntimeError(
                            f"batch {delivered} of this pass did not arrive though all loader processes wait for work; "
                            f"they may have said why above. Mostly {SHARED_MEMORY} is full: give it more room, or "
                            "lower data.num_workers or the batch size"
                        ) from error
                    continue
                delivered += 1
                yield batch.open() if isinstance(batch, Filled) else batch
            batches = None
            suspects = self._judge(lost, suspects, delivered)
            self._stop(lost)

    def process_bytes(self) -> int:
        """Most memory of its own that one of the loader processes has had; 0: there is none."""
        return max((own_memory(process.pid) for process in self._processes()), default=0)

    def _start(self, delivered: int) -> Iterator[ClipBatch | Filled]:
        self.batches.skip = delivered
        if self._slots is None and self.num_workers:
            self._slots = Slots(self.num_workers * PREFETCH + IN_USE, self.batch_bytes)
        if self._loader is None:
            self._loader = DataLoader(
                cast(Dataset[ClipBatch], OrderedBatches(self.dataset, self._slots)),
                batch_sampler=cast(Sampler[list[Any]], Orders(self.batches, self._slots)),
                num_workers=self.num_workers,
                collate_fn=_as_it_is,
                pin_memory=self.pin_memory,
                timeout=POLL_S if self.num_workers else 0,
                persistent_workers=self.num_workers > 0,
                prefetch_factor=PREFETCH if self.num_workers else None,
                multiprocessing_context="forkserver" if self.num_workers else None,  # forked FFmpeg may hang
                worker_init_fn=partial(_end_with, os.getpid()),
            )
        with script_hidden():
            return iter(self._loader)

    def _processes(self) -> list[BaseProcess]:
        return getattr(getattr(self._loader, "_iterator", None), "_workers", [])  # torch has no public way to them

    def _lost(self) -> list[_Lost]:
        lost = []
        for number, process in enumerate(self._processes()):
            assert process.pid is not None
            row, since_s, cpu_s = self.watched.now[number].tolist()
            hangs = row >= 0 and (
                cpu_seconds(process.pid) - cpu_s > self.hang_s or time.monotonic() - since_s > WALL_FACTOR * self.hang_s
            )
            if hangs or not process.is_alive():
                lost.append(_Lost(number, process.pid, int(row), process.exitcode))
        return lost

    def _idle(self) -> bool:
        """Whether processes have read clips, but none does now or did so lately."""
        rows, since_s, _ = self.watched.now.T
        return bool((rows < 0).all() and since_s.max() > 0 and time.monotonic() - since_s.max() > IDLE_S)

    def _judge(self, lost: list[_Lost], suspects: set[int] | None, delivered: int) -> set[int] | None:
        """Give up clips that make processes hang or die; stop where processes die of something else."""
        died = [process for process in lost if process.exit_code is not None]
        fates = "; ".join(p.describe(self.dataset.id_of(p.row) if p.row >= 0 else None) for p in lost)
        for process in lost:
            if process.exit_code is None:
                self.watched.given_up[process.row] = (
                    "timeout",
                    f"took more than {self.hang_s:g} s in a loader process",
                )
            elif suspects is not None and process.row in suspects:
                self.watched.given_up[process.row] = ("corrupt", "the loader process that read it died twice")
        unexplained = [process for process in died if process.row not in self.watched.given_up]
        if unexplained and suspects is not None:
            self.batches.skip = delivered
            clips = ", ".join(self.dataset.id_of(key.row) for key in next(iter(self.batches))[:5])
            raise RuntimeError(
                f"{fates}; it is the second time in this pass, at batch {delivered} ({clips} ...). Killed processes "
                "are mostly a lack of memory: lower data.num_workers or the batch size, or look at what dmesg says"
            )
        log.warning(f"{fates}; new loader processes go on at batch {delivered} of this pass")
        if not died:
            return suspects
        return {process.row for process in died if process.row >= 0} | (suspects or set())

    def _stop(self, lost: list[_Lost]) -> None:
        for number, process in enumerate(self._processes()):
            if any(one.number == number and one.exit_code is None for one in lost):
                process.kill()
        self._loader = None  # the last reference: its processes end
        self.watched.now[:] = torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64)


def _as_it_is(batch: Any) -> Any:
    """In place of torch's collating: OrderedBatches has done it."""
    return batch


def _end_with(pid: int, _: int) -> None:
    """End this loader process when the one that started it is gone; torch only looks at the fork server, its parent."""
    end_with(pid)


class BatchSampler(Sampler[list[ViewKey]]):
    """Batches of a sampler's keys without the first `skip`."""

    def __init__(self, sampler: Sampler[ViewKey], batch_size: int, block: int) -> None:
        self.sampler, self.batch_size, self.block, self.skip = sampler, batch_size, block, 0

    def __iter__(self) -> Iterator[list[ViewKey]]:
        return islice(self._all(), self.skip, None)

    def __len__(self) -> int:
        if self.block:
            return sum(1 for _ in self._all())
        return -(-len(cast(Sized, self.sampler)) // self.batch_size)

    def _all(self) -> Iterator[list[ViewKey]]:
        batch: list[ViewKey] = []
        for key in self.sampler:
            crosses = batch and self.block and key.row // self.block != batch[0].row // self.block
            if crosses or len(batch) == self.batch_size:
                yield batch
                batch = []
            batch.append(key)
        if batch:
            yield batch
