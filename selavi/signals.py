"""Signals that ask a command to stop, from its first line on: they end it as Ctrl-C does, with its cleaning up."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they kill; the keyboard's SIGINT raises KeyboardInterrupt by itself."""


class Terminated(KeyboardInterrupt):
    """A signal of STOPPING has come."""

    exit_code = 75


@contextmanager
def stopping_signals() -> Iterator[list[str]]:
    """Let signals of STOPPING raise Terminated in the main thread while the block runs.

    Yields the names of those that have come: what Terminated passes through may raise a plain KeyboardInterrupt in its
    place (Ray, while it waits).
    A process that is forked from this one dies of them as ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    owner, received = os.getpid(), list[str]()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        received.append(signal.Signals(number).name)
        raise Terminated(received[-1])

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
