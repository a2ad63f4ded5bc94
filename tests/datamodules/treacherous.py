"""Readers that hang or die, for loader processes: what those import decides how soon they start."""

import os
import signal
import time
from pathlib import Path
from typing import Any


class Treacherous:
    """A reader that hangs or dies at some rows; `mark` lets it die at that row once only."""

    def __init__(
        self,
        reader: Any,
        hangs: int = -1,
        dies: tuple[int, ...] = (),
        mark: Path | None = None,
        busy: bool = False,
    ) -> None:
        self.reader, self.hangs, self.dies, self.mark, self.busy = reader, hangs, dies, mark, busy

    def read(self, row: int, *args: Any):
        if row == self.hangs:
            while self.busy:
                pass
            time.sleep(1000)
        if row in self.dies and not (self.mark and self.mark.exists()):
            if self.mark:
                self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.reader.read(row, *args)


class Once:
    """Lets a treacherous reader die at some rows once only."""

    def __init__(self, reader: Treacherous, marks: dict[int, Path]) -> None:
        self.reader, self.marks = reader, marks

    def read(self, row: int, *args: Any):
        if row in self.marks:
            if self.marks[row].exists():
                return self.reader.reader.read(row, *args)
            self.marks[row].touch()
        return self.reader.read(row, *args)


def unsendable(*batch: object) -> object:
    """A batch that gets lost: it cannot cross to another process, as when there is no room for it."""
    return lambda: batch
