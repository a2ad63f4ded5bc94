"""Calls of a kind are counted, and the n-th one fails."""

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from datamodules.stores import files

FILE_FAULTS = {
    "write": errno.ENOSPC,
    "fsync": errno.EIO,
    "replace": errno.EACCES,
    "open": errno.EMFILE,
    "unlink": errno.EACCES,
}
"""Calls that change a folder, and what the system says instead."""


class Failing:
    """Counts the calls of one kind that concern a folder, and lets one of them fail."""

    def __init__(self, kind: str, folder: Path, number: int) -> None:
        self.kind, self.folder, self.number = kind, str(folder), number
        self.calls, self.fired = 0, False

    def call(self, path: object) -> None:
        """Called before a call on a path, or on an open file."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not os.fsdecode(path).startswith(self.folder):  # type: ignore[arg-type]
            return
        if self.is_next():
            code = FILE_FAULTS[self.kind]
            raise OSError(code, os.strerror(code), None if self.kind == "write" else path)

    def is_next(self) -> bool:
        """Count a call; whether it is the one that fails."""
        self.calls += 1
        self.fired = self.fired or self.calls == self.number
        return self.calls == self.number


@contextmanager
def failing(kind: str, folder: Path, number: int) -> Iterator[Failing]:
    """Let the n-th call of a kind fail: of FILE_FAULTS, below the folder; decode, memory or all_sum, anywhere.

    decode: a recording cannot be opened; memory: there is none for a decoded clip; all_sum: torch's word of a peer that
    is gone.
    """
    fault = Failing(kind, folder, number)
    with pytest.MonkeyPatch.context() as patch:
        if kind in ("fsync", "replace", "unlink"):
            patch.setattr(os, kind, _before(fault, getattr(os, kind)))
            if kind == "unlink":
                patch.setattr(os, "remove", os.unlink)
        elif kind == "decode":
            refusal = OSError(errno.EIO, "Input/output error")
            patch.setattr(av, "open", _instead(fault, av.open, refusal))
        elif kind == "memory":
            refusal = MemoryError("Unable to allocate 7.5 GiB for an array")
            patch.setattr(files, "decode_clip", _instead(fault, files.decode_clip, refusal))
        elif kind == "all_sum":
            _patch_all_sum(fault, patch)
        else:
            _patch_open(fault, patch)
        yield fault


def numbers() -> Iterator[int]:
    """Which calls fail: all up to the 12th; then by half more each time, for there may be thousands of one kind."""
    number = 1
    while True:
        yield number
        number += number // 2 if number >= 12 else 1


def _before(fault: Failing, inner: Any) -> Any:
    def call(path: Any, *others: Any, **named: Any) -> Any:
        fault.call(path)
        return inner(path, *others, **named)

    return call


def _instead(fault: Failing, inner: Any, refusal: Exception) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        if fault.is_next():
            raise refusal
        return inner(*arguments, **named)

    return call


def _patch_all_sum(fault: Failing, patch: pytest.MonkeyPatch) -> None:
    """Wherever it was imported to."""
    from selavi.training.callbacks import saving, survival

    refusal = RuntimeError("process 0 of 2 lost touch with another one, which has ended or hangs")
    for module in (saving, survival):
        patch.setattr(module, "all_sum", _instead(fault, module.all_sum, refusal))


def _patch_open(fault: Failing, patch: pytest.MonkeyPatch) -> None:
    opened = io.open

    def open_file(path: Any, mode: str = "r", *others: Any, **named: Any) -> Any:
        writes = bool(set(mode) & set("wax+")) and not isinstance(path, int)
        if fault.kind == "open" and writes:
            fault.call(path)
        file = opened(path, mode, *others, **named)
        return _Writes(file, fault, path) if fault.kind == "write" and writes else file

    patch.setattr(io, "open", open_file)
    patch.setattr(builtins, "open", open_file)


class _Writes:
    """A file of which a write may fail."""

    def __init__(self, file: Any, fault: Failing, path: object) -> None:
        self.file, self.fault, self.path = file, fault, path

    def write(self, data: Any) -> int:
        self.fault.call(self.path)
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_Writes":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.file)
