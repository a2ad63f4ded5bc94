"""Progress over many files: a bar on a terminal, a few lines in a log."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from selavi.meter import Meter

Item = TypeVar("Item")


def follow(
    items: Iterable[Item], what: str, total: int, unit: str = "files", count: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Yield the items and show on standard error how far they are, how fast and how long it will take.

    Args:
        items: what is yielded.
        what: is done to them, as the first word of a line.
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
