"""How sure heads are of a place, calibrated by answers that they did not learn.

Axes: n clips, H heads, P places, A answers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST_ANSWERS, FEWEST_CONFIRMED = 20, 5
"""Answers about single clips from which the sharpness is fitted, and those of them that confirm a cluster.  Of fewer it
would be chance, or of mistakes alone, which people put right where they see them."""
_GRID = torch.logspace(-1, 1.5, 101, dtype=torch.float64)


@dataclass(frozen=True)
class Calibration:
    """The exponent on the scores with which their softmax is how often a head is right."""

    sharpness: float
    num_answers: int = 0
    """That it was fitted to; 0: too few, and the sharpness is the number of modalities."""
    accuracy: float = float("nan")
    """Share of them that a head which did not learn them finds; nan where there are too few."""


def can_calibrate(answers: Tensor, is_confirmed: Tensor) -> bool:
    """Whether answers (N,) with -1 for none, of which some (N,) leave a clip where it was, say how sure heads are."""
    return int((answers >= 0).sum()) >= FEWEST_ANSWERS and int(is_confirmed.sum()) >= FEWEST_CONFIRMED


def calibrate(scores: Tensor, answers: Tensor) -> Calibration:
    """Fit the exponent: the one of a grid under which the answers are likeliest (Guo et al., 2017, temperature).

    Args:
        scores: (A, P) of each answer, by a head that did not learn it.
        answers: (A,) places.
    """
    losses = [F.cross_entropy(sharpness * scores.double(), answers).item() for sharpness in _GRID]
    best = int(torch.tensor(losses).argmin())
    accuracy = (scores.argmax(1) == answers).float().mean().item()
    return Calibration(float(_GRID[best]), len(answers), accuracy)
