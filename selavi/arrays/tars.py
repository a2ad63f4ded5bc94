"""Vectors as members of .tar files, each an .npy file, named as webdataset names samples: ID.npy, or ID.KEY.npy."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Set
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from selavi.arrays.opened import Opened, choose, mapped, require_vectors
from selavi.arrays.rows import ArrayRows
from selavi.errors import UsageError
from selavi.id_tables import begin_array, load_array

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_tars(path: Path, key: str, copies: Path) -> Opened:
    """Open a .tar file, or a folder of them.

    An id is the member's name up to the first point of its last part; an array (V, D) is V views of its id.

    Args:
        path: of the file or the folder.
        key: what stands between id and .npy, where there are several arrays a sample.
        copies: folder and first letters of mapped copies.

    Raises:
        UsageError: a file is damaged, no member is a vector, or they differ in length.
    """
    files = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    try:
        members = [(name, kind, shape) for name, kind, shape, _ in _members(files)]
        kinds = list(dict.fromkeys(kind for _, kind, _ in members))
        kind = choose(path, key, kinds, kinds)
        shapes = [(name, shape) for name, one, shape in members if one == kind]
        num_rows = sum(shape[0] for _, shape in shapes)
        width = _width(path, {shape[1:] for _, shape in shapes})
        copy = mapped(copies, kind, lambda target: _write(files, kind, (num_rows, width), target))
    except UsageError:
        raise
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise UsageError(f"{path} is not a .tar file of .npy files, or it is damaged: {error}") from error
    ids = [name for name, shape in shapes for _ in range(shape[0])]
    return Opened(ArrayRows(load_array(copy)), pa.array(ids, pa.large_string()), "of its members' names")


def _members(files: list[Path]) -> Iterator[tuple[str, str, tuple[int, ...], IO[bytes]]]:
    """Id, kind, shape (V, D) and content, after its header, of each .npy file in them."""
    for path in files:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, slash, last = member.name.rpartition("/")
                name, _, ending = last.partition(".")
                content = archive.extractfile(member) if member.isfile() and last.endswith(".npy") else None
                if content is None:
                    continue
                version = np.lib.format.read_magic(content)
                read_header = _HEADERS.get(version)
                if read_header is None:
                    raise ValueError(f"{member.name} is of version {version} of the format")
                shape, _, dtype = read_header(content)
                rows = (1, *shape) if len(shape) == 1 else shape
                require_vectors(f"{path}, {member.name}", dtype.kind, rows, str(dtype))
                content.seek(0)
                yield f"{folder}{slash}{name}", ending.removesuffix("npy").rstrip("."), rows, content


def _width(path: Path, widths: Set[tuple[int, ...]]) -> int:
    if len(widths) > 1:
        raise UsageError(f"{path}: vectors of one file must be alike, found {sorted(widths)} numbers a row")
    return next(iter(widths))[0]


def _write(files: list[Path], kind: str, shape: tuple[int, int], target: IO[bytes]) -> None:
    begin_array(target, "<f4", shape)
    for _, one, _, content in _members(files):
        if one == kind:
            target.write(np.ascontiguousarray(np.load(io.BytesIO(content.read()), allow_pickle=False), "<f4").data)
