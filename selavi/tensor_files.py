"""Tensors and short texts in a safetensors file, written whole or not at all; no code of a file is ever run."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from selavi.atomic import write_atomically
from selavi.errors import UsageError

_CHECKSUM = "selavi_checksum"
_UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError)
"""What the library and torch raise for headers that no writer writes; which of them depends on their versions."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and texts under their names, with a checksum of both; equal content gives equal bytes.

    Raises:
        RuntimeError: two of the tensors share memory.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {**metadata, _CHECKSUM: _checksum(contiguous, metadata)}
    with write_atomically(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, dict(metadata))
        temporary.chmod(mode)  # the library leaves a file that only its owner may read
        _order_metadata(temporary, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the texts of a file; the library compares its header with its size before it reads on.

    A file of others has no checksum; one of ours that was changed is refused.

    Raises:
        UsageError: the file cannot be read, is damaged, or is not one of this format.
    """
    try:
        path.open("rb").close()  # its errors name their reason; those of the library do not
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (it is no dict)
            metadata = dict(file.metadata() or {})
        kept = metadata.pop(_CHECKSUM, None)
        if kept is not None and kept != _checksum(tensors, metadata):
            raise ValueError("its tensors or texts have another checksum")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except _UNREADABLE as error:
        raise UsageError(
            f"{path} is not a safetensors file, or it is damaged: {error}; remove it and make it anew, or get it again "
            "from where it was made"
        ) from error
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """A checksum of names, types, shapes and bytes, and of the texts."""
    facts = [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in sorted(tensors.items())]
    value = zlib.crc32(repr((facts, sorted(metadata.items()))).encode())
    for _, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _order_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Put the texts into the given order; the library writes them in another order each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length)) | {"__metadata__": dict(metadata)}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))
