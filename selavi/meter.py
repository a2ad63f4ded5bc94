"""How far a long job is: a bar on a terminal, a line now and then in a log; the only user of tqdm."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from selavi.wording import about, duration, speed

Item = TypeVar("Item")

LOG_EVERY_S = 10.0
MIN_ITEMS, MIN_S = 3, 5.0
"""After the first item, before what is left is estimated."""


class Pace:
    """How fast a job goes.  Its clock starts when the first item is done: starting processes is no part of the pace.

    Args:
        total: how many units the whole job is.
        done: how many of them were done before.
        clock: of seconds.
    """

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.clock = total, done, clock
        self._first: tuple[float, int] | None = None
        self._items, self._now = 0, 0.0

    def advance(self, count: int = 1) -> None:
        """Note that an item of `count` units is done."""
        self.done += count
        self._now = self.clock()
        if self._first is None:
            self._first = self._now, self.done
        else:
            self._items += 1

    def pause(self, seconds: float) -> None:
        """Leave time out that went to something else."""
        if self._first is not None:
            self._first = self._first[0] + seconds, self._first[1]

    @property
    def rate(self) -> float | None:
        """Units a second, or None as long as an estimate means nothing."""
        if self._first is None or self._items < MIN_ITEMS:
            return None
        began, first = self._first
        if self._now - began < MIN_S or self.done == first:
            return None
        return (self.done - first) / (self._now - began)

    @property
    def left_s(self) -> float | None:
        """Seconds to the end, or None as long as an estimate means nothing."""
        rate = self.rate
        return None if rate is None else (self.total - self.done) / rate


class Meter:
    """Shows on standard error how far a job is and, once it can be told, how long it will still take.

    Where that is no terminal, a line every `every_s` seconds takes the place of the bar, whose carriage returns would
    fill a log.

    Args:
        what: what is done, as the first word of a line.
        total: how many units the whole job is.
        unit: name of what is counted.
        done: how many of them were done before.
        every_s: between lines in a log.
    """

    def __init__(
        self, what: str, total: int, unit: str = "files", *, done: int = 0, every_s: float = LOG_EVERY_S
    ) -> None:
        self.what, self.unit, self.every_s = what, unit, every_s
        self.pace = Pace(total, done, time.monotonic)
        self.began = self.said = time.monotonic()
        self.before = done
        self.bar: tqdm | None = None
        if sys.stderr.isatty() and _columns() > 0:
            shown = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}{postfix}"
            self.bar = tqdm(
                desc=what,
                total=total,
                initial=done,
                unit=unit,
                bar_format=shown,
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def advance(self, count: int = 1, note: str | None = None, later_s: float = 0.0) -> None:
        """Note that an item of `count` units is done.

        Args:
            count: how many units the item was.
            note: said in place of the rate, such as a rate in other units.
            later_s: seconds that the job will take beside its units.
        """
        pace = self.pace
        pace.advance(count)
        if self.bar is not None:
            self.bar.set_postfix_str(self._words(note, later_s), refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.said > self.every_s and pace.done < pace.total:
            self.said = time.monotonic()
            words = ", ".join(filter(None, [f"{pace.done} of {pace.total} {self.unit}", self._words(note, later_s)]))
            say(f"{self.what}: {words}")

    def close(self, finished: bool = False) -> None:
        """Close the bar; in a log a job that finished gets a line."""
        if self.bar is not None:
            self.bar.close()
        elif finished:
            seconds, done = time.monotonic() - self.began, self.pace.done - self.before
            rate = done / max(seconds, 1e-9)
            say(f"{self.what}: {done} {self.unit} in {duration(seconds)}, {speed(rate)} {self.unit}/s")

    def _words(self, note: str | None, later_s: float) -> str:
        rate, left_s = self.pace.rate, self.pace.left_s
        how_fast = note if note is not None else "" if rate is None else f"{speed(rate)} {self.unit}/s"
        left = f"{about(left_s + later_s)} left" if left_s is not None and left_s + later_s > 0 else ""
        return ", ".join(filter(None, [how_fast, left]))


def follow(
    items: Iterable[Item], what: str, total: int, unit: str = "files", count: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Yield the items and show on standard error how far they are, how fast and how long it will take.

    Args:
        items: what is yielded.
        what: what is done to them, as the first word of a line.
        total: how many units all of them are.
        unit: name of what is counted.
        count: how many units an item is.
    """
    meter, finished = Meter(what, total, unit), False
    try:
        for item in items:
            yield item
            meter.advance(count(item))
        finished = True
    finally:
        meter.close(finished)


def _columns() -> int:
    """Width of the terminal; 0 where it has none, as under some recorders of sessions: no bar fits there."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal that the system knows, or no file
        return 80


def say(line: str) -> None:
    """Print a line to standard error without breaking a bar."""
    tqdm.get_lock()  # made within `write`, a Ctrl-C in between ends as another error (tqdm 4.70)
    tqdm.write(line, file=sys.stderr)
