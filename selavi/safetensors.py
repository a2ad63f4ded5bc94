"""The safetensors format: an 8-byte length, a JSON header of that length, the tensors' bytes.  No code can be in it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selavi.atomic import write_atomically
from selavi.errors import UsageError

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_MAX_HEADER = 100_000_000  # bytes, as the library has it


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors (little-endian, row-major) and text under names, whole or not at all.

    Raises:
        KeyError: a tensor's type is not one of the format's that torch computes with.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    arrays, end = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):  # so that all are aligned
        tensor = tensors[name].detach().cpu().contiguous()
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        arrays.append(tensor.view(-1).view(torch.uint8).numpy())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            file.write(array.data)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the text of a file; its header is believed only as far as the file's size bears it out.

    Raises:
        UsageError: the file cannot be read, or is not one of this format; the message says where it fails.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size - 8 - length
            if length > _MAX_HEADER or size < 0:
                raise ValueError(f"a header of {length} bytes in a file of {path.stat().st_size}")
            header = json.loads(file.read(length))
            if not isinstance(header, dict):
                raise ValueError("its header is no JSON object")
            data = bytearray(file.read())
        metadata = header.pop("__metadata__", {})
        return {name: _tensor(name, entry, data) for name, entry in _in_order(header, size)}, metadata
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not a safetensors file, or it is damaged: {error or type(error).__name__}"
        ) from error


def _in_order(header: dict[str, Any], size: int) -> list[tuple[str, dict[str, Any]]]:
    """The entries by place, once they cover the data without gap or overlap."""
    entries = sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"]))
    end = 0
    for name, entry in entries:
        begin, after = entry["data_offsets"]
        if begin != end or after < begin:
            raise ValueError(f"tensor {name} lies at {begin} to {after}, expected it to begin at {end}")
        end = after
    if end != size:
        raise ValueError(f"its tensors have {end} bytes, the file holds {size}")
    return entries


def _tensor(name: str, entry: dict[str, Any], data: bytearray) -> Tensor:
    (begin, end), shape = entry["data_offsets"], entry["shape"]
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"tensor {name} has the type {entry['dtype']}, expected one of {', '.join(_TYPES)}")
    dtype = _TYPES[entry["dtype"]]
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"tensor {name} of shape {shape} does not have {end - begin} bytes")
    if begin == end:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=math.prod(shape), offset=begin).view(shape)
