"""Tensors that still lie in the file of a checkpoint, and are read where they are needed.

They are read and not mapped: a file that another machine replaces or deletes ends a process that has it mapped.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selavi.distributed import fail_together
from selavi.errors import UsageError
from selavi.shared_tensor import Shared, share

_BYTES_AT_ONCE = 1 << 26


class _OpenFile:
    """A file that is open for as long as a tensor in it may be read."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path, self._file = path, file

    def __del__(self) -> None:
        self._file.close()

    def read_into(self, place: int, memory: Tensor) -> None:
        """Fill memory (bytes,) uint8 with what the file has from a place on.

        Raises:
            UsageError: it cannot be read, or ends before.
        """
        left = memory.numpy().data
        try:
            self._file.seek(place)
            while left:
                num_read = self._file.readinto(left[:_BYTES_AT_ONCE])
                if not num_read:
                    raise OSError("it ends too early")
                left = left[num_read:]
        except OSError as error:
            raise UsageError(f"cannot read the checkpoint {self.path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: a view of some bytes, of which others may be views, too."""

    file: _OpenFile
    place: int
    """Where the bytes begin in the file."""
    num_bytes: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    first: int
    """Number of its first element in the bytes."""

    def __deepcopy__(self, _: dict[int, object]) -> Stored:
        return self  # Lightning copies what it gives to callbacks

    def read_bytes(self, memory: Tensor) -> None:
        """Read the bytes that it is a view of into memory (num_bytes,) uint8; see _OpenFile.read_into."""
        self.file.read_into(self.place, memory)

    def as_view(self, memory: Tensor) -> Tensor:
        """The tensor, as a view of memory that has its bytes."""
        return memory.view(self.dtype).as_strided(self.shape, self.stride, self.first)


def leave_in_file(path: Path) -> Any:
    """What torch.save wrote, each tensor of it as Stored; loaded with weights_only=True.

    A torch that does not say where in the file a tensor lies gives the tensors themselves.

    Raises:
        OSError: the file cannot be opened.
        ValueError: its parts are compressed, or are not those of its tensors; torch raises many other types for a
            damaged file.
    """
    file = path.open("rb", buffering=0)
    opened, parts = _OpenFile(path, file), _parts(file)
    file.seek(0)
    content = torch.load(file, map_location="meta", weights_only=True)
    if not _all_have_places(content):
        return torch.load(path, map_location="cpu", weights_only=True)

    def as_stored(tensor: Tensor) -> Stored:
        memory = tensor.untyped_storage()
        place, num_bytes = _place_of(memory), memory.nbytes()
        assert place is not None
        if parts.get(place) != num_bytes:
            raise ValueError(f"expected a part of {num_bytes} bytes at byte {place}")
        first = int(tensor.storage_offset())
        return Stored(opened, place, num_bytes, tensor.dtype, tensor.shape, tensor.stride(), first)

    return _replace(content, Tensor, as_stored)


def _place_of(memory: torch.UntypedStorage) -> int | None:
    """Where in the file the memory of a tensor lies: torch.load on the device meta notes it, under no public name."""
    place: int | None = getattr(memory, "_checkpoint_offset", None)
    return place


def _all_have_places(content: Any) -> bool:
    places = list[int | None]()

    def note(tensor: Tensor) -> Tensor:
        places.append(_place_of(tensor.untyped_storage()))
        return tensor

    _replace(content, Tensor, note)
    return None not in places


def _new_memory(num_bytes: int) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8)


def _parts(file: FileIO) -> dict[int, int]:
    """Where the parts of an archive begin, and the bytes of each."""
    places = {}
    with zipfile.ZipFile(file) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its parts are compressed, which those of torch.save are not")
            file.seek(part.header_offset + 26)
            lengths = struct.unpack("<HH", file.read(4))  # of the name and of what lies between it and the part
            places[part.header_offset + 30 + sum(lengths)] = part.file_size
    return places


def read_all(content: Any, but: Collection[str] = (), make_memory: Callable[[int], Tensor] = _new_memory) -> Any:
    """Read what still lies in a file, in nested mappings and lists, in place; views of the same bytes stay such.

    Args:
        content: of leave_in_file.
        but: keys of mappings, at any depth, whose values stay as they are.
        make_memory: number of bytes -> (bytes,) uint8.
    """
    memories: dict[int, Tensor] = {}

    def read(stored: Stored) -> Tensor:
        if stored.place not in memories:
            memories[stored.place] = make_memory(stored.num_bytes)
            stored.read_bytes(memories[stored.place])
        return stored.as_view(memories[stored.place])

    return _replace(content, Stored, read, but)


def read_shared(values: Mapping[str, Tensor | Stored]) -> dict[str, Shared]:
    """Read tensors into memory that the processes of a machine hold together; one of them reads, and all must come.

    Raises:
        UsageError: on all of them, where one could not read.
    """
    stored = {value.place: value for value in values.values() if isinstance(value, Stored)}
    empty = torch.zeros((), dtype=torch.uint8)
    memories = {place: share(empty.expand(value.num_bytes)) for place, value in stored.items()}
    with fail_together():
        for place, memory in memories.items():
            if memory.is_writer:
                stored[place].read_bytes(memory.values)
    shared = {}
    for name, value in values.items():
        if isinstance(value, Stored):
            memory = memories[value.place]
            shared[name] = Shared(value.as_view(memory.values), memory.is_writer)
        else:
            shared[name] = share(value.clone())
    return shared


def read_rows(value: Tensor | Stored, first: int, end: int) -> Tensor:
    """The numbers from `first` to before `end` of a tensor (N,) whose numbers lie one after the other."""
    if isinstance(value, Tensor):
        return value[first:end]
    size = value.dtype.itemsize
    memory = _new_memory((end - first) * size)
    value.file.read_into(value.place + (value.first + first) * size, memory)
    return memory.view(value.dtype)


def _replace(values: Any, kind: type, change: Callable[[Any], Any], but: Collection[str] = ()) -> Any:
    """Put others in the place of the values of a kind in nested mappings, lists and tuples."""
    if isinstance(values, kind):
        return change(values)
    if isinstance(values, dict):
        for key, value in values.items():
            if key not in but:
                values[key] = _replace(value, kind, change, but)
    elif isinstance(values, list):
        values[:] = [_replace(value, kind, change, but) for value in values]
    elif isinstance(values, tuple) and any(isinstance(value, kind | dict | list | tuple) for value in values):
        return tuple(_replace(value, kind, change, but) for value in values)
    return values
