"""Optimal transport of clips to clusters of given sizes: the step that turns scores into pseudo-labels.

Axes: N clips, K clusters.  The plan that minimises ``-sum(plan * scores) - entropy(plan) / sharpness`` under
the row sums 1/N and the column sums ``marginal`` has rows ``softmax(sharpness * scores[n] + g) / N``: only
the K cluster potentials g are unknown.  They minimise the smooth convex dual

    phi(g) = mean_n logsumexp_k(sharpness * scores[n, k] + g[k]) - <marginal, g>

with gradient ``masses - marginal`` and Hessian ``diag(masses) - rows^T rows / N``, where masses is the mean
of the rows.  Everything that crosses rows is therefore a K- or K x K-sized sum, which is all that processes
have to exchange.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from selavi.labelling.solver.tables import (
    MAX_DENSE_CLUSTERS,
    Curvature,
    DenseTable,
    LargeEntries,
    Survey,
    Table,
    make_table,
    quiet,
    with_column,
)

SumRanks = Callable[[Tensor], Tensor]

# A problem is first solved on every n-th row: so many rows in all, and so many times K.
_SAMPLE_ROWS = 8192
_SAMPLE_ROWS_PER_CLUSTER = 16
_SAMPLE_GROWTH = 4  # and of so many times more rows next, as long as that is a small part of all
_SAMPLE_ERROR = 0.1  # of the noise that the choice of the rows makes in the masses
# What float32 reads resolve: scaled scores up to this many nats, and this marginal error.
_FLOAT32_RANGE = 4096.0
_FLOAT32_TOL = 2e-7

# Newton with continuation.  Steps are measured by their range (max - min over the clusters, in nats), because
# the dual is near its quadratic model over a few nats of any potential.  The values had nearly the fewest
# passes in total over golden, random and N = K tables.
_MILD_SPREAD = 7.0  # spread of the scaled scores (nats) up to which there is no continuation
_HARD_SPREAD = 40.0  # from which, with few rows a cluster, Newton converges over short ways only: ...
_HARD_RATIO = 1.43  # ... from one stage to the next, ...
_WARM_FRACTION = 0.7  # ... and even potentials of an earlier labelling go through the last of them
_FEW_ROWS_PER_CLUSTER = 32  # with fewer, and mild scores, a Hessian costs more than the passes that it saves
_ANDERSON_MEMORY = 8
_ANDERSON_PATIENCE = 8  # passes without the error falling by half
_START_SPREAD = 3.0  # else the one at which it begins
_SHARPNESS_RATIO = 2.5  # from one stage of the continuation to the next
_ADVANCE_RANGE = 8.0  # longest Newton step with which a stage may be left
_MAX_STEP_RANGE = 6.0  # a longer Newton step is cut to this
_STEP_SPREADS = 0.5  # or than this many spreads of the scaled scores, where clips are many
_MANY_ROWS_PER_CLUSTER = 4
_CHORD_ERROR = 3e-3  # marginal error below which the Hessian is kept ...
_CHORD_ERROR_LARGE = 1e-5  # ... and where it is not formed, so that it costs little more than the masses
_MAX_BACKTRACKS = 20  # in a row
_MAX_SINGULAR = 20  # solves repeated with more damping
_PATIENCE = 25  # passes of one stage without the error falling by 10 %
_WARM_ERROR = 0.5  # marginal error above which given potentials are worse than a cold start
_WARM_PASSES = 8  # passes from given potentials after which a cold start is the better bet ...
_WARM_CLOSE = 0.03  # ... but with this error or less

_CG_REDUCTION = 1e-6  # of the squared residual in the preconditioner's norm
_MAX_CG = 200

_SCALING_PATIENCE = 200  # scaling passes without the error falling by 1 %


@dataclass(frozen=True)
class Labelling:
    """Labels of N clips under one head, with the evidence that they follow the marginal.

    Attributes:
        labels: (N,) int64, the cluster of each clip: the largest entry of its plan row; -1 for a clip that a
            partial labelling leaves out.
        potentials: (K,) float64, g: the plan's row n is ``softmax(sharpness * scores[n] + g)``; -inf where
            the marginal is 0, otherwise finite with a marginal-weighted mean of 0.  A partial labelling has one
            more, for being left out.
        marginal_error: L1 distance of the soft cluster masses from their target, in [0, 2].  The target is the
            marginal, or what the relaxed problem makes of it.
        num_passes: reads of all rows by the solver, reads of a sample counted by its share and rounded up; the
            one read that checks the scores before and the one that takes the labels after are not counted.
        converged: whether marginal_error came down to the tolerance.
        reason: why not; empty where converged.
        num_hessians: how often the curvature was summed over all rows, in a read of its own or on the way.
        masses: (K,) float64 soft masses of the clusters, summing to 1 (to the fraction of a partial labelling).

    The masses are those of the soft plan.  Its argmax can be less balanced (equal rows all get one label
    while the soft masses are exact), so callers should log the hard cluster sizes too.
    """

    labels: Tensor
    potentials: Tensor
    marginal_error: float
    num_passes: int
    converged: bool
    reason: str
    num_hessians: int
    masses: Tensor


class RowStatistics(NamedTuple):
    """How sure the plan is of each clip: confidence, margin and entropy (nats), each (N,) float32."""

    confidence: Tensor
    margin: Tensor
    entropy: Tensor


def on_one_process(tensor: Tensor) -> Tensor:
    """The `sum_ranks` of a single process: there is nothing to add."""
    return tensor


@torch.no_grad()
def assign(
    scores: Tensor | Table,
    marginal: Tensor,
    *,
    sharpness: float = 20.0,
    tol: float = 1e-6,
    max_passes: int = 1000,
    initial_potentials: Tensor | None = None,
    size_strength: float = math.inf,
    fraction: float = 1.0,
    sum_ranks: SumRanks = on_one_process,
) -> Labelling:
    """Assign N clips to K clusters whose soft sizes follow the marginal.

    Large problems are first solved on a sample of the rows, which leaves few reads of all rows to do.  Damped
    Newton on the dual with continuation in the sharpness; Anderson-accelerated scaling where scores are mild and
    clips few; plain log-domain scaling where Newton makes no progress.  Sums over rows are float64.

    Args:
        scores: (N, K) floating point, (weighted mean) log-probabilities.  -inf forbids a cluster to a clip;
            adding a constant to a row changes nothing (but see fraction).  With `sum_ranks`, this process's rows
            (N may then be 0).  A `tables.BlockTable` computes them at each read instead.
        marginal: (K,) target mass of each cluster, non-negative, sums to 1, on the device of the scores.  A
            cluster of mass 0 gets no clips.
        sharpness: exponent on the clip probabilities, lambda of the paper (1 / epsilon of entropic
            transport).
        tol: marginal error at which to stop.
        max_passes: most reads of all rows that the solver may take.
        initial_potentials: potentials of an earlier labelling to start from, on the same device.
        size_strength: weight of ``KL(masses || marginal)`` in the plan's objective, in units of its entropy; inf
            keeps the sizes, 0 or near it leaves them to the scores (P2OT's relaxed marginal).
        fraction: share of the clips' mass that is labelled, the most confident first (P2OT's partial transport).
            Left-out mass counts as a cluster with log-probability 0, so the scores must be log-probabilities.
        sum_ranks: adds a small float64 tensor over all processes that hold rows and returns the total on
            each; it may overwrite its argument.  Every decision is taken on its results, so all processes
            take the same way.

    Returns:
        The labels of this process's rows; the other fields describe all rows and are the same on every
        process. `converged` is False, with the best potentials found and the reason, where the target cannot be
        met or was not in max_passes.

    Raises:
        ValueError: for wrong shapes or types, NaN or +inf in the scores, a clip without any cluster it may
            have, a marginal that is negative, not finite or does not sum to 1, a non-positive sharpness,
            tol or size_strength, a fraction outside (0, 1].
    """
    target = _check_arguments(scores, marginal, sharpness, tol, max_passes, size_strength, fraction)
    table = make_table(scores) if isinstance(scores, Tensor) else scores
    if fraction < 1:
        table = with_column(table, 0.0)
        target = torch.cat([fraction * target, target.new_tensor([1 - fraction])])
    _check_start(initial_potentials, len(target))
    if tol < _FLOAT32_TOL:
        table = table.exact()
    forbidden = torch.zeros_like(target).masked_fill(target == 0, -torch.inf)
    survey = table.survey(forbidden, sharpness)
    if survey.furthest > _FLOAT32_RANGE:
        table = table.exact()
        survey = table.survey(forbidden, sharpness)
    overview = _sum_surveys(table, survey, forbidden, sharpness, sum_ranks)
    # Left-out mass is not relaxed: the fraction is kept whatever the sizes.
    relaxed = slice(0, len(marginal))
    solver = _Solver(table, target, overview, sharpness, tol, max_passes, size_strength, relaxed, sum_ranks)
    with quiet(table):
        solver.solve(initial_potentials)
        potentials = solver.potentials()
        labels = table.labels(potentials, sharpness)
    if fraction < 1:
        labels[labels == len(marginal)] = -1
    error = solver.marginal_error()
    converged = error <= tol
    return Labelling(
        labels=labels,
        potentials=potentials,
        marginal_error=error,
        num_passes=math.ceil(solver.num_reads),
        converged=converged,
        reason="" if converged else solver.reason(),
        num_hessians=solver.num_hessians,
        masses=solver.masses()[: len(marginal)],
    )


@torch.no_grad()
def assign_reference(
    scores: Tensor, marginal: Tensor, *, sharpness: float = 20.0, tol: float = 1e-6, max_passes: int = 5000
) -> Labelling:
    """Plain log-domain scaling on a float64 copy of the table: what tests compare `assign` with.

    Takes the arguments of `assign`, with finite scores and a positive marginal, on one process.
    """
    target = _check_arguments(scores, marginal, sharpness, tol, max_passes, math.inf, 1.0)
    scaled = scores.double() * sharpness
    potentials = torch.zeros_like(target)
    num_passes = 0
    while True:
        masses = (scaled + potentials).softmax(1).mean(0)
        num_passes += 1
        error = (masses - target).abs().sum().item()
        if error <= tol or num_passes == max_passes:
            break
        # The rows are normalised by construction, so one update of the columns is one full round of scaling.
        potentials = potentials + target.log() - masses.log()
    potentials = potentials - (target * potentials).sum()
    labels = (scaled + potentials).argmax(1)
    reason = "" if error <= tol else "max_passes reached"
    return Labelling(labels, potentials, error, num_passes, error <= tol, reason, 0, masses)


@torch.no_grad()
def plan_rows(scores: Tensor, potentials: Tensor, sharpness: float) -> Tensor:
    """The plan's rows ``softmax(sharpness * scores + potentials)``, each normalised to sum 1: (N, K) float32.

    Raises:
        ValueError: where potentials is not (K,).
    """
    _check_potentials(scores, potentials)
    rows_of_plan = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
    for rows, block in DenseTable(scores, torch.float64).blocks():
        rows_of_plan[rows] = torch.add(potentials, block.double(), alpha=sharpness).softmax(1).float()
    return rows_of_plan


@torch.no_grad()
def row_statistics(scores: Tensor | Table, potentials: Tensor, sharpness: float) -> RowStatistics:
    """Confidence (largest entry), margin (largest minus second) and entropy (nats) of every row of the plan.

    The table is read in blocks, the plan is never held.  With K = 1 the margin is the confidence.

    Raises:
        ValueError: where potentials is not (K,).
    """
    if isinstance(scores, Tensor):
        _check_potentials(scores, potentials)
        scores = make_table(scores)
    return RowStatistics(*scores.statistics(potentials, sharpness))


def _check_potentials(scores: Tensor, potentials: Tensor) -> None:
    if scores.ndim != 2 or potentials.shape != scores.shape[1:]:
        raise ValueError(
            f"expected scores (N, K) and potentials (K,), got {tuple(scores.shape)} and {tuple(potentials.shape)}"
        )


def _check_arguments(
    scores: Tensor | Table,
    marginal: Tensor,
    sharpness: float,
    tol: float,
    max_passes: int,
    size_strength: float,
    fraction: float,
) -> Tensor:
    """Check everything but the values of the scores; return the marginal in float64, summing to 1."""
    shape = tuple(scores.shape) if isinstance(scores, Tensor) else (scores.num_rows, scores.num_clusters)
    if len(shape) != 2 or tuple(marginal.shape) != shape[1:] or not marginal.numel():
        raise ValueError(
            f"expected scores (N, K) and marginal (K,) with K >= 1, got {shape} and {tuple(marginal.shape)}"
        )
    if isinstance(scores, Tensor) and not scores.is_floating_point():
        raise ValueError(f"scores must be floating point log-probabilities, got {scores.dtype}")
    for name, value in (("sharpness", sharpness), ("tol", tol)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not size_strength > 0:
        raise ValueError(f"size_strength must be positive (inf keeps the sizes), got {size_strength}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    if max_passes < 1:
        raise ValueError(f"max_passes must be at least 1, got {max_passes}")
    target = marginal.double()
    if not target.isfinite().all():
        raise ValueError(f"marginal must be finite, entry {int((~target.isfinite()).nonzero()[0])} is not")
    if (target < 0).any():
        cluster = int(target.argmin())
        raise ValueError(f"marginal must not be negative, entry {cluster} is {target[cluster].item():g}")
    total = target.sum().item()
    if abs(total - 1) > 1e-6:
        raise ValueError(f"marginal must sum to 1 (within 1e-6), got a sum of {total:.9g}: divide by it")
    return target / total


def _check_start(initial_potentials: Tensor | None, num_potentials: int) -> None:
    if initial_potentials is None:
        return
    if tuple(initial_potentials.shape) != (num_potentials,):
        raise ValueError(
            f"expected initial_potentials (K,) = ({num_potentials},), got {tuple(initial_potentials.shape)}"
        )
    if not (initial_potentials < math.inf).all():
        raise ValueError("initial_potentials must be finite, or -inf for a cluster of mass 0; got NaN or +inf")


class _Overview(NamedTuple):
    """What one read of all rows says about the problem; the same on every process."""

    num_rows: int
    num_ranks: int
    reachable: Tensor  # (K,) bool, some clip may have this cluster
    column_means: Tensor  # (K,) mean scaled score of a cluster, relative to the mean of each row
    spread: float  # standard deviation of the scaled scores once the means of rows and columns are taken out


def _sum_surveys(table: Table, own: Survey, forbidden: Tensor, sharpness: float, sum_ranks: SumRanks) -> _Overview:
    scalars = forbidden.new_tensor([own.num_bad, own.squares, own.num_rows, 1.0])
    total = sum_ranks(torch.cat([scalars, own.counts, own.sums]))
    counts, sums = total[4:].chunk(2)
    num_bad, squares, num_rows, num_ranks = total[:4].tolist()
    if num_bad:
        raise ValueError(_describe_bad_rows(table, forbidden, sharpness, int(own.num_bad), int(num_bad)))
    if not num_rows:
        raise ValueError("scores holds no rows: there is no clip to label")
    column_means = sums / counts.clamp(min=1)
    residual = squares - (counts * column_means.square()).sum().item()
    spread = (max(residual, 0.0) / counts.sum().item()) ** 0.5
    return _Overview(int(num_rows), int(num_ranks), counts > 0, column_means, spread)


def _describe_bad_rows(table: Table, forbidden: Tensor, sharpness: float, own_num_bad: int, num_bad: int) -> str:
    if not own_num_bad:
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


class _Sums(NamedTuple):
    """Sums over all rows at one point, for the active clusters; the same on every process but for `large`."""

    masses: Tensor  # mean row of the plan
    target: Tensor  # what the masses should be here
    gradient: Tensor  # masses - target
    error: float  # L1 norm of the gradient
    hessian: Tensor | None  # (K, K) for few clusters, with curvature
    tails: Tensor  # (3, K) row sums of coupling that is known by them alone, see Curvature
    large: _Rows | None  # for many clusters, with curvature


class _Rows:
    """This process's large entries of the plan, Q: the product ``Q^T Q v``."""

    def __init__(self, large: LargeEntries, num_clusters: int) -> None:
        self.large, self.num_clusters = large, num_clusters
        counts = large.row_starts.diff()
        self.rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        self.num_rows = len(counts)

    def product(self, vector: Tensor) -> Tensor:
        """(K,) float64."""
        _, clusters, values = self.large
        along = vector.new_zeros(self.num_rows).index_add_(0, self.rows, values * vector[clusters])
        return self.columns(values * along[self.rows])

    def columns(self, values: Tensor) -> Tensor:
        """Sums of values, one for each entry, by cluster."""
        return values.new_zeros(self.num_clusters).index_add_(0, self.large.clusters, values)


class _Level:
    """A set of rows that the dual problem is solved on: a sample, or all."""

    def __init__(self, table: Table, num_rows: int, share: float, tol: float) -> None:
        self.table, self.num_rows, self.share, self.tol = table, num_rows, share, tol
        self.best: Tensor | None = None
        self.best_error = math.inf
        self.best_sums: _Sums | None = None

    def is_solved(self) -> bool:
        return self.best_error <= self.tol


class _Solver:
    """The dual problem over the active clusters (positive mass, allowed to some clip) and its state."""

    def __init__(
        self,
        table: Table,
        target: Tensor,
        overview: _Overview,
        sharpness: float,
        tol: float,
        max_passes: int,
        size_strength: float,
        relaxed: slice,
        sum_ranks: SumRanks,
    ) -> None:
        self.full_target = target
        self.overview = overview
        self.sharpness = sharpness
        self.max_passes = max_passes
        self.sum_ranks = sum_ranks
        self.active = ((target > 0) & overview.reachable).nonzero()[:, 0]
        self.target = target[self.active] / target[self.active].sum()
        self.log_target = self.target.log()
        self.size_strength = size_strength
        is_relaxed = torch.zeros_like(target, dtype=torch.bool)
        is_relaxed[relaxed] = size_strength < math.inf
        self.relaxed = is_relaxed[self.active]
        self._factor_of: _Sums | None = None  # whose Hessian the factor is of
        self.num_reads = 0.0
        self.num_hessians = 0
        self.level = self.all_rows = _Level(table, overview.num_rows, 1.0, tol)
        # How much of a move of the sizes the potentials have to make; a relaxed target makes the rest itself.
        share = size_strength / (1 + size_strength) if size_strength < math.inf else 1.0
        self.response = torch.where(self.relaxed, share, 1.0).to(target)
        self.start = self._start_at(1.0)

    def solve(self, initial_potentials: Tensor | None) -> None:
        """Find the potentials; they and their error are in `all_rows`."""
        warm = self._warm_start(initial_potentials)
        if warm is not None:
            fraction = _WARM_FRACTION if self._is_hard() else 1.0
            self._newton(self._proportional(warm, fraction), fraction * self.sharpness, warm=True)
        if not self.all_rows.is_solved():
            start = warm
            for stride in self._sample_strides():
                self.level = self._sample(stride)
                if start is not None:
                    self._newton(start, self.sharpness, warm=True)
                if not self.level.is_solved():
                    self._cold_start()
                start = self.level.best
            self.level = self.all_rows
            if start is not None and start is not warm:
                self._newton(start, self.sharpness)
        if not self.all_rows.is_solved():
            self._cold_start()
        if not self.all_rows.is_solved():
            self._scaling(self.start if self.all_rows.best is None else self.all_rows.best)

    def _warm_start(self, initial_potentials: Tensor | None) -> Tensor | None:
        if initial_potentials is None:
            return None
        start = initial_potentials.double()[self.active]
        finite = start.isfinite()
        # A cluster that had no mass at the earlier labelling starts beside the least wanted one.
        return torch.where(finite, start, start[finite].min()) if finite.any() else None

    def _sample_strides(self) -> list[int]:
        """Which rows to try first: every n-th, for falling n, each set a small part of the next."""
        fewest = max(_SAMPLE_ROWS, _SAMPLE_ROWS_PER_CLUSTER * len(self.full_target))
        largest = self.overview.num_rows // fewest
        return [largest // _SAMPLE_GROWTH**i for i in range(12) if largest // _SAMPLE_GROWTH**i >= _SAMPLE_GROWTH]

    def _sample(self, stride: int) -> _Level:
        table = self.all_rows.table.sample(stride)
        num_rows = int(self.sum_ranks(self.target.new_tensor([float(table.num_rows)])).item())
        tol = _SAMPLE_ERROR * (len(self.full_target) / num_rows) ** 0.5
        return _Level(table, num_rows, num_rows / self.overview.num_rows, max(tol, self.all_rows.tol))

    def _cold_start(self) -> None:
        steps_up = self.overview.spread > _MILD_SPREAD
        if not steps_up and self._has_few_rows():
            self._anderson(self.start)
            if self.level.is_solved():
                return
        fraction = _START_SPREAD / self.overview.spread if steps_up else 1.0
        self._newton(self._start_at(fraction), fraction * self.sharpness)

    def _has_few_rows(self) -> bool:
        return self.level.num_rows < _FEW_ROWS_PER_CLUSTER * len(self.target)

    def _is_hard(self) -> bool:
        return self.level is self.all_rows and self.overview.spread > _HARD_SPREAD and self._has_few_rows()

    def _start_at(self, fraction: float) -> Tensor:
        """Potentials that are right where all clips have the mean scores."""
        return self.response * (self.log_target - fraction * self.overview.column_means[self.active])

    def potentials(self) -> Tensor:
        """(K,) the best potentials: -inf where the marginal is 0, 0 for a cluster that no clip may have."""
        full = torch.zeros_like(self.full_target).masked_fill(self.full_target == 0, -torch.inf)
        best = self.start if self.all_rows.best is None else self.all_rows.best
        full[self.active] = best - (self.target * best).sum()
        return full

    def masses(self) -> Tensor:
        """(K,) masses at the best potentials."""
        masses = torch.zeros_like(self.full_target)
        if self.all_rows.best_sums is not None:
            masses[self.active] = self.all_rows.best_sums.masses
        return masses

    def marginal_error(self) -> float:
        """L1 distance of the masses from their target, clusters that no clip may have included."""
        if self.size_strength < math.inf:
            return self.all_rows.best_error
        return (self.masses() - self.full_target).abs().sum().item()

    def reason(self) -> str:
        """Why the tolerance was not met."""
        unreachable = ((self.full_target > 0) & ~self.overview.reachable).nonzero()[:, 0].tolist()
        if unreachable:
            named = ", ".join(map(str, unreachable[:5])) + (", ..." if len(unreachable) > 5 else "")
            return f"{len(unreachable)} cluster(s) with a positive marginal are -inf for every clip: {named}"
        if self.num_reads > self.max_passes - 1:
            return f"max_passes = {self.max_passes} reads of all rows were not enough"
        return (
            "no step lowers the error any more: the clips' forbidden clusters leave no plan with these sizes, "
            "or the scores are too coarse for the tolerance"
        )

    def _relaxed_target(self, potentials: Tensor) -> Tensor:
        """What the masses should be at these potentials; the marginal itself unless it is relaxed."""
        if not self.relaxed.any():
            return self.target
        wanted = self.target.clone()
        logits = (self.log_target - potentials / self.size_strength)[self.relaxed]
        wanted[self.relaxed] = logits.softmax(0) * self.target[self.relaxed].sum()
        return wanted

    def _pass(self, potentials: Tensor, sharpness: float, *, curvature: bool) -> _Sums:
        """Read all rows of the level once."""
        level, num_clusters = self.level, len(self.full_target)
        offsets = torch.full_like(self.full_target, -torch.inf)
        offsets[self.active] = potentials
        dense = num_clusters if curvature and num_clusters <= MAX_DENSE_CLUSTERS else 0
        found: Curvature | None = None
        if curvature:
            found = level.table.curvature(offsets, sharpness)
            own = torch.cat([found.masses, found.tails.flatten(), found.pairs.flatten()])
        else:
            own = level.table.masses(offsets, sharpness)
        self.num_reads += level.share
        self.num_hessians += curvature and level is self.all_rows
        total = self.sum_ranks(own)
        masses = total[:num_clusters][self.active]
        masses = masses / masses.sum()  # takes away what rounding did to the sums of the rows
        target = self._relaxed_target(potentials)
        gradient = masses - target
        error = gradient.abs().sum().item()
        sums = _Sums(masses, target, gradient, error, None, masses.new_zeros(3, 0), None)
        if found is not None:
            tails = total[num_clusters : 4 * num_clusters].view(3, -1)[:, self.active] / level.num_rows
            if dense:
                coupling = total[4 * num_clusters :].view(dense, dense)
                if len(self.active) < dense:
                    coupling = coupling[self.active][:, self.active]
                sums = sums._replace(tails=tails)
                sums = sums._replace(hessian=self._hessian(sums, coupling.div_(level.num_rows)))
            else:
                assert found.large is not None
                sums = sums._replace(tails=tails, large=_Rows(found.large, num_clusters))
        if sharpness == self.sharpness and error < level.best_error:
            level.best, level.best_sums, level.best_error = potentials, sums, error
        return sums

    def _newton_step(self, sums: _Sums, damping: float, curved: _Sums) -> Tensor | None:
        """Solve for the damped Newton step with the Hessian of `curved`; None where the system is singular."""
        diagonal = (damping + 1e-14) * (self.target + curved.masses)
        if curved.large is not None:
            step = self._conjugate_gradients(sums.gradient, curved, curved.large, diagonal)
        else:
            assert curved.hessian is not None
            if damping or self._factor_of is not curved:
                # The outer product fixes the free constant of the potentials: it makes <target, step> = 0.
                matrix = torch.addr(curved.hessian, self.target, self.target)
                matrix.diagonal().add_(diagonal)
                self._factor, self._failed = torch.linalg.cholesky_ex(matrix)
                self._factor_of = None if damping else curved
            step = torch.cholesky_solve(-sums.gradient[:, None], self._factor)[:, 0]
            step = torch.where(self._failed > 0, torch.nan, step)
        # Processes may differ in the last bits of a solve: the mean over them is the same number on all.
        step = self.sum_ranks(step) / self.overview.num_ranks
        return step if bool(step.isfinite().all()) else None

    def _hessian(self, sums: _Sums, coupling: Tensor) -> Tensor:
        """The Hessian as a graph Laplacian, in the place of the coupling.

        The rows of the plan sum to 1, so the diagonal is the sum of the coupling off it, which keeps all digits
        where the plan is almost hard.
        """
        for left, right, strength in self._low_rank(sums):
            coupling.addr_(left, right, alpha=strength)
            coupling.addr_(right, left, alpha=strength)
        coupling.fill_diagonal_(0.0)
        row_sums = coupling.sum(1)
        coupling.neg_()
        coupling.diagonal().copy_(row_sums)
        return coupling

    def _low_rank(self, sums: _Sums) -> list[tuple[Tensor, Tensor, float]]:
        """Coupling ``strength * (left right^T + right left^T)``: what small entries do, and what relaxed sizes do.

        Of small entries the row sums alone are known; the coupling is taken as proportional to them, which is exact
        where all rows of the plan are alike.
        """
        large, small, both_small = sums.tails
        terms = [(large, small, 1 / large.sum().item())] if large.sum() > 0 else []
        if both_small.sum() > 0:
            terms.append((both_small, both_small, 0.5 / both_small.sum().item()))
        if self.relaxed.any():
            weights = sums.target * self.relaxed
            terms.append((weights, weights, 0.5 / (self.size_strength * weights.sum().item())))
        return terms

    def _conjugate_gradients(self, gradient: Tensor, sums: _Sums, large: _Rows, diagonal: Tensor) -> Tensor:
        """Approximate the Newton step by K-sized sums over the processes alone."""
        num_rows, size = self.level.num_rows, len(self.full_target)

        def embed(vector: Tensor) -> Tensor:
            full = vector.new_zeros(size)
            full[self.active] = vector
            return full

        ones = torch.ones(size, dtype=torch.float64, device=diagonal.device)
        both = self.sum_ranks(torch.cat([large.product(ones), large.columns(large.large.values.square())])) / num_rows
        row_sums, squares = (half[self.active] for half in both.chunk(2))
        terms = self._low_rank(sums)
        fixed = row_sums + diagonal
        for left, right, strength in terms:
            fixed = fixed + strength * (left * right.sum() + right * left.sum())

        def times(vector: Tensor) -> Tensor:
            coupled = self.sum_ranks(large.product(embed(vector)))[self.active] / num_rows
            result = fixed * vector - coupled + self.target * (self.target @ vector)
            for left, right, strength in terms:
                result = result - strength * (left * (right @ vector) + right * (left @ vector))
            return result

        preconditioner = fixed - squares + self.target.square()
        for left, right, strength in terms:
            preconditioner = preconditioner - 2 * strength * left * right
        preconditioner = 1 / preconditioner.clamp(min=1e-300)
        step = torch.zeros_like(gradient)
        residual = -gradient
        goal = _CG_REDUCTION * (residual @ (preconditioner * residual)).item()
        direction = preconditioner * residual
        product = (residual @ direction).item()
        for _ in range(_MAX_CG):
            moved = times(direction)
            curvature = (direction @ moved).item()
            if not curvature > 0:
                break
            step = step + (product / curvature) * direction
            residual = residual - (product / curvature) * moved
            following = (residual @ (preconditioner * residual)).item()
            if following <= goal:
                break
            direction = preconditioner * residual + (following / product) * direction
            product = following
        return step

    def _newton(self, potentials: Tensor, sharpness: float, *, warm: bool = False) -> None:
        """Damped Newton from the given sharpness up to the final one; a warm start is given up early.

        A stage of the continuation is left as soon as its Newton step is short: that step and a change of the
        potentials in proportion to the sharpness (exact in the limit of hard plans) lead to the next one.
        """
        damping = 0.0
        num_backtracks = num_singular = 0
        step: Tensor | None = None  # the step that led here at the same sharpness, for the overshoot test
        slope = error = 0.0  # at the start of that step
        mark_error, mark_pass = math.inf, self.num_reads
        reads_before = self.num_reads
        curved: _Sums | None = None  # the last sums at this sharpness that came with a Hessian
        slow = False
        chord_error = _CHORD_ERROR if len(self.full_target) <= MAX_DENSE_CLUSTERS else _CHORD_ERROR_LARGE
        while self._may_read():
            if self._is_last_read() and sharpness < self.sharpness:
                # The last pass must tell the error of what is returned.
                potentials, step = self._proportional(potentials, self.sharpness / sharpness), None
                sharpness = self.sharpness
            # Near the end an earlier Hessian does, as long as each step gains a digit.
            reuse = curved is not None and step is not None and error < chord_error and not slow
            sums = self._pass(potentials, sharpness, curvature=not reuse)
            slow = slow or (reuse and sums.error > 0.1 * error)
            if not reuse or curved is None:
                curved = sums
            if sums.error <= self.level.tol and sharpness == self.sharpness:
                return
            if warm and (
                sums.error
                > (_WARM_ERROR if self.num_reads - reads_before < _WARM_PASSES * self.level.share else _WARM_CLOSE)
            ):
                return
            if sums.error < 0.9 * mark_error:
                mark_error, mark_pass = sums.error, self.num_reads
            elif self.num_reads - mark_pass >= _PATIENCE * self.level.share:
                if sharpness == self.sharpness:
                    return
                # Nothing moves at this stage: see whether the final sharpness does better before giving up.
                potentials = self._proportional(potentials, self.sharpness / sharpness)
                sharpness, step = self.sharpness, None
                mark_error, mark_pass = math.inf, self.num_reads
                continue
            if step is not None:
                new_slope = (sums.gradient @ step).item()
                if new_slope > 0.5 * abs(slope) and sums.error > error:
                    # Overshot along a convex line: the secant of the slopes says where its minimum lies.
                    num_backtracks += 1
                    if num_backtracks > _MAX_BACKTRACKS:
                        return
                    fraction = min(max(abs(slope) / (abs(slope) + new_slope), 0.1), 0.7)
                    potentials = potentials - (1 - fraction) * step
                    step = fraction * step
                    slope *= fraction
                    damping = max(4 * damping, 1e-8)
                    continue
                num_backtracks = 0
                damping = damping / 10 if damping > 1e-12 else 0.0
            step = self._newton_step(sums, damping, curved)
            while step is None and num_singular < _MAX_SINGULAR:
                num_singular += 1
                damping = max(10 * damping, 1e-10)
                step = self._newton_step(sums, damping, curved)
            if step is None:
                return
            length = (step.max() - step.min()).item()
            if sharpness < self.sharpness and length <= _ADVANCE_RANGE:
                following = min(self.sharpness, sharpness * (_HARD_RATIO if self._is_hard() else _SHARPNESS_RATIO))
                potentials = self._proportional(potentials + step, following / sharpness)
                sharpness, step = following, None
                mark_error, mark_pass = math.inf, self.num_reads
                continue
            longest = self._longest_step(sharpness)
            if length > longest:
                step = step * (longest / length)
            slope, error = (sums.gradient @ step).item(), sums.error
            potentials = potentials + step

    def _anderson(self, potentials: Tensor) -> None:
        """Scaling, each step of it mixed with the last ones so that the residual is least (Anderson 1965).

        It is left where it stalls: Newton then takes over.
        """
        points: list[Tensor] = []
        residuals: list[Tensor] = []
        mark_error, mark_pass = math.inf, self.num_reads
        weights = self.target.sqrt()[:, None]
        while self._may_read():
            sums = self._pass(potentials, self.sharpness, curvature=False)
            if sums.error <= self.level.tol:
                return
            if sums.error < 0.5 * mark_error:
                mark_error, mark_pass = sums.error, self.num_reads
            elif self.num_reads - mark_pass >= _ANDERSON_PATIENCE * self.level.share:
                return
            points = [*points[-_ANDERSON_MEMORY:], potentials]
            residuals = [*residuals[-_ANDERSON_MEMORY:], self._scaling_step(sums)]
            step = residuals[-1]
            if len(points) > 1:
                moves, changes = torch.stack(points, 1).diff(dim=1), torch.stack(residuals, 1).diff(dim=1)
                mix = torch.linalg.lstsq(weights * changes, weights * step[:, None]).solution
                step = step - ((moves + changes) @ mix)[:, 0]
            # As for Newton steps: the same number on all processes.
            step = self.sum_ranks(step) / self.overview.num_ranks
            if not bool(step.isfinite().all()):
                return
            potentials = potentials + step

    def _longest_step(self, sharpness: float) -> float:
        """Over which the dual is near its quadratic model: a few nats, or with many clips a part of their spread."""
        longest = _MAX_STEP_RANGE
        if self.level.num_rows >= _MANY_ROWS_PER_CLUSTER * len(self.target):
            longest = max(longest, _STEP_SPREADS * self.overview.spread * sharpness / self.sharpness)
        # A relaxed target changes by as many nats as the potentials do in units of size_strength.
        return min(longest, _MAX_STEP_RANGE * self.size_strength) if self.relaxed.any() else longest

    def _may_read(self) -> bool:
        return self.num_reads + self.level.share <= self.max_passes

    def _is_last_read(self) -> bool:
        return self.num_reads + 2 * self.level.share > self.max_passes

    def _proportional(self, potentials: Tensor, ratio: float) -> Tensor:
        base = self.response * self.log_target
        return base + (potentials - base) * ratio

    def _scaling(self, potentials: Tensor) -> None:
        """Plain log-domain scaling at the final sharpness: slow, and monotone from any start."""
        mark_error, mark_pass = math.inf, self.num_reads
        while self._may_read():
            sums = self._pass(potentials, self.sharpness, curvature=False)
            if sums.error <= self.level.tol:
                return
            if sums.error < 0.99 * mark_error:
                mark_error, mark_pass = sums.error, self.num_reads
            elif self.num_reads - mark_pass >= _SCALING_PATIENCE:
                return
            potentials = potentials + self._scaling_step(sums)

    def _scaling_step(self, sums: _Sums) -> Tensor:
        """One round of scaling: the rows are exact by construction, and this moves the columns to their target."""
        return -self.response * (sums.masses / sums.target).log()
