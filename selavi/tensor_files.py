"""Tensors and short texts in a safetensors file, written whole or not at all; no code of a file is ever run."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from selavi.atomic import write_atomically
from selavi.errors import UsageError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and texts under their names; equal content gives equal bytes.

    Raises:
        RuntimeError: two of the tensors share memory.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with write_atomically(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, dict(metadata))
        temporary.chmod(mode)  # the library leaves a file that only its owner may read
        _order_metadata(temporary, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the texts of a file; the library compares its header with its size before it reads on.

    Raises:
        UsageError: the file cannot be read, is damaged, or is not one of this format.
    """
    try:
        path.open("rb").close()  # its errors name their reason; those of the library do not
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (it is no dict)
            return tensors, file.metadata() or {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UsageError(f"{path} is not a safetensors file, or it is damaged: {error}") from error


def _order_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Put the texts into the given order; the library writes them in another order each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length)) | {"__metadata__": dict(metadata)}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))
