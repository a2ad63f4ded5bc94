"""Checkpoints that appear whole or not at all, and load without running code from the file."""

from pathlib import Path
from typing import Any

from selavi.errors import UsageError

REFITTED = "refitted_from"
"""Key of a checkpoint whose heads were fitted to the encoders of another run (`selavi refit`): that run's folder."""


def read_checkpoint(path: Path, kind: str = "label_bank") -> dict[str, Any]:
    """Load a checkpoint onto the CPU with weights_only=True.

    Args:
        path: file.
        kind: what it must hold: `label_bank` for one of `selavi train`, `classifier` for one of `selavi finetune`.

    Raises:
        UsageError: it is missing, damaged, or holds anything else.
    """
    import torch

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
