"""Progress over many files: a bar on a terminal, a few lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LOG_EVERY_S = 10.0


def follow(items: Iterable[Item], what: str, total: int, unit: str = "files") -> Iterator[Item]:
    """Yield the items and show on standard error how far they are, how fast and how long it will take.

    Where that is no terminal, a line every LOG_EVERY_S seconds and one at the end take the place of the bar, whose
    carriage returns would fill a log.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, what, total, unit=f" {unit}", dynamic_ncols=True, file=sys.stderr)
        return
    began = said = time.monotonic()
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said > LOG_EVERY_S and done < total:
            said = now
            rate = done / (now - began)
            left_s = (total - done) / rate
            print(f"{what}: {done} of {total} {unit}, {rate:.3g} {unit}/s, {left_s:.0f} s left", file=sys.stderr)
    seconds = time.monotonic() - began
    print(f"{what}: {done} {unit} in {seconds:.0f} s, {done / max(seconds, 1e-9):.3g} {unit}/s", file=sys.stderr)
