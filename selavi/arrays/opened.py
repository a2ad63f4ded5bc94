"""What every format of files of vectors has: what it gives, and a copy where its rows cannot be read one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa

from selavi.arrays.rows import Rows
from selavi.atomic import write_atomically
from selavi.errors import UsageError

_NUMBERS = "fiu"
IDS = ("id", "ids")
"""Names of what holds ids in a file that has several arrays or columns."""


@dataclass(frozen=True)
class Opened:
    """What a file holds.

    Attributes:
        rows: its vectors.
        ids: (R,) large_string, null where a row has none; None: the file has no ids, and none were named.
        ids_from: where they come from, in words.
        notes: what was guessed, a sentence each.
    """

    rows: Rows
    ids: pa.Array | None
    ids_from: str = ""
    notes: list[str] = field(default_factory=list)


def require_vectors(name: str, kind: str, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse what is no (R, D) of numbers.

    Args:
        name: of the file and the array in it.
        kind: numpy's letter for the type.
        shape: of the array.
        dtype: in words.

    Raises:
        UsageError: with what was found, and what to do.
    """
    if kind not in _NUMBERS:
        raise UsageError(f"{name}: expected numbers, found {dtype} {shape}; save it as .astype('float32')")
    if len(shape) != 2 or 0 in shape:
        advice = "one column is values[:, None]" if len(shape) == 1 else "one vector a row"
        raise UsageError(f"{name}: expected an array (R, D), found {dtype} {shape}; {advice}")


def choose(path: Path, key: str, candidates: list[str], names: list[str]) -> str:
    """The array or column that is meant."""
    if key and key not in names:
        raise UsageError(f"{path} has no {key!r}; it has {', '.join(names)}")
    if key:
        return key
    if len(candidates) != 1:
        what = f"{len(candidates)} that may be" if candidates else "none that is an array of"
        raise UsageError(f"{path} has {what} vectors ({', '.join(candidates or names)}): name one as the key")
    return candidates[0]


def mapped(copies: Path, name: str, write: Callable[[IO[bytes]], None]) -> Path:
    """A copy of an array that can be mapped into memory; made once for each state of the file."""
    copy = copies.with_name(f"{copies.name}-{digest(name)}.npy")
    if not copy.exists():
        with write_atomically(copy) as temporary, temporary.open("wb") as target:
            write(target)
    return copy


def digest(text: str) -> str:
    """16 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
