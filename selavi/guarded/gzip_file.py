"""Compressed text, read within a budget of memory."""

import gzip
import io
from pathlib import Path
from typing import IO

from selavi.errors import UsageError
from selavi.guarded.budget import budget_of
from selavi.wording import byte_size

LEAST_BYTES = 1 << 26
"""What any file may unpack to.  As Python objects its lines and cells take many times as much."""


def open_gzip(path: Path, name: str) -> IO[bytes]:
    """Open a file of gzip; what reads it gets a UsageError where it unpacks to more than its budget.

    Args:
        path: of the file.
        name: what messages call it.
    """
    return io.BufferedReader(_Metered(path, name))


class _Metered(io.RawIOBase):
    """Counts what has been unpacked."""

    def __init__(self, path: Path, name: str) -> None:
        self._file, self._name = gzip.open(path), name  # noqa: SIM115 (close closes it)
        self._packed = path.stat().st_size
        self._budget = self._left = budget_of(self._packed, LEAST_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise UsageError(
                f"{self._name} has {byte_size(self._packed)} and unpacks to more than "
                f"{byte_size(self._budget)}: it is damaged, or made to fill the memory; "
                "if you trust it, unpack it with gunzip and give the file that comes out"
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
