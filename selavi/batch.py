"""The contract between data and model: what a loader yields and what augmentation reads."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

NUM_DRAWS = 37
"""Uniform numbers that come with each clip; selavi.augment says which is used for what.

More of them change none of those before: each follows from its own place (selavi.randomness.uniforms), so that runs of
earlier versions are repeated by equal seeds."""


@dataclass(frozen=True)
class DecodedClip:
    """One clip of one recording.  A modality that is missing or could not be decoded is zeros and not present."""

    index: int
    """Row of the clip in the run's label bank."""
    inputs: Mapping[str, Tensor]
    """What each of the run's modalities decodes to, in the type and shape that selavi.modalities says."""
    present: Mapping[str, bool]
    draws: Tensor
    """(NUM_DRAWS,) float32 in [0, 1): a pure function of (seed, epoch, clip id)."""
    error: str | None = None
    """Why something of it could not be decoded."""

    def __post_init__(self) -> None:
        _require_same_names(self.inputs, self.present)
        if self.draws.shape != (NUM_DRAWS,):
            raise ValueError(f"expected draws ({NUM_DRAWS},), got {tuple(self.draws.shape)}")

    def __repr__(self) -> str:
        present = [name for name in self.present if self.present[name]]
        return f"DecodedClip(index={self.index}, {_shapes(self.inputs)}, present={present}, error={self.error!r})"


@dataclass(frozen=True)
class ClipBatch:
    """B clips, still as integers; everything else happens on the device in whole batches."""

    index: Tensor
    """(B,) int64."""
    inputs: dict[str, Tensor]
    """(B, ...) for each of the run's modalities, in the type and shape that selavi.modalities says."""
    present: dict[str, Tensor]
    """(B,) bool for each modality."""
    draws: Tensor
    """(B, NUM_DRAWS) float32."""
    errors: list[tuple[int, str]]
    """(index, reason) of clips of which something could not be decoded; that is not present."""
    host_index: Tensor = None  # type: ignore[assignment]  # __post_init__ sets it
    """(B,) int64, `index` where it was made: it stays there wherever the batch goes, so that tables of the host are
    read without waiting for a device."""

    def __post_init__(self) -> None:
        if self.host_index is None:
            object.__setattr__(self, "host_index", self.index)
        _require_same_names(self.inputs, self.present)
        count = len(self.index)
        tensors = {"draws": self.draws, **self.inputs} | {f"present {n}": p for n, p in self.present.items()}
        for name, tensor in tensors.items():
            if tensor.shape[:1] != (count,):
                raise ValueError(f"a batch of {count} clips has {name} {tuple(tensor.shape)}, expected ({count}, ...)")

    def __repr__(self) -> str:
        return f"ClipBatch(index=({len(self.index)},), {_shapes(self.inputs)}, errors={self.errors})"

    def to(self, device: torch.device) -> "ClipBatch":
        """The same batch on a device (Lightning calls this); the host does not wait for the copies to a GPU."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> "ClipBatch":
        """The same batch in memory that a GPU copies from by itself (torch's loader calls this)."""
        return self._each(Tensor.pin_memory)

    def split(self, num_clips: int | None) -> list["ClipBatch"]:
        """Batches of so many clips each, the last of what is left; None: this one."""
        if num_clips is None or num_clips >= len(self.index):
            return [self]
        parts = []
        for begin in range(0, len(self.index), num_clips):
            rows = slice(begin, begin + num_clips)
            here = set(self.host_index[rows].tolist()) if self.errors else set()
            parts.append(
                ClipBatch(
                    self.index[rows],
                    {name: tensor[rows] for name, tensor in self.inputs.items()},
                    {name: tensor[rows] for name, tensor in self.present.items()},
                    self.draws[rows],
                    [error for error in self.errors if error[0] in here],
                    self.host_index[rows],
                )
            )
        return parts

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ClipBatch":
        return ClipBatch(
            change(self.index),
            {name: change(tensor) for name, tensor in self.inputs.items()},
            {name: change(tensor) for name, tensor in self.present.items()},
            change(self.draws),
            self.errors,
            self.host_index,
        )


@runtime_checkable
class RowReader(Protocol):
    """A pass over clips of which any can be read at any time."""

    def all_rows(self) -> Tensor:
        """(n,) int64 rows in the label bank, in the order of the pass."""
        ...

    def present(self) -> Mapping[str, Tensor]:
        """(n,) bool a modality."""
        ...

    def read_rows(self, rows: Tensor, draws: Tensor | None = None) -> ClipBatch:
        """Any clips of the run, by their rows (b,), as the pass gives them, or with other numbers (b, NUM_DRAWS)."""
        ...


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
    indices, present, draws, errors = [], [], [], []
    for number, clip in enumerate(clips):
        if not number:
            kinds = {name: (tensor.dtype, (count, *tensor.shape)) for name, tensor in clip.inputs.items()}
            inputs = lay_out(kinds, memory)
        for name, tensor in clip.inputs.items():
            if tensor.shape != inputs[name].shape[1:]:
                shapes = [tuple(inputs[name].shape[1:]), tuple(tensor.shape)]
                raise ValueError(f"clips of one batch must have one {name} shape, found {shapes}")
            inputs[name][number] = tensor
        indices.append(clip.index)
        present.append(clip.present)
        draws.append(clip.draws)
        if clip.error is not None:
            errors.append((clip.index, clip.error))
    return ClipBatch(
        index=torch.tensor(indices),
        inputs=inputs,
        present={name: torch.tensor([one[name] for one in present]) for name in inputs},
        draws=torch.stack(draws),
        errors=errors,
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


def _require_same_names(inputs: Mapping[str, Tensor], present: Mapping[str, object]) -> None:
    if inputs.keys() != present.keys():
        raise ValueError(f"inputs of {[*inputs]}, but presence of {[*present]}")


def _shapes(inputs: Mapping[str, Tensor]) -> str:
    """video=(16, 30, 144, 144, 3) uint8, audio=(16, 24000) int16."""
    return ", ".join(f"{name}={tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for name, x in inputs.items())
