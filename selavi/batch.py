"""The contract between data and model: what a loader yields and what augmentation reads."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Why nothing could be decoded."""


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
    """(index, reason) of clips that could not be decoded; no modality of theirs is present."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "ClipBatch":
        """The same batch on a device (Lightning calls this)."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return ClipBatch(
            move(self.index),
            {name: move(tensor) for name, tensor in self.inputs.items()},
            {name: move(tensor) for name, tensor in self.present.items()},
            move(self.draws),
            self.errors,
        )


def collate(clips: Sequence[DecodedClip]) -> ClipBatch:
    """Stack clips to a batch."""
    inputs = {}
    for modality in clips[0].present:
        tensors = [getattr(clip, modality) for clip in clips]
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) != 1:
            raise ValueError(f"clips of one batch must have one {modality} shape, found {sorted(shapes)}")
        inputs[modality] = torch.stack(tensors)
    return ClipBatch(
        index=torch.tensor([clip.index for clip in clips]),
        inputs=inputs,
        present={name: torch.tensor([clip.present[name] for clip in clips]) for name in clips[0].present},
        draws=torch.stack([clip.draws for clip in clips]),
        errors=[(clip.index, clip.error) for clip in clips if clip.error is not None],
    )
