"""Encoders in the form that torch's compiler gives them, where the compiler can."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from selavi.config import TrainerConfig
from selavi.distributed import rank
from selavi.inference.device import best_device
from selavi.meter import say

LEAST_STEPS = 10_000
"""Steps of a training below which the compiler would take a large part of what it saves."""

Inputs = Mapping[str, Tensor]
"""(B, ...) a modality."""
Encode = Callable[[Inputs], dict[str, Tensor]]
"""Inputs -> features (B, D) a modality."""


def compiles(trainer: TrainerConfig, num_steps: int) -> bool:
    """What `trainer.compile` is on the device that a run of so many steps trains on here."""
    if trainer.compile is not None:
        return trainer.compile
    return num_steps >= LEAST_STEPS and best_device(trainer.accelerator).type == "cuda"


class Compiled:
    """Compiles the encoding at its first call, for the shapes that it then has; as it is where that fails, said once.

    The compiler makes the backward pass only when it is asked for.  So the first call tries both passes and takes back
    what they change: gradients go nowhere, statistics of batch norm are put back.

    Args:
        encode: what is compiled.
        encoders: the modules that it runs.
    """

    def __init__(self, encode: Encode, encoders: nn.Module) -> None:
        self.encode, self.encoders = encode, encoders
        self.current: Encode | None = None

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        """Encode."""
        if self.current is None:
            self.current = self._first(inputs)
        return self.current(inputs)

    def _first(self, inputs: Inputs) -> Encode:
        _say("compiling the encoders, a minute or two (trainer.compile=false: they run as they are)")
        kept = [buffer.clone() for buffer in self.encoders.buffers()]
        try:
            compiled: Encode = torch.compile(self.encode)
            total = torch.stack([values.float().sum() for values in compiled(inputs).values()]).sum()
            weights = [weight for weight in self.encoders.parameters() if weight.requires_grad]
            torch.autograd.grad(total, weights, allow_unused=True)
        except Exception as error:
            _say(f"the encoders cannot be compiled, and run as they are ({_first_line(error)}); trainer.compile=false")
            return self.encode
        finally:
            for buffer, values in zip(self.encoders.buffers(), kept, strict=True):
                buffer.copy_(values)
        return compiled


def _say(line: str) -> None:
    if rank() == 0:
        say(line)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
