"""Processes that may die: many independent jobs, each under a limit of time and of memory.

A file that makes a decoder hang, run wild or crash costs one worker and a word about that file; the other jobs go on.
(concurrent.futures gives up on all of them when one worker dies.)
"""

import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running
from typing import Any, Generic, TypeVar

from selavi.media import WALL_FACTOR, MediaError

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 4
"""Ordered results: jobs begun before the one that is waited for, times the number of workers."""
_GRACE_S = 5.0
"""A worker that hangs inside a library and whose parent was killed ends itself so much later than its parent would have
ended it."""


@dataclass(frozen=True)
class Failure:
    """A job without a result."""

    reason: str
    """A status of the manifest: that of the MediaError which the function raised, `timeout`, `corrupt` where the
    worker died or ran out of its memory, `unreadable` where it was killed, which the kernel does when memory ends."""
    detail: str


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    workers: int = 0,
    deadline_s: float,
    memory_bytes: int,
    ordered: bool = False,
) -> Iterator[tuple[int, Result | Failure]]:
    """Call a function on many jobs in processes that may die.

    A job that kills its worker runs once more, alone, after the others, and only then fails: the kernel may have chosen
    it for the memory that a neighbour took.  A job over its deadline is not tried again.  When the iterator is closed,
    or an exception such as KeyboardInterrupt passes through it, all workers are killed.

    Args:
        function: module-level function or functools.partial of one.  Its module is imported in every worker: the
            less that imports, the sooner they start.
        jobs: what it is called with; read only as workers become free.
        workers: processes; 0: one for each core of this process.
        deadline_s: seconds of processor time that a job may take; on the wall WALL_FACTOR times as many, so that a busy
            machine makes no job fail.
        memory_bytes: address space that a worker may take on top of what it has after its imports.
        ordered: yield in the order of the jobs, holding back at most a few results a worker.  Else as completed.

    Yields:
        (number of the job, its result or Failure).

    Raises:
        RuntimeError: a worker died before its first job, so that no other would fare better.
        Exception: whatever else than a MediaError or MemoryError the function raised, with the worker's traceback
            as a note.
    """
    source = enumerate(jobs)
    limit = workers or len(os.sched_getaffinity(0))
    idle: list[_Worker[Job]] = []
    busy: dict[Connection, _Worker[Job]] = {}
    suspects: deque[tuple[int, Job]] = deque()
    held: dict[int, Result | Failure] = {}
    begun = given = 0
    ended = alone = False

    def begin(number: int, job: Job) -> None:
        worker = idle.pop() if idle else _Worker(function, deadline_s, memory_bytes)
        busy[worker.connection] = worker
        worker.begin(number, job)

    try:
        while True:
            while not ended and not alone and len(busy) < limit:
                if ordered and begun - given >= _AHEAD * limit:
                    break
                number, job = next(source, (-1, None))
                ended = number < 0
                if not ended:
                    begun += 1
                    begin(number, job)  # type: ignore[arg-type]
            if not busy:
                if not suspects:
                    return
                alone = True
                begin(*suspects.popleft())
            until_s = min(worker.look_again_s() for worker in busy.values())
            ready = set(wait(list(busy), max(0.0, min(until_s - time.monotonic(), 60.0))))
            for connection, worker in list(busy.items()):
                number, job = worker.number, worker.job
                outcome: Any = None
                if connection in ready:
                    outcome = worker.receive()
                    if outcome is _STARTED:
                        continue
                elif (late := worker.describe_lateness()) is not None:
                    worker.kill()
                    outcome = Failure("timeout", late)
                else:
                    continue
                del busy[connection]
                if worker.alive:
                    idle.append(worker)
                if outcome is _DIED:
                    if not alone:
                        suspects.append((number, job))
                        continue
                    # Nobody but the kernel, for lack of memory, or a person sends SIGKILL: the file may be well.
                    reason = "unreadable" if worker.cause == "SIGKILL" else "corrupt"
                    outcome = Failure(reason, f"the process that read it died twice ({worker.cause})")
                alone = False
                if isinstance(outcome, BaseException):
                    raise outcome
                if not ordered:
                    yield number, outcome
                    continue
                held[number] = outcome
                while given in held:
                    given += 1
                    yield given - 1, held.pop(given - 1)
    finally:
        for worker in [*idle, *busy.values()]:
            worker.kill()


_STARTED, _DIED = object(), object()


class _Worker(Generic[Job]):
    """A process with one job at a time."""

    def __init__(self, function: Callable[[Job], Any], deadline_s: float, memory_bytes: int) -> None:
        # Spawned, not forked: forked FFmpeg may hang, and the parent's memory would count as the worker's.
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.deadline_s, self.wall_s = deadline_s, WALL_FACTOR * deadline_s
        self.alive, self.started, self.cause = True, False, ""
        arguments = (theirs, function, self.wall_s, memory_bytes, os.getpid())
        self.process: BaseProcess = context.Process(target=_serve, args=arguments, daemon=True)
        ensure_running()  # it unblocks the keyboard where it starts its own process
        with _keyboard_blocked(), script_hidden():
            self.process.start()
        theirs.close()

    def begin(self, number: int, job: Job) -> None:
        self.number, self.job = number, job
        self._start_clocks()
        with suppress(OSError):  # it has died: receive() tells
            self.connection.send(job)

    def receive(self) -> Any:
        """What the worker says: that it has started, a result, a Failure, an exception, or that it is no more."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.kill()
            if not self.started:
                raise RuntimeError(
                    f"a worker process ended before its first job ({self.cause}); see what it printed above"
                ) from None
            return _DIED
        if not self.started:
            self.started = True
            self._start_clocks()
            return _STARTED
        return outcome

    def _start_clocks(self) -> None:
        self.until_wall_s = time.monotonic() + self.wall_s if self.started else float("inf")
        self.until_cpu_s = cpu_seconds(self.process.pid) + self.deadline_s if self.started else float("inf")

    def look_again_s(self) -> float:
        """When the deadline of the job can have passed at the earliest, on the monotonic clock."""
        left_s = max(self.until_cpu_s - cpu_seconds(self.process.pid), 0.05)
        return min(self.until_wall_s, time.monotonic() + left_s)

    def describe_lateness(self) -> str | None:
        """Say which limit of time the job is over; None for none."""
        if cpu_seconds(self.process.pid) >= self.until_cpu_s:
            return f"took more than {self.deadline_s:g} s of processor time"
        return f"took more than {self.wall_s:g} s" if time.monotonic() >= self.until_wall_s else None

    def kill(self) -> None:
        self.alive = False
        self.connection.close()
        self.process.join(0.2)  # it may be dying: then its own exit code says why
        self.process.kill()
        self.process.join(1.0)  # one that waits for a dead disk cannot be killed: leave it behind
        code = self.process.exitcode
        self.cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def cpu_seconds(pid: int | None) -> float:
    """Processor time that a process has used, with all its threads; 0.0 where it is no more."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_memory(pid: int | None) -> int:
    """Most bytes that a process has had of its own, without files and shared memory; 0 where it is no more."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file)
        most, files, shared = (int(fields[name].split()[0]) for name in ("VmHWM", "RssFile", "RssShmem"))
    except (OSError, KeyError, ValueError):
        return 0
    return 1024 * max(0, most - files - shared)


def end_with(pid: int) -> None:
    """End this process when another one is gone."""

    def watch() -> None:
        with suppress(ProcessLookupError):
            select.select([os.pidfd_open(pid)], [], [])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _serve(
    connection: Connection, function: Callable[[Any], Any], wall_s: float, memory_bytes: int, parent: int
) -> None:
    """Answer jobs until the parent is gone."""
    end_with(parent)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    allowed = now + memory_bytes if hard == resource.RLIM_INFINITY else min(hard, now + memory_bytes)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    connection.send(None)
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        # Nobody is left to kill a worker whose parent was killed: where a C library lets no thread run, the alarm does.
        signal.setitimer(signal.ITIMER_REAL, wall_s + _GRACE_S)
        outcome = _call(function, job, memory_bytes)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            connection.send(outcome)
        except BrokenPipeError:
            return
        except Exception:  # it cannot be pickled
            connection.send(RuntimeError("In a worker process:\n" + traceback.format_exc()))


def _call(function: Callable[[Any], Any], job: Any, memory_bytes: int) -> Any:
    try:
        return function(job)
    except MediaError as error:
        return Failure(error.reason, error.detail)
    except MemoryError:
        return Failure("corrupt", f"reading it takes more than {memory_bytes / 2**20:.0f} MB of memory")
    except Exception as error:
        error.add_note("In a worker process:\n" + traceback.format_exc())
        return error


@contextmanager
def script_hidden() -> Iterator[None]:
    """A process that starts in here does not run the script of this one again, as multiprocessing makes it do.

    So a script that uses selavi needs no `if __name__ == "__main__":`.  No job of this house lives in a script.
    """
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


@contextmanager
def _keyboard_blocked() -> Iterator[None]:
    """A process that starts in here never sees Ctrl-C, not even during its imports: its parent ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
