"""A term of the loss, and what a training step gives it.

Axes: H heads, B clips of a batch, K clusters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from selavi.batch import ClipBatch, RowReader


class Judged(NamedTuple):
    """What the heads say of clips in a random view."""

    logits: Mapping[str, Tensor]
    """(H, B, K) a branch."""
    present: Mapping[str, Tensor]
    """(B,) bool a branch."""


@dataclass(frozen=True)
class Step:
    """A training step, before its gradient.

    Attributes:
        batch: its clips.
        judged: what the heads say of them.
        read_labels: their labels and weights in the label bank, (B, columns) each.
        judge: applies augmentation, encoders and heads to other clips, or to another view of these, with gradient.
    """

    batch: ClipBatch
    judged: Judged
    read_labels: Callable[[], tuple[Tensor, Tensor]]
    judge: Callable[[ClipBatch], Judged]


class Loss(NamedTuple):
    """A term's value, and what is shown of it."""

    total: Tensor
    """() what is added to the loss."""
    shown: Tensor
    """() its mean over branches, or over what else is compared, so that runs of one modality and of two read alike."""


@dataclass(frozen=True)
class Term:
    """A term of the loss.

    Attributes:
        loss: of a step.
        begin: called once before the first step of a process, with the training clips.
    """

    loss: Callable[[Step], Loss]
    begin: Callable[[RowReader], None] | None = None
