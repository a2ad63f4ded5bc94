"""When to label: often at first, when the network changes fast, then ever more rarely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from selavi.config import Config


def labelling_steps(total_steps: int, num_labellings: int, power: float = 1.5) -> list[int]:
    """Optimisation steps before which the labels are renewed, on a power law.

    The times are ``total_steps * (i / (num_labellings - 1)) ** power``; the last one is the end of training,
    which no step reaches, so num_labellings = 100 renews 99 times, as in the paper.  A time between two steps
    fires at the later one (the first with ``step >= time``), and times that share a step fire once.

    Args:
        total_steps: steps of the whole training.
        num_labellings: number of times on the law; 1 labels once, at step 0.
        power: 1 spaces them evenly, larger puts more of them early.

    Returns:
        Strictly increasing steps in [0, total_steps), the first 0.

    Raises:
        ValueError: where total_steps or num_labellings is below 1, or power is not positive and finite.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    if num_labellings < 1:
        raise ValueError(f"num_labellings must be at least 1, got {num_labellings}")
    if not 0 < power < math.inf:
        raise ValueError(f"power must be positive and finite, got {power}")
    last = max(1, num_labellings - 1)
    # Rounded first, so that a whole number that came out a last bit too large is not pushed to the next step.
    steps = {math.ceil(round(total_steps * (i / last) ** power, 6)) for i in range(last)}
    return sorted(step for step in steps if step < total_steps)


def labelling_steps_of_parts(
    parts: Sequence[int], steps_per_epoch: int, num_labellings: int, power: float = 1.5
) -> list[int]:
    """Steps at which the labels are renewed in a training of several parts, each with the schedule of labelling_steps.

    A part after the first has as many labellings for its epochs as the first has for its own, and leaves out the one
    at its begin: the part before it has just ended with one.

    Args:
        parts: epochs of each part.
        steps_per_epoch: optimiser steps.
        num_labellings: of the first part.
        power: see labelling_steps.

    Returns:
        Increasing steps; the last of each part is its end, after its last step.
    """
    steps: list[int] = []
    begin = 0
    for epochs in parts:
        count = max(2, round(num_labellings * epochs / parts[0]))
        length = epochs * steps_per_epoch
        within = labelling_steps(length, count, power)
        steps += [begin + step for step in (within[1:] if begin else within)]
        begin += length
        steps.append(begin)
    return steps


def labelling_steps_of_run(config: Config, steps_per_epoch: int) -> list[int]:
    """Steps at which the labels of a run are renewed; the last of each part is its end, after its last step.

    A method that does not relabel labels at the ends alone; labels that are given stand at step 0.
    """
    parts, labelling = config.trainer.parts, config.labelling
    if config.labelling_method.relabels:
        return labelling_steps_of_parts(parts, steps_per_epoch, labelling.num_labellings, labelling.power)
    ends = [steps_per_epoch * epochs for epochs in accumulate(parts)]
    return [0, *ends] if labelling.method == "given" else ends


def labelled_fraction(number: int, num_labellings: int, first: float) -> float:
    """Share of the clips that get a label: `first` at the first labelling, growing to 1 at the last (P2OT's ramp).

    The clips left out are the least confident ones; the sigmoid ramp ``first + (1 - first) exp(-5 (1 - t)^2)`` keeps
    most of them out in the first half of the labellings.
    """
    if first == 1:
        return 1.0
    progress = min(1.0, number / max(1, num_labellings - 1))
    low = math.exp(-5.0)
    return min(1.0, first + (1 - first) * (math.exp(-5 * (1 - progress) ** 2) - low) / (1 - low))
