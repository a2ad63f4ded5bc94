"""What loader processes read of the clips, in one file that they map, in place of a copy in each of them.

The file holds plain numbers and texts; what they are the columns of comes to a process with the rest of its dataset, by
multiprocessing's own connection, and not from a file.

The large arrays of a dataset (columns of the manifest, places in shards) lie in a file named by what is in it, in
data.cache_dir.  Processes map it, so the machine holds it once: also for several ranks, which have the same clips.
Such a file goes when another one is made and no process has it open.
"""

import io
import logging
import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from selavi.atomic import is_in_use, locked, open_in_use, write_atomically
from selavi.errors import UsageError

LARGE = 1 << 16
"""Bytes from which on an array goes into the file."""
ENOUGH = 1 << 18
"""Fewer bytes of large arrays are sent to each process: not worth a file."""
_ALIGNED = 64

Value = TypeVar("Value")

log = logging.getLogger("selavi")


class Piece(NamedTuple):
    """An array in a file."""

    path: Path
    first: int
    num_bytes: int


class _Mapping(mmap.mmap):
    """A mapped file, which is in use as long as any array in it is."""

    path: Path
    address: int


_MAPPINGS: WeakValueDictionary[Path, _Mapping] = WeakValueDictionary()


def in_file(value: Value, folder: Path) -> Value:
    """The same value, its large arrays in a file in `folder`; as it is where they are few or lie there already.

    Where the folder cannot be written, a warning says so, and each loader process gets a copy.

    Args:
        value: that can be pickled; the arrays of the result cannot be written to.
        folder: data.cache_dir.
    """
    stream, arrays = _take_apart(value, lambda array: True)
    new = [array for array in arrays if _piece_of(array) is None]
    size = sum(map(len, new))
    if size < ENOUGH:
        return value
    try:
        written = iter(_write(new, folder))
    except OSError as error:
        log.warning(
            f"data.cache_dir={folder} cannot be written ({error.strerror or error}): {size / 1e9:.2g} GB go to each "
            "loader process in place of one file for all"
        )
        return value
    restored: Value = ForkingPickler.loads(
        stream, buffers=[next(written) if _piece_of(array) is None else array for array in arrays]
    )
    return restored


def by_pieces(value: Any) -> tuple[bytes, list[Piece]]:
    """A pickle of a value, for another process of this machine, and where its arrays lie that are in files.

    `from_pieces` gives the value there.
    """
    stream, arrays = _take_apart(value, lambda array: _piece_of(array) is not None)
    pieces = [_piece_of(array) for array in arrays]
    return stream, [piece for piece in pieces if piece is not None]


def from_pieces(stream: bytes, pieces: Sequence[Piece]) -> Any:
    """The value of which by_pieces gave these.

    Raises:
        UsageError: a file is gone.
    """
    return ForkingPickler.loads(stream, buffers=[open_piece(piece) for piece in pieces])


def open_piece(piece: Piece) -> memoryview:
    """An array in a file, (bytes,).

    Raises:
        UsageError: the file is gone.
    """
    mapping = _MAPPINGS.get(piece.path)
    if mapping is None:
        try:
            with open_in_use(piece.path) as file:
                mapping = _Mapping(file.fileno(), 0, access=mmap.ACCESS_READ)  # has a copy of the open file
        except OSError as error:
            raise UsageError(
                f"{piece.path}, which loader processes read, cannot be opened ({error.strerror or error}): leave "
                "data.cache_dir as it is while a run is under way; the same command goes on with resume=auto"
            ) from error
        mapping.path, mapping.address = piece.path, _address(memoryview(mapping))
        _MAPPINGS[piece.path] = mapping
    return memoryview(mapping)[piece.first : piece.first + piece.num_bytes]


def _take_apart(value: Any, is_apart: Callable[[memoryview], bool]) -> tuple[bytes, list[memoryview]]:
    """A pickle without some of the large arrays, and these."""
    arrays: list[memoryview] = []

    def keep_inside(buffer: Any) -> bool:
        array: memoryview = buffer.raw()
        if len(array) < LARGE or not is_apart(array):
            return True
        arrays.append(array)
        return False

    stream = io.BytesIO()
    ForkingPickler(stream, 5, True, keep_inside).dump(value)
    return stream.getvalue(), arrays


def _write(arrays: Sequence[memoryview], folder: Path) -> list[memoryview]:
    """The same arrays, in a file of theirs, which is written unless it is there.

    Raises:
        OSError: it cannot be.
    """
    digest = blake2b(digest_size=12)
    for array in arrays:
        digest.update(b"%d," % len(array))
        digest.update(array)
    path = (folder / f"clips-{digest.hexdigest()}.mapped").absolute()
    pieces, end = [], 0
    for array in arrays:
        pieces.append(Piece(path, end, len(array)))
        end += -(-len(array) // _ALIGNED) * _ALIGNED
    with locked(folder / "clips.lock"):
        if not path.exists() or not _holds(path, arrays, pieces, end):
            _remove_unused(folder)
            with write_atomically(path) as temporary, temporary.open("wb") as file:
                for array in arrays:
                    file.write(array)
                    file.write(bytes(-len(array) % _ALIGNED))
        return [open_piece(piece) for piece in pieces]


def _holds(path: Path, arrays: Sequence[memoryview], pieces: Sequence[Piece], num_bytes: int) -> bool:
    """Whether a file has these arrays, byte for byte: one that is damaged has its name all the same."""
    if path.stat().st_size != num_bytes:
        return False
    kept = (np.frombuffer(open_piece(piece), np.uint8) for piece in pieces)
    return all(np.array_equal(one, np.frombuffer(array, np.uint8)) for one, array in zip(kept, arrays, strict=True))


def _remove_unused(folder: Path) -> None:
    for path in folder.glob("clips-*.mapped"):
        with suppress(OSError):
            if not is_in_use(path):
                path.unlink()


def _piece_of(array: memoryview) -> Piece | None:
    """Where an array lies in a mapped file; None where it lies elsewhere."""
    address = _address(array)
    for mapping in [*_MAPPINGS.values()]:
        first = address - mapping.address
        if first >= 0 and first + len(array) <= len(mapping):
            return Piece(mapping.path, first, len(array))
    return None


def _address(array: memoryview) -> int:
    return int(np.frombuffer(array, np.uint8).__array_interface__["data"][0])
