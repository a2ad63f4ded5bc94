"""Which device a model runs on."""

import logging
import os

import torch

from selavi.errors import UsageError

log = logging.getLogger("selavi")


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
