"""Checkpoints that appear whole or not at all, and load without running code from the file."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from selavi.atomic import write_atomically
from selavi.errors import UsageError


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's own way moves the file across file systems and hides a refused permission; this one does not.

    Args:
        kind: of the checkpoints that are read; see read_checkpoint.
    """

    def __init__(self, kind: str = "label_bank") -> None:
        self.kind = kind

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write next to the old file, flush, replace."""
        with write_atomically(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read tensors and plain values only.

        Raises:
            UsageError: the file is missing, damaged, or holds anything else.
        """
        return read_checkpoint(Path(path), self.kind)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one file."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path, kind: str = "label_bank") -> dict[str, Any]:
    """Load a checkpoint onto the CPU with weights_only=True.

    Args:
        path: file.
        kind: what it must hold: `label_bank` for one of tools/train.py, `classifier` for one of tools/finetune.py.

    Raises:
        UsageError: see load_checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many types for a damaged file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} is not a checkpoint of selavi, or it is damaged: {first}") from error
    if not isinstance(checkpoint, dict) or kind not in checkpoint:
        raise UsageError(f"{path} is not a checkpoint of selavi's that fits here: it holds no {kind.replace('_', ' ')}")
    return checkpoint


def last_checkpoint(run_dir: Path) -> Path:
    """Where a run keeps its newest checkpoint."""
    return run_dir / "checkpoints" / "last.ckpt"
