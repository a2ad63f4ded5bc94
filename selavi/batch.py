"""The contract between data and model: what a loader yields and what augmentation reads."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

NUM_DRAWS = 24
"""Uniform numbers that come with each clip; selavi.augment says which is used for what."""


@dataclass(frozen=True)
class DecodedClip:
    """One clip of one recording.  A modality that is missing or could not be decoded is zeros and not present."""

    index: int
    """Row of the clip in the run's label bank."""
    video: Tensor | None
    """(T, h, w, 3) uint8, or None where the run has no video modality."""
    audio: Tensor | None
    """(S,) int16, mono, or None where the run has no audio modality."""
    present: dict[str, bool]
    draws: Tensor
    """(NUM_DRAWS,) float32 in [0, 1): a pure function of (seed, epoch, clip id)."""
    error: str | None = None
    """Why something of it could not be decoded."""


@dataclass(frozen=True)
class ClipBatch:
    """B clips, still as integers; everything else happens on the device in whole batches."""

    index: Tensor
    """(B,) int64."""
    inputs: dict[str, Tensor]
    """video (B, T, h, w, 3) uint8 and audio (B, S) int16, as far as the run has them."""
    present: dict[str, Tensor]
    """(B,) bool for each modality."""
    draws: Tensor
    """(B, NUM_DRAWS) float32."""
    errors: list[tuple[int, str]]
    """(index, reason) of clips of which something could not be decoded; that is not present."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "ClipBatch":
        """The same batch on a device (Lightning calls this)."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ClipBatch":
        """The same batch in memory that a GPU copies from by itself (torch's loader calls this)."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ClipBatch":
        return ClipBatch(
            change(self.index),
            {name: change(tensor) for name, tensor in self.inputs.items()},
            {name: change(tensor) for name, tensor in self.present.items()},
            change(self.draws),
            self.errors,
        )


def collate(clips: Iterable[DecodedClip], count: int, memory: Tensor | None = None) -> ClipBatch:
    """Put clips together to a batch; each is copied as it comes, so that only one is held besides.

    Args:
        clips: alike in their modalities and shapes.
        count: how many they are, 1 or more.
        memory: (bytes,) uint8, where the inputs of the batch are to lie, as lay_out has it.

    Raises:
        ValueError: the clips differ in their shapes.
    """
    inputs: dict[str, Tensor] = {}
    taken: list[DecodedClip] = []
    for number, clip in enumerate(clips):
        tensors = {name: tensor for name in clip.present if (tensor := getattr(clip, name)) is not None}
        if not number:
            kinds = {name: (tensor.dtype, (count, *tensor.shape)) for name, tensor in tensors.items()}
            inputs = lay_out(kinds, memory)
        for name, tensor in tensors.items():
            if tensor.shape != inputs[name].shape[1:]:
                found = [tuple(inputs[name].shape[1:]), tuple(tensor.shape)]
                raise ValueError(f"clips of one batch must have one {name} shape, found {found}")
            inputs[name][number] = tensor
        taken.append(replace(clip, video=None, audio=None))
    return ClipBatch(
        index=torch.tensor([clip.index for clip in taken]),
        inputs=inputs,
        present={name: torch.tensor([clip.present[name] for clip in taken]) for name in taken[0].present},
        draws=torch.stack([clip.draws for clip in taken]),
        errors=[(clip.index, clip.error) for clip in taken if clip.error is not None],
    )


def lay_out(
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], memory: Tensor | None = None
) -> dict[str, Tensor]:
    """Tensors of some types and shapes: one after another in (bytes,) uint8, where that is given.

    The wider types come first, so that each lies where its type may.
    """
    if memory is None:
        return {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in kinds.items()}
    tensors, at = {}, 0
    for name, (dtype, shape) in sorted(kinds.items(), key=lambda kind: -kind[1][0].itemsize):
        size = dtype.itemsize * math.prod(shape)
        tensors[name] = memory[at : at + size].view(dtype).view(shape)
        at += size
    return tensors
