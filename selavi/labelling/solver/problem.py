"""The problem that a labelling solves: what is asked, checked, and measured in one read of all rows.

Axes: N clips, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from selavi.labelling.solver.tables import Survey, Table, make_table, with_column

SumRanks = Callable[[Tensor], Tensor]
"""Adds a small float64 tensor over all processes that hold rows and returns the total on each."""

FLOAT32_RANGE = 4096.0
"""Scaled scores (nats) up to which float32 reads resolve the plan."""
FLOAT32_TOL = 2e-7
"""Marginal error down to which they do."""


def on_one_process(tensor: Tensor) -> Tensor:
    """The `sum_ranks` of a single process: there is nothing to add."""
    return tensor


def marginal_error(masses: Tensor, target: Tensor) -> float:
    """L1 distance of the clusters' masses (K,) from their target (K,), in [0, 2]."""
    return (masses - target).abs().sum().item()


@dataclass(frozen=True)
class Problem:
    """Clips that are to be spread over clusters of given sizes.

    Attributes:
        table: scores of N clips for K clusters, (weighted mean) log-probabilities.
        marginal: (K,) target mass of each cluster, non-negative, sums to 1.
        sharpness: exponent on the clip probabilities.
        size_strength: weight of ``KL(masses || marginal)``; inf keeps the sizes.
        fraction: share of the clips' mass that is labelled.

    Raises:
        ValueError: shapes that do not fit, or a value outside its limits.
    """

    table: Table
    marginal: Tensor
    sharpness: float = 20.0
    size_strength: float = math.inf
    fraction: float = 1.0

    def __post_init__(self) -> None:
        _check_shapes((self.table.num_rows, self.table.num_clusters), self.marginal)
        if not 0 < self.sharpness < math.inf:
            raise ValueError(f"sharpness must be positive and finite, got {self.sharpness}")
        if not self.size_strength > 0:
            raise ValueError(f"size_strength must be positive (inf keeps the sizes), got {self.size_strength}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")
        _check_marginal(self.marginal.double())

    @property
    def num_clusters(self) -> int:
        """K, without the column of the clips that a partial labelling leaves out."""
        return len(self.marginal)

    @property
    def is_partial(self) -> bool:
        """Whether some of the clips' mass is left out."""
        return self.fraction < 1

    @property
    def is_relaxed(self) -> bool:
        """Whether the sizes may float."""
        return self.size_strength < math.inf

    def target(self) -> Tensor:
        """(K,) float64 what the masses shall be; a partial labelling has one entry more, for being left out."""
        target = self.marginal.double()
        target = target / target.sum().item()
        if not self.is_partial:
            return target
        return torch.cat([self.fraction * target, target.new_tensor([1 - self.fraction])])

    def full_table(self) -> Table:
        """The scores; a partial labelling has one column more: being left out has log-probability 0."""
        return with_column(self.table, 0.0) if self.is_partial else self.table


def make_problem(
    scores: Tensor | Table, marginal: Tensor, sharpness: float, size_strength: float = math.inf, fraction: float = 1.0
) -> Problem:
    """A problem from a tensor of scores (N, K) or from a table.

    Raises:
        ValueError: as Problem, and for scores that are not floating point.
    """
    if isinstance(scores, Tensor):
        _check_shapes(tuple(scores.shape), marginal)
        if not scores.is_floating_point():
            raise ValueError(f"scores must be floating point log-probabilities, got {scores.dtype}")
        scores = make_table(scores)
    return Problem(scores, marginal, sharpness, size_strength, fraction)


def check_limits(tol: float, max_passes: int) -> None:
    """Raise ValueError for a tolerance or a number of passes that no solver can work with."""
    if not 0 < tol < math.inf:
        raise ValueError(f"tol must be positive and finite, got {tol}")
    if max_passes < 1:
        raise ValueError(f"max_passes must be at least 1, got {max_passes}")


def check_start(initial_potentials: Tensor | None, num_potentials: int) -> None:
    """Raise ValueError for potentials that a solver cannot start from."""
    if initial_potentials is None:
        return
    if tuple(initial_potentials.shape) != (num_potentials,):
        raise ValueError(
            f"expected initial_potentials (K,) = ({num_potentials},), got {tuple(initial_potentials.shape)}"
        )
    if not (initial_potentials < math.inf).all():
        raise ValueError("initial_potentials must be finite, or -inf for a cluster of mass 0; got NaN or +inf")


def _check_shapes(scores: tuple[int, ...], marginal: Tensor) -> None:
    if len(scores) != 2 or tuple(marginal.shape) != scores[1:] or not marginal.numel():
        raise ValueError(
            f"expected scores (N, K) and marginal (K,) with K >= 1, got {scores} and {tuple(marginal.shape)}"
        )


def _check_marginal(marginal: Tensor) -> None:
    if not marginal.isfinite().all():
        raise ValueError(f"marginal must be finite, entry {int((~marginal.isfinite()).nonzero()[0])} is not")
    if (marginal < 0).any():
        cluster = int(marginal.argmin())
        raise ValueError(f"marginal must not be negative, entry {cluster} is {marginal[cluster].item():g}")
    total = marginal.sum().item()
    if abs(total - 1) > 1e-6:
        raise ValueError(f"marginal must sum to 1 (within 1e-6), got a sum of {total:.9g}: divide by it")


class Overview(NamedTuple):
    """What one read of all rows says about a problem; the same on every process."""

    num_rows: int
    """Rows of all processes."""
    num_ranks: int
    """Processes."""
    reachable: Tensor
    """(K,) bool, some clip may have this cluster."""
    column_means: Tensor
    """(K,) mean scaled score of a cluster, relative to the mean of each row."""
    spread: float
    """Standard deviation (nats) of the scaled scores, once the means of rows and columns are taken out."""
    furthest: float
    """Largest magnitude (nats) of the maximum or the mean of a row of scaled scores; the mean over the processes."""


def survey(problem: Problem, tol: float, sum_ranks: SumRanks) -> tuple[Table, Overview]:
    """Check and measure the scores; the table comes back in the precision that the problem needs.

    Raises:
        ValueError: no rows, NaN or +inf in the scores, or a clip without any cluster it may have.
    """
    table, target, sharpness = problem.full_table(), problem.target(), problem.sharpness
    if tol < FLOAT32_TOL:
        table = table.exact()
    forbidden = torch.zeros_like(target).masked_fill(target == 0, -torch.inf)
    own = table.survey(forbidden, sharpness)
    if own.furthest > FLOAT32_RANGE:
        table = table.exact()
        own = table.survey(forbidden, sharpness)
    scalars = forbidden.new_tensor([own.num_bad, own.squares, own.num_rows, 1.0, own.furthest])
    total = sum_ranks(torch.cat([scalars, own.counts, own.sums]))
    num_bad, squares, num_rows, num_ranks, furthest = total[:5].tolist()
    counts, sums = total[5:].chunk(2)
    if num_bad:
        raise ValueError(_describe_bad_rows(table, forbidden, sharpness, own, int(num_bad)))
    if not num_rows:
        raise ValueError("scores holds no rows: there is no clip to label")
    column_means = sums / counts.clamp(min=1)
    residual = squares - (counts * column_means.square()).sum().item()
    spread = (max(residual, 0.0) / counts.sum().item()) ** 0.5
    return table, Overview(int(num_rows), int(num_ranks), counts > 0, column_means, spread, furthest / num_ranks)


def _describe_bad_rows(table: Table, forbidden: Tensor, sharpness: float, own: Survey, num_bad: int) -> str:
    if not int(own.num_bad):
        return f"scores holds {num_bad} row(s) with NaN, +inf or no cluster allowed, all on other processes"
    for rows, block in table.blocks():
        scaled = block.double() * sharpness
        bad = (~(scaled + forbidden).amax(1).isfinite()).nonzero()
        if len(bad):
            row, values = rows.start + int(bad[0]), scaled[int(bad[0])]
            break
    if values.isnan().any():
        fault = f"is NaN for cluster {int(values.isnan().nonzero()[0])}"
    elif (values == torch.inf).any():
        fault = f"is +inf (or overflows when sharpened) for cluster {int(values.argmax())}"
    else:
        fault = "is -inf for every cluster with a positive marginal, so that no cluster is left for it"
    return f"scores row {row} {fault} ({num_bad} such row(s) in all); expected log-probabilities"
