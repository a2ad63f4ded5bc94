"""Files appear whole or not at all, and one process at a time makes them."""

import fcntl
import glob
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def write_atomically(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; what is written there becomes `path` when the block ends.

    The file is flushed to disk before it takes its name, and the folder after, so a reader (also one after a
    power cut) sees the old file or the new one.  Where the block raises, the temporary file is removed and
    an older `path` stays as it was.

    With `previous`, an older `path` takes that name just before; for a moment `path` is then not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        if error.filename is None:  # of a write: the system names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to `path` through write_atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def next_free(path: Path) -> Path:
    """The name under which an earlier `path` is kept: names.csv becomes names.1.csv, names.2.csv ...

    The number is above all that are there, also where some of them are gone, so that none is overwritten.
    """
    pattern = re.compile(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    numbers = [int(match[1]) for other in path.parent.iterdir() if (match := pattern.fullmatch(other.name))]
    return path.with_name(f"{path.stem}.{max(numbers, default=0) + 1}{path.suffix}")


def sweep(path: Path) -> None:
    """Remove what writers of `path` left that were killed; only for the one process that may write it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; another process that wants it waits.  A lock ends with its process, so none goes stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hold(path: Path) -> IO[str] | None:
    """Take a lock file and write into it who has it; the lock lasts until the returned file is closed.

    None where another process has it; `holder` says which.
    """
    file = _lock_at_once(path, fcntl.LOCK_EX)
    if file is None:
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()
    return file


def hold_together(path: Path) -> IO[str] | None:
    """Take a lock file that others may take in the same way, but not by `hold`, until the returned file is closed.

    None where a process has it alone.
    """
    return _lock_at_once(path, fcntl.LOCK_SH)


def _lock_at_once(path: Path, kind: int) -> IO[str] | None:
    """Take a lock of fcntl.flock; None where that would mean to wait."""
    file = path.open("a+")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def claim(file: IO[str]) -> None:
    """Let is_held say of a file that is open to be written, until it is closed, that somebody has it."""
    with suppress(BlockingIOError):  # then somebody else has it
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether another process has a file that `hold` or `claim` takes; nothing is written."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


def open_in_use(path: Path) -> IO[bytes]:
    """Open a file to read, so that is_in_use says that somebody has it, until it and all copies of it are closed.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    file = path.open("rb")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def is_in_use(path: Path) -> bool:
    """Whether any process has a file that open_in_use opened."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def holder(path: Path) -> str:
    """Who has a lock file, or had it last."""
    with suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if text:
            return text[:200]
    return "another process"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
