"""Small tensors between host and device, without either waiting for the other."""

from typing import Any

import torch
from torch import Tensor

_IN_ORDER = ("cpu", "cuda")
"""Devices whose copies the host may leave to themselves: an event says when they are done."""


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the host goes on while it is copied."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # torch keeps the memory until the copy is done
    return tensor.to(device, non_blocking=device.type in _IN_ORDER)


class LateReading:
    """What the host reads of a step once the device has gone on to the next one.

    `begin` starts the copy behind all that the device has been told to do, `end` waits for it: at the next step the
    device has long been there, and has the work of that step before it.  So it never waits for the host.
    """

    def __init__(self) -> None:
        self._values: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._of: Any = None

    def begin(self, values: Tensor, of: Any) -> None:
        """Start to copy values (n,), and remember what they are of; the reading before must have ended."""
        assert self._values is None, "a reading is under way"
        self._values, self._of = values.detach().to("cpu", non_blocking=values.device.type in _IN_ORDER), of
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def end(self) -> tuple[list[float], Any] | None:
        """The values, and what they are of; None where no reading has begun since the last."""
        if self._values is None:
            return None
        if self._copied is not None:
            self._copied.synchronize()
        read = self._values.tolist(), self._of
        self._values = self._copied = self._of = None
        return read
