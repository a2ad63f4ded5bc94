"""Progress over many files: a bar on a terminal, a few lines in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LOG_EVERY_S = 10.0


def follow(
    items: Iterable[Item], what: str, total: int, unit: str = "files", count: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Yield the items and show on standard error how far they are, how fast and how long it will take.

    Where that is no terminal, a line every LOG_EVERY_S seconds and one at the end take the place of the bar, whose
    carriage returns would fill a log.

    Args:
        items: what is yielded.
        what: is done to them, as the first word of a line.
        total: how many units all of them are.
        unit: name of what is counted.
        count: how many units an item is.
    """
    if sys.stderr.isatty():
        with tqdm(desc=what, total=total, unit=f" {unit}", dynamic_ncols=True, file=sys.stderr) as bar:
            for item in items:
                yield item
                bar.update(count(item))
        return
    began = said = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += count(item)
        now = time.monotonic()
        if now - said > LOG_EVERY_S and done < total:
            said = now
            rate = done / (now - began)
            left_s = (total - done) / rate
            print(f"{what}: {done} of {total} {unit}, {rate:.3g} {unit}/s, {left_s:.0f} s left", file=sys.stderr)
    seconds = time.monotonic() - began
    print(f"{what}: {done} {unit} in {seconds:.0f} s, {done / max(seconds, 1e-9):.3g} {unit}/s", file=sys.stderr)
