"""The n-th call that writes fails, for n = 1, 2, 3 ... until a run ends without a fault.

After each fault: an exit code and a message, no traceback; what was there before is as it was, or the new one, whole;
no temporary file is left; and the same command goes on to the labels of the unbroken run.
"""

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from tests.end_to_end.runs import Train, assert_same_run

FAULTS = {"write": errno.ENOSPC, "fsync": errno.EIO, "replace": errno.EACCES, "open": errno.EMFILE}


class Failing:
    """Counts the calls of one kind that concern a folder, and lets one of them fail."""

    def __init__(self, kind: str, folder: Path, number: int) -> None:
        self.kind, self.folder, self.number = kind, str(folder), number
        self.calls, self.fired = 0, False

    def call(self, path: object) -> None:
        """Called before each call on a path, or on an open file."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not os.fsdecode(path).startswith(self.folder):  # type: ignore[arg-type]
            return
        self.calls += 1
        if self.calls == self.number:
            self.fired = True
            code = FAULTS[self.kind]
            raise OSError(code, os.strerror(code), None if self.kind == "write" else path)


@contextmanager
def failing(kind: str, folder: Path, number: int) -> Iterator[Failing]:
    """Let the n-th call of a kind fail."""
    fault = Failing(kind, folder, number)
    with pytest.MonkeyPatch.context() as patch:
        if kind in ("fsync", "replace"):
            inner = getattr(os, kind)

            def call(path: Any, *others: Any) -> Any:
                fault.call(path)
                return inner(path, *others)

            patch.setattr(os, kind, call)
        else:
            opened = io.open

            def open_file(path: Any, mode: str = "r", *others: Any, **named: Any) -> Any:
                writes = set(mode) & set("wax+")
                if kind == "open" and writes and not isinstance(path, int):
                    fault.call(path)
                file = opened(path, mode, *others, **named)
                return Writes(file, fault, path) if kind == "write" and writes and not isinstance(path, int) else file

            patch.setattr(io, "open", open_file)
            patch.setattr(builtins, "open", open_file)
        yield fault


class Writes:
    """A file of which a write may fail."""

    def __init__(self, file: Any, fault: Failing, path: object) -> None:
        self.file, self.fault, self.path = file, fault, path

    def write(self, data: Any) -> int:
        self.fault.call(self.path)
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Writes":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.file)


def check_whole(folder: Path) -> None:
    """Whatever of a run is there can be read."""
    files = RunFolder(folder)
    assert [path for path in folder.rglob("*.tmp")] == []
    for path in (files.last_checkpoint, files.previous_checkpoint):
        if path.exists():
            read_checkpoint(path)
    for path in folder.rglob("*.parquet"):
        pq.read_table(path)


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_training_in_which_any_call_fails_ends_well_and_goes_on(
    fit: Train, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    number = 0
    while True:
        number += 1
        folder = tmp_path / f"run{number}"
        capsys.readouterr()
        with failing(kind, folder, number) as fault:
            code = fit(folder, "trainer.save_every_s=1e-9")
        error = capsys.readouterr().err
        assert "Traceback" not in error
        if not fault.fired:
            assert code == 0
            break
        assert code in (0, 2), error  # 0: what failed was no part of the run, such as a log
        if code == 2:
            assert "error: " in error
        check_whole(folder)
        assert fit(folder, "resume=auto") == 0
        assert_same_run(folder, finished_run)
    assert number > 5
    print(f"{kind}: {number - 1} calls failed, one a run")
