"""Vectors in an HDF5 file, where h5py is installed."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from selavi.arrays.opened import IDS, Opened, choose, mapped, require_vectors
from selavi.arrays.rows import ArrayRows
from selavi.errors import UsageError
from selavi.id_tables import begin_array, load_array

_BLOCK_ROWS = 1 << 14


def open_hdf5(path: Path, key: str, copies: Path) -> Opened:
    """Open a dataset (N, D) of an HDF5 file.

    Args:
        path: of the file.
        key: of the dataset, such as `group/vectors`; empty: the only one that may be meant.
        copies: folder and first letters of mapped copies.

    Raises:
        UsageError: h5py is not installed, the file is damaged, or no dataset is an array of vectors.
    """
    try:
        import h5py  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise UsageError(f"{path} is an HDF5 file: pip install h5py, or save its arrays with numpy.save") from error
    try:
        with h5py.File(path, "r") as file:
            shapes: dict[str, tuple[int, ...]] = {}
            file.visititems(lambda name, one: shapes.update({name: one.shape} if hasattr(one, "shape") else {}))
            named = next((name for name in IDS if name in shapes), None)
            name = choose(path, key, [name for name, shape in shapes.items() if len(shape) == 2], list(shapes))
            data = file[name]
            require_vectors(f"{path}, {name}", data.dtype.kind, data.shape, str(data.dtype))
            copy = mapped(copies, name, lambda target: _write(data, target))
            ids = None if named is None else [_as_text(one) for one in file[named][:].tolist()]
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"{path} is not an HDF5 file, or it is damaged: {error}") from error
    texts = None if ids is None else pa.array(ids, pa.large_string())
    return Opened(ArrayRows(load_array(copy)), texts, f"of its dataset {named}")


def _write(data: Any, target: IO[bytes]) -> None:
    begin_array(target, data.dtype.str, data.shape)
    for begin in range(0, len(data), _BLOCK_ROWS):
        target.write(np.ascontiguousarray(data[begin : begin + _BLOCK_ROWS]).data)


def _as_text(one: object) -> str | None:
    text = one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)
    return text or None
