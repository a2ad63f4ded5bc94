"""What a labelling method is: a function that labels the clips of one voting set, head after head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from selavi.config import Config
from selavi.labelling.votes import Votes


@dataclass(frozen=True)
class HeadTask:
    """One head that is to be labelled, and what the label bank keeps of it from the labelling before."""

    head: int
    column: int
    """The bank column that the labels go to."""
    fraction: float
    """Share of the clips that get a label."""
    labels: Tensor | None
    """(n,) the clips' labels in that column, -1 for none; None at the first labelling."""
    potentials: Tensor | None
    """(K,) potentials of the voters' scores; None at the first labelling."""


@dataclass(frozen=True)
class HeadLabels:
    """Labels of the clips of this rank under one head, with their evidence."""

    labels: Tensor
    """(n,) clusters; -1 for none."""
    num_passes: int
    converged: bool
    marginal_error: float | None = None
    """Distance of the cluster sizes from those asked for; None where no sizes are promised."""
    potentials: Tensor | None = None
    """(K,) what the bank shall keep for the next labelling; None: nothing."""


@dataclass(frozen=True)
class Method:
    """A way to label.

    Attributes:
        begin: reads what all heads share of a voting set's clips, once a view; what it returns labels one head.
        weigh: (labels (N, H), K) -> (H, K) what a clip of each cluster counts in the loss; None: all count alike.
        describe_memory: (config, n) -> what a labelling of n clips will hold beside their features; empty: little.
        memory_bytes: (config, n, D) -> most bytes of it, with D features a clip, of all branches together.
    """

    begin: Callable[[Config, Votes], Callable[[HeadTask], HeadLabels]]
    weigh: Callable[[Tensor, int], Tensor] | None = None
    describe_memory: Callable[[Config, int], str] = lambda config, num_rows: ""
    memory_bytes: Callable[[Config, int, int], float] = lambda config, num_rows, num_features: 0.0
