"""Which device a model runs on."""

import logging
import os
from typing import Literal

import torch

from selavi.config import TrainerConfig
from selavi.errors import UsageError

log = logging.getLogger("selavi")


def device_words(trainer: TrainerConfig) -> str:
    """The GPU that a run trains on here and what it computes in; empty on the processor."""
    device = best_device(trainer.accelerator)
    if device.type != "cuda":
        return ""
    kind = "bfloat16" if chosen_precision(trainer) == "bf16-mixed" else "float32"
    return f"{torch.cuda.get_device_name(device)} in {kind} (trainer.precision={trainer.precision})"


def chosen_precision(trainer: TrainerConfig) -> Literal["32-true", "bf16-mixed"]:
    """What `trainer.precision` is on the device that a run trains on here."""
    if trainer.precision != "auto":
        return trainer.precision
    on_gpu = best_device(trainer.accelerator).type == "cuda"
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def best_device(accelerator: str, *, required: bool = False) -> torch.device:
    """A GPU if torch sees one, another one for each process of torchrun; the processor where it sees none.

    Args:
        accelerator: trainer.accelerator of the run; with `cpu` it is always the processor.
        required: refuse the processor where the run asks for a GPU, as training itself would.  Without it a run that
            was trained on a GPU is also measured on the processor, and the log says so.

    Raises:
        UsageError: a GPU is required, and torch sees none.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if accelerator not in ("cpu", "auto"):
        if required:
            raise UsageError(f"trainer.accelerator={accelerator}, but torch sees no GPU; set trainer.accelerator=cpu")
        log.warning(f"torch sees no GPU here (the run has trainer.accelerator={accelerator}): using the processor")
    return torch.device("cpu")
