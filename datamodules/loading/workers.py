"""Loader processes, any of which may hang or die, and which several loaders may share."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from datamodules.loading.orders import OrderBook, Pass
from datamodules.loading.sampling import ViewKey
from datamodules.loading.shared_memory import IN_USE, PREFETCH, SHARED_MEMORY
from datamodules.loading.slots import ClipSource, Filled, OrderedBatches, Slots, opened
from datamodules.processes import cpu_seconds, end_with, own_memory, script_hidden
from datamodules.stores.reader import ClipReader, Facts, ProbingReader
from selavi.batch import ClipBatch, collate
from selavi.media import WALL_FACTOR, MediaError
from selavi.modalities import Request, Streams, Window

POLL_S = 5.0
"""How long a batch is waited for before looking whether all processes are well."""
IDLE_S = 60.0
"""A batch that has not come while no process read anything for so long is lost."""

log = logging.getLogger("selavi")


class WatchedReader:
    """A ClipReader that says, in shared memory, which row each loader process is reading and since when.

    Args:
        reader: reads the clips.
        now: (processes, 3) float64 in shared memory: the row, or -1 for none; when it was begun or ended, 0: never; and
            the processor time of the process then.
        given_up: rows that are not read any more, and why.
    """

    def __init__(self, reader: ClipReader, now: torch.Tensor, given_up: dict[int, tuple[str, str]]) -> None:
        self.reader, self.now, self.given_up = reader, now, given_up

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


class LoaderProcesses:
    """Processes that make the batches of one or several datasets, and are never waited for in vain.

    Where a process hangs at a clip, or the same clip kills it twice, the clip is given up (it comes without any
    modality, with its reason) and the pass goes on.  Any other death is forgiven once in a pass.  Views are a function
    of their key, so what was lost is ordered again and comes as it would have come.

    A pass may come in the middle of another, as a labelling does in an epoch; see OrderBook.

    Args:
        num_workers: processes; 0: this one, which nothing protects.
        timeout_s: seconds of processor time that a clip may take; a process that takes more than twice as many hangs,
            and one that takes WALL_FACTOR times as many on the wall.
        pin_memory: for a faster way to a GPU, where there is one.
    """

    def __init__(self, num_workers: int, *, timeout_s: float, pin_memory: bool) -> None:
        self.num_workers, self.hang_s = num_workers, 2 * timeout_s + 1.0
        self.pin_memory = pin_memory and torch.cuda.is_available()
        self.now = torch.tensor([[-1.0, 0.0, 0.0]] * num_workers, dtype=torch.float64).share_memory_()
        self.given_up: dict[int, tuple[str, str]] = {}
        self._datasets: list[ReadSource] = []
        self._batch_bytes: list[int] = []
        self._book = OrderBook()
        self._arriving: Iterator[ClipBatch | Filled | None] | None = None

    def add(self, dataset: ReadSource, batch_bytes: int) -> int:
        """Let the processes know a dataset, before they begin; returns its number.

        Args:
            dataset: of the same rows as the others; its reader is replaced by a WatchedReader.
            batch_bytes: of the inputs of a batch at the most.
        """
        assert self._arriving is None, "the processes have begun"
        dataset.reader = WatchedReader(dataset.reader, self.now, self.given_up)
        self._datasets.append(dataset)
        self._batch_bytes.append(batch_bytes)
        return len(self._datasets) - 1

    def batches(self, source: int, todo: Iterator[Sequence[ViewKey]], number: int) -> Iterator[ClipBatch]:
        """Yield the batches of a pass; one that was begun before over the same dataset ends.

        Args:
            source: number of the dataset.
            todo: keys of each batch.
            number: of the first batch in the pass, for messages.

        Raises:
            RuntimeError: processes died twice in this pass, at different clips; a batch was lost on its way; or
                another pass over the same dataset has begun.
        """
        if not self.num_workers:
            yield from self._made_here(source, todo)
            return
        own = self._book.begin(source, todo)
        suspects: set[int] | None = None  # rows that were being read when a process died; None: none died yet
        try:
            while True:
                self._book.turn_to(own)
                if own.arrived and not self._book.can_order_more(own):
                    number += 1
                    yield opened(own.arrived.popleft())
                elif own.is_over():
                    return
                elif lost := self._receive(number):
                    suspects = self._judge(lost, suspects, own, number)
                    self._stop(lost)
        finally:
            self._book.end(own)

    def process_bytes(self) -> int:
        """Most memory of its own that one of the loader processes has had; 0: there is none."""
        return max((own_memory(process.pid) for process in self._processes()), default=0)

    def _made_here(self, source: int, todo: Iterator[Sequence[ViewKey]]) -> Iterator[ClipBatch]:
        dataset = self._datasets[source]
        for keys in todo:
            batch = collate((dataset[key] for key in keys), len(keys))
            yield batch.pin_memory() if self.pin_memory else batch

    def _receive(self, number: int) -> list[_Lost]:
        """Wait for a batch, of any pass; returns the processes that are lost where it does not come for that."""
        while True:
            try:
                if self._arriving is None:
                    self._arriving = self._start()
                batch = next(self._arriving)
            except (RuntimeError, OSError, EOFError) as error:
                waited = str(error).startswith("DataLoader timed out")
                if not waited:
                    time.sleep(0.2)  # a broken connection is seen before the end of its process
                lost = self._lost()
                if waited and not lost and self._book.waits_in_vain():
                    self._stop(())  # a process is long at clips of a pass that was left: new ones begin
                    continue
                if lost:
                    return lost
                if waited and not self._idle():
                    continue
                self._stop(())
                if not waited:
                    raise
                raise RuntimeError(
                    f"batch {number} of this pass did not arrive though all loader processes wait for work; they may "
                    f"have said why above. Mostly {SHARED_MEMORY} is full: give it more room, or lower "
                    "data.num_workers or the batch size"
                ) from error
            except Exception:
                self._stop(())  # else nobody could say which batch comes next
                raise
            self._book.note(batch)
            return []

    def _start(self) -> Iterator[ClipBatch | Filled | None]:
        if not self._book.slots:
            self._book.slots = [Slots(self.num_workers * PREFETCH + IN_USE, size) for size in self._batch_bytes]
        loader = DataLoader(
            cast(Dataset[ClipBatch], OrderedBatches(self._datasets, self._book.slots)),
            batch_sampler=cast(Sampler[list[Any]], self._book.orders()),
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            timeout=POLL_S,
            prefetch_factor=PREFETCH,
            multiprocessing_context="forkserver",  # forked FFmpeg may hang
            generator=torch.Generator(),  # else it would draw from the one that dropout draws from
            worker_init_fn=partial(_end_with, os.getpid()),
        )
        with script_hidden():
            return iter(loader)

    def _processes(self) -> list[BaseProcess]:
        return getattr(self._arriving, "_workers", [])  # torch has no public way to them

    def _lost(self) -> list[_Lost]:
        lost = []
        for number, process in enumerate(self._processes()):
            assert process.pid is not None
            row, since_s, cpu_s = self.now[number].tolist()
            hangs = row >= 0 and (
                cpu_seconds(process.pid) - cpu_s > self.hang_s or time.monotonic() - since_s > WALL_FACTOR * self.hang_s
            )
            if hangs or not process.is_alive():
                lost.append(_Lost(number, process.pid, int(row), process.exitcode))
        return lost

    def _idle(self) -> bool:
        """Whether processes have read clips, but none does now or did so lately."""
        rows, since_s, _ = self.now.T
        return bool((rows < 0).all() and since_s.max() > 0 and time.monotonic() - since_s.max() > IDLE_S)

    def _judge(self, lost: list[_Lost], suspects: set[int] | None, own: Pass, number: int) -> set[int] | None:
        """Give up clips that make processes hang or die; stop where processes die of something else."""
        died = [process for process in lost if process.exit_code is not None]
        id_of = self._datasets[own.source].id_of
        fates = "; ".join(process.describe(id_of(process.row) if process.row >= 0 else None) for process in lost)
        for process in lost:
            if process.exit_code is None:
                self.given_up[process.row] = ("timeout", f"took more than {self.hang_s:g} s in a loader process")
            elif suspects is not None and process.row in suspects:
                self.given_up[process.row] = ("corrupt", "the loader process that read it died twice")
        unexplained = [process for process in died if process.row not in self.given_up]
        if unexplained and suspects is not None:
            clips = ", ".join(id_of(key.row) for key in self._book.next_keys(own)[:5])
            raise RuntimeError(
                f"{fates}; it is the second time in this pass, at batch {number} ({clips} ...). Killed processes "
                "are mostly a lack of memory: lower data.num_workers or the batch size, or look at what dmesg says"
            )
        log.warning(f"{fates}; new loader processes go on at batch {number} of this pass")
        if not died:
            return suspects
        return {process.row for process in died if process.row >= 0} | (suspects or set())

    def _stop(self, lost: Sequence[_Lost]) -> None:
        """End the processes; what they were told to make is ordered again of those that come."""
        for number, process in enumerate(self._processes()):
            if any(one.number == number and one.exit_code is None for one in lost):
                process.kill()
        if self._arriving is not None:
            cast(Any, self._arriving)._shutdown_workers()  # torch has no public way; else they end when it is collected
        self._arriving = None
        self._book.take_back()
        self.now[:] = torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64)


def _as_it_is(batch: Any) -> Any:
    """In place of torch's collating: OrderedBatches has done it."""
    return batch


def _end_with(pid: int, _: int) -> None:
    """End this loader process when the one that started it is gone; torch only looks at the fork server, its parent."""
    end_with(pid)
