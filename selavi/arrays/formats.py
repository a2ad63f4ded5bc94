"""Formats of files with vectors, known by their content; nothing in a file is ever run.

.npy           mapped into memory                            ids: a file of their own
safetensors    mapped into memory                            ids: a file of their own
.npz           copied once to a mapped file in the cache     ids: its array `ids` or `id`, or a file
Parquet        copied once to a mapped file in the cache     ids: its column `id`, or a file
HDF5           copied once to a mapped file in the cache     ids: its dataset `ids` or `id`, or a file
.tar           copied once to a mapped file in the cache     ids: the names of its members, or a file
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from selavi.arrays.hdf5 import open_hdf5
from selavi.arrays.opened import IDS, Opened, choose, digest, mapped, require_vectors
from selavi.arrays.rows import ArrayRows
from selavi.arrays.tars import open_tars
from selavi.errors import UsageError
from selavi.guarded.parquet import ParquetReader
from selavi.id_tables import as_text, begin_array, load_array, read_ids

_MOST_HEADER_BYTES = 100 << 20
"""The longest header of a safetensors file; the library's own limit."""
_SAFE_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
}


def open_file(path: Path, ids: Path | None, key: str, cache_dir: Path) -> Opened:
    """Open a file of vectors.

    Args:
        path: of the file, or of a folder of .tar files.
        ids: a file with an id for each row; None: those that the file has itself.
        key: which of several arrays or columns.
        cache_dir: for mapped copies.

    Raises:
        UsageError: it cannot be read, is of no known format, or holds no array (R, D) of numbers under that name.
    """
    try:
        files = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        with (files[0] if files else path).open("rb") as file:
            head = file.read(512)
        state = repr([(str(one.resolve()), one.stat().st_size, one.stat().st_mtime_ns) for one in files])
    except OSError as error:
        raise UsageError(f"cannot read the vectors in {path}: {error.strerror or error}") from error
    copies = cache_dir / f"vectors-{digest(state)}"
    opened = _format_of(path, head)(path, key, copies)
    if ids is None:
        return opened
    own = read_ids(ids, unique=False)
    return Opened(opened.rows, own["id"].combine_chunks(), f"of {ids}", [*opened.notes, *own.notes])


def _format_of(path: Path, head: bytes) -> Callable[[Path, str, Path], Opened]:
    """What opens such a file: (path, key, the folder and first letters of mapped copies) -> Opened."""
    if head.startswith(b"\x93NUMPY"):
        return _open_npy
    if head.startswith(b"PK\x03\x04"):
        return _open_npz
    if head.startswith(b"PAR1"):
        return _open_parquet
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return open_hdf5
    if head[257:262] == b"ustar":
        return open_tars
    if head[8:9] == b"{":
        return _open_safetensors
    raise UsageError(
        f"{path} is no file of vectors: expected .npy or .npz (numpy.save), Parquet, safetensors, HDF5 or .tar, found "
        f"{head[:8]!r} at its begin; nothing that runs code when it is read (pickle, .pt) is opened"
    )


def _open_npy(path: Path, key: str, copies: Path) -> Opened:
    values = load_array(path)
    require_vectors(str(path), values.dtype.kind, values.shape, str(values.dtype))
    return Opened(ArrayRows(values), None)


def _open_safetensors(path: Path, key: str, copies: Path) -> Opened:
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MOST_HEADER_BYTES else None
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}  # type: ignore[union-attr]
        shapes = {name: tuple(map(int, about["shape"])) for name, about in tensors.items()}
        name = choose(path, key, [name for name, shape in shapes.items() if len(shape) == 2], list(tensors))
        dtype, (begin, end) = tensors[name]["dtype"], map(int, tensors[name]["data_offsets"])
    except UsageError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is not a safetensors file, or it is damaged: {error}") from error
    is_known = dtype in _SAFE_TYPES or dtype == "BF16"
    require_vectors(f"{path}, {name}", "f" if is_known else "O", shapes[name], str(dtype))
    stored = np.dtype("<u2" if dtype == "BF16" else _SAFE_TYPES[dtype])
    size = shapes[name][0] * shapes[name][1] * stored.itemsize
    if end - begin != size or 8 + length + end > num_bytes:
        raise UsageError(f"{path} is damaged: the tensor {name} has {end - begin} bytes, expected {size}")
    values = np.memmap(path, stored, "r", 8 + length + begin, shapes[name])
    return Opened(_Brain(values) if dtype == "BF16" else ArrayRows(values), None)


class _Brain(ArrayRows):
    """Rows of bfloat16, which numpy does not know: the upper half of a float32."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        return (self.values[rows].astype(np.uint32) << 16).view(np.float32)


def _open_npz(path: Path, key: str, copies: Path) -> Opened:
    try:
        with np.load(path, allow_pickle=False) as archive:
            ids = next((archive[name] for name in IDS if name in archive.files), None)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            others = [name for name in names if name not in IDS]
            name = choose(path, key, others, names)
            copy = mapped(copies, name, lambda target: _unpack(archive, f"{name}.npy", target))
    except UsageError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays cannot be loaded" in str(error):
            error = ValueError("it holds Python objects, which are never loaded")
        raise UsageError(f"{path} is not an archive that numpy.savez wrote, or it is damaged: {error}") from error
    values = load_array(copy)
    require_vectors(f"{path}, {name}", values.dtype.kind, values.shape, str(values.dtype))
    texts = None if ids is None else pa.array([None if str(one) == "" else str(one) for one in ids], pa.large_string())
    return Opened(ArrayRows(values), texts, f"of its array {IDS[0]}")


def _unpack(archive: zipfile.ZipFile, member: str, target: IO[bytes]) -> None:
    with archive.open(member) as source:
        while block := source.read(1 << 24):
            target.write(block)


def _open_parquet(path: Path, key: str, copies: Path) -> Opened:
    with ParquetReader(path) as file:
        schema = file.schema
        id_column = next((name for name in IDS if name in schema.names), None)
        lists = [entry.name for entry in schema if _is_list(entry.type)]
        numbers = [entry.name for entry in schema if _is_number(entry.type) and entry.name != id_column]
        if key or lists or not numbers:
            columns = [choose(path, key, lists or numbers, schema.names)]
        else:
            columns = numbers
        notes = [] if key or len(columns) == 1 else [f"{path}: its {len(columns)} columns of numbers are the vectors"]
        copy = mapped(copies, ",".join(columns), lambda target: _write_columns(file, columns, target))
        ids = None
        if id_column is not None:
            read = pa.chunked_array([batch[0] for batch in file.batches([id_column])], schema.field(id_column).type)
            ids = as_text(read, id_column, str(path), notes).combine_chunks()
    return Opened(ArrayRows(load_array(copy)), ids, f"of its column {id_column}", notes)


def _is_list(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)) and (
        _is_number(kind.value_type)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _write_columns(file: ParquetReader, columns: list[str], target: IO[bytes]) -> None:
    """Write columns as one .npy file of float32, block by block."""
    width: int | None = None
    for batch in file.batches(columns, rows=1 << 14):
        block = _as_matrix(batch, width, file.name)
        if width is None:
            width = block.shape[1]
            begin_array(target, "<f4", (file.num_rows, width))
        target.write(np.ascontiguousarray(block, "<f4").data)
    if width is None:
        raise UsageError(f"{file.name} has no row")


def _as_matrix(batch: pa.RecordBatch, width: int | None, name: str) -> np.ndarray:
    """(n, D) float32 of list or number columns; a row that is null is NaN."""
    if not _is_list(batch.schema.field(0).type):
        columns = [column.to_numpy(zero_copy_only=False).astype(np.float32) for column in batch.columns]
        return np.stack(columns, 1)
    column = batch.column(0)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lists = [np.asarray(row.values.to_numpy(zero_copy_only=False), np.float32) for row in column if row.is_valid]
    widths = {len(row) for row in lists} | ({width} if width is not None else set())
    if len(widths) > 1:
        raise UsageError(f"{name}: vectors of one file must be alike, found {sorted(widths)} numbers a row")
    matrix = np.full((len(valid), widths.pop() if widths else 0), np.nan, np.float32)
    matrix[valid] = np.stack(lists) if lists else matrix[valid]
    return matrix


def blocks(num_rows: int, num_dims: int, num_bytes: int) -> Iterator[slice]:
    """Slices of so many rows as float32 of some bytes hold."""
    step = max(1, num_bytes // (4 * max(1, num_dims)))
    return (slice(begin, min(begin + step, num_rows)) for begin in range(0, num_rows, step))
