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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SumRanks = Callable[[Tensor], Tensor]

# Above this many clusters, K x K sums and solves cost more than the scaling passes they save.
MAX_NEWTON_CLUSTERS = 1024

_BLOCK_ELEMENTS = 1 << 18  # table entries held in float64 at a time: 2 MiB, about a core's cache
_LOG_FLOOR = -700.0  # exp() of less would be denormal or 0: the floor keeps every mass positive
# Nats below a row's best at which a cluster counts as forbidden: float64 could not resolve its potential.
_NEVER = 1e12

# Newton with continuation.  Steps are measured by their range (max - min over the clusters, in nats), because
# the dual is near its quadratic model over a few nats of any potential.  The values had nearly the fewest
# passes in total over golden, random and N = K tables.
_START_SPREAD = 3.0  # spread of the scaled scores at which the continuation begins
_SHARPNESS_RATIO = 2.5  # from one stage of the continuation to the next
_ADVANCE_RANGE = 8.0  # longest Newton step with which a stage may be left
_MAX_STEP_RANGE = 6.0  # a longer Newton step is cut to this
_MAX_BACKTRACKS = 20  # in a row
_MAX_SINGULAR = 20  # solves repeated with more damping
_PATIENCE = 25  # passes of one stage without the error falling by 10 %
_WARM_ERROR = 0.5  # marginal error above which given potentials are worse than a cold start
_WARM_PASSES = 10  # passes from given potentials after which a cold start is the better bet

_SCALING_PATIENCE = 200  # scaling passes without the error falling by 1 %


@dataclass(frozen=True)
class Labelling:
    """Labels of N clips under one head, with the evidence that they follow the marginal.

    Attributes:
        labels: (N,) int64, the cluster of each clip: the largest entry of its plan row.
        potentials: (K,) float64, g: the plan's row n is ``softmax(sharpness * scores[n] + g)``; -inf where
            the marginal is 0, otherwise finite with a marginal-weighted mean of 0.
        marginal_error: L1 distance of the soft cluster masses from the marginal, in [0, 2].
        num_passes: reads of all rows by the solver; the one read that checks the scores before and the one
            that takes the labels after are not counted.
        converged: whether marginal_error came down to the tolerance.

    The masses are those of the soft plan.  Its argmax can be less balanced (equal rows all get one label
    while the soft masses are exact), so callers should log the hard cluster sizes too.
    """

    labels: Tensor
    potentials: Tensor
    marginal_error: float
    num_passes: int
    converged: bool


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
    scores: Tensor,
    marginal: Tensor,
    *,
    sharpness: float = 20.0,
    tol: float = 1e-6,
    max_passes: int = 1000,
    initial_potentials: Tensor | None = None,
    sum_ranks: SumRanks = on_one_process,
) -> Labelling:
    """Assign N clips to K clusters whose soft sizes follow the marginal.

    Damped Newton on the dual with continuation in the sharpness, for K <= 1024; plain log-domain scaling
    where K is larger or Newton makes no progress.  All sums are float64 over blocks of rows, whatever the
    type of the scores.

    Args:
        scores: (N, K) floating point, (weighted mean) log-probabilities.  -inf forbids a cluster to a clip;
            adding a constant to a row changes nothing.  With `sum_ranks`, this process's rows (N may then be
            0).
        marginal: (K,) target mass of each cluster, non-negative, sums to 1, on the device of the scores.  A
            cluster of mass 0 gets no clips.
        sharpness: exponent on the clip probabilities, lambda of the paper (1 / epsilon of entropic
            transport).
        tol: marginal error at which to stop.
        max_passes: most reads of all rows that the solver may take.
        initial_potentials: (K,) potentials of an earlier labelling to start from, on the same device.
        sum_ranks: adds a small float64 tensor over all processes that hold rows and returns the total on
            each; it may overwrite its argument.  Every decision is taken on its results, so all processes
            take the same way.

    Returns:
        The labels of this process's rows; the other fields describe all rows and are the same on every
        process. `converged` is False, with the best potentials found, where the target cannot be met or was
        not in max_passes.

    Raises:
        ValueError: for wrong shapes or types, NaN or +inf in the scores, a clip without any cluster it may
            have, a marginal that is negative, not finite or does not sum to 1, a non-positive sharpness or
            tol.
    """
    target = _check_arguments(scores, marginal, sharpness, tol, max_passes, initial_potentials)
    survey = _survey(scores, target, sharpness, sum_ranks)
    solver = _Solver(scores, target, survey, sharpness, tol, max_passes, sum_ranks)
    solver.solve(initial_potentials)
    potentials = solver.potentials()
    labels = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    for rows, scaled in _scaled_blocks(scores, potentials, sharpness):
        labels[rows] = scaled.argmax(1)
    error = solver.marginal_error()
    return Labelling(labels, potentials, error, solver.num_passes, error <= tol)


@torch.no_grad()
def assign_reference(
    scores: Tensor, marginal: Tensor, *, sharpness: float = 20.0, tol: float = 1e-6, max_passes: int = 5000
) -> Labelling:
    """Plain log-domain scaling on a float64 copy of the table: what tests compare `assign` with.

    Takes the arguments of `assign`, with finite scores and a positive marginal, on one process.
    """
    target = _check_arguments(scores, marginal, sharpness, tol, max_passes, None)
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
    return Labelling((scaled + potentials).argmax(1), potentials, error, num_passes, error <= tol)


@torch.no_grad()
def plan_rows(scores: Tensor, potentials: Tensor, sharpness: float) -> Tensor:
    """The plan's rows ``softmax(sharpness * scores + potentials)``, each normalised to sum 1: (N, K) float32.

    Raises:
        ValueError: where potentials is not (K,).
    """
    _check_potentials(scores, potentials)
    rows_of_plan = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
    for rows, scaled in _scaled_blocks(scores, potentials, sharpness):
        rows_of_plan[rows] = scaled.softmax(1).float()
    return rows_of_plan


@torch.no_grad()
def row_statistics(scores: Tensor, potentials: Tensor, sharpness: float) -> RowStatistics:
    """Confidence (largest entry), margin (largest minus second) and entropy (nats) of every row of the plan.

    The table is read in blocks, the plan is never held.  With K = 1 the margin is the confidence.

    Raises:
        ValueError: where potentials is not (K,).
    """
    _check_potentials(scores, potentials)
    confidence, margin, entropy = torch.empty(3, len(scores), dtype=torch.float32, device=scores.device)
    for rows, scaled in _scaled_blocks(scores, potentials, sharpness):
        plan = scaled.softmax(1)
        largest = plan.topk(min(2, plan.shape[1]), dim=1).values
        confidence[rows] = largest[:, 0].float()
        margin[rows] = (largest[:, 0] - largest[:, 1:].sum(1)).float()
        entropy[rows] = torch.special.entr(plan).sum(1).float()
    return RowStatistics(confidence, margin, entropy)


def _check_potentials(scores: Tensor, potentials: Tensor) -> None:
    if scores.ndim != 2 or potentials.shape != scores.shape[1:]:
        raise ValueError(
            f"expected scores (N, K) and potentials (K,), got {tuple(scores.shape)} and {tuple(potentials.shape)}"
        )


def _check_arguments(
    scores: Tensor,
    marginal: Tensor,
    sharpness: float,
    tol: float,
    max_passes: int,
    initial_potentials: Tensor | None,
) -> Tensor:
    """Check everything but the values of the scores; return the marginal in float64, summing to 1."""
    if scores.ndim != 2 or marginal.shape != scores.shape[1:] or not marginal.numel():
        raise ValueError(
            "expected scores (N, K) and marginal (K,) with K >= 1, "
            f"got {tuple(scores.shape)} and {tuple(marginal.shape)}"
        )
    if not scores.is_floating_point():
        raise ValueError(f"scores must be floating point log-probabilities, got {scores.dtype}")
    for name, value in (("sharpness", sharpness), ("tol", tol)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if max_passes < 1:
        raise ValueError(f"max_passes must be at least 1, got {max_passes}")
    if initial_potentials is not None:
        if initial_potentials.shape != marginal.shape:
            raise ValueError(
                f"expected initial_potentials (K,) = {tuple(marginal.shape)}, got {tuple(initial_potentials.shape)}"
            )
        if not (initial_potentials < float("inf")).all():
            raise ValueError("initial_potentials must be finite, or -inf for a cluster of mass 0; got NaN or +inf")
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


def _scaled_blocks(scores: Tensor, potentials: Tensor, sharpness: float) -> Iterator[tuple[slice, Tensor]]:
    """Yield ``sharpness * scores + potentials`` in float64 over blocks of rows, each a tensor of its own."""
    rows_per_block = max(1, _BLOCK_ELEMENTS // scores.shape[1])
    for first in range(0, len(scores), rows_per_block):
        rows = slice(first, min(first + rows_per_block, len(scores)))
        yield rows, torch.add(potentials, scores[rows].double(), alpha=sharpness)


class _Survey(NamedTuple):
    """What one read of all rows says about the problem; the same on every process."""

    num_rows: int
    num_ranks: int
    reachable: Tensor  # (K,) bool, some clip may have this cluster
    column_means: Tensor  # (K,) mean scaled score of a cluster, relative to the mean of each row
    spread: float  # standard deviation of the scaled scores once the means of rows and columns are taken out


def _survey(scores: Tensor, target: Tensor, sharpness: float, sum_ranks: SumRanks) -> _Survey:
    """Read all rows once: check them, count them, and measure how peaked they are."""
    num_clusters = len(target)
    forbidden = torch.zeros_like(target).masked_fill(target == 0, -torch.inf)
    counts, sums = target.new_zeros(2, num_clusters).unbind()
    num_bad, squares = target.new_zeros(2).unbind()
    for _, block in _scaled_blocks(scores, forbidden, sharpness):
        # NaN and +inf reach the row's maximum, and a row without any allowed cluster has the maximum -inf.
        largest = block.amax(1, keepdim=True)
        num_bad += (~largest.isfinite()).sum()
        block -= largest
        allowed = block > -_NEVER
        block.masked_fill_(~allowed, 0.0)
        block -= block.sum(1, keepdim=True) / allowed.sum(1, keepdim=True).clamp(min=1)
        block *= allowed
        counts += allowed.sum(0)
        sums += block.sum(0)
        squares += block.square().sum()
    own = torch.stack([num_bad, squares, num_bad.new_tensor(float(len(scores))), torch.ones_like(num_bad)])
    own_num_bad = int(num_bad)  # before the sum, which may overwrite what it is given
    total = sum_ranks(torch.cat([own, counts, sums]))
    counts, sums = total[4 : 4 + num_clusters], total[4 + num_clusters :]
    num_bad_everywhere, squares_everywhere, num_rows, num_ranks = total[:4].tolist()
    if num_bad_everywhere:
        fault = _describe_bad_rows(scores, forbidden, sharpness, own_num_bad, int(num_bad_everywhere))
        raise ValueError(fault)
    if not num_rows:
        raise ValueError("scores holds no rows: there is no clip to label")
    column_means = sums / counts.clamp(min=1)
    residual = squares_everywhere - (counts * column_means.square()).sum().item()
    spread = (max(residual, 0.0) / counts.sum().item()) ** 0.5
    return _Survey(int(num_rows), int(num_ranks), counts > 0, column_means, spread)


def _describe_bad_rows(scores: Tensor, forbidden: Tensor, sharpness: float, own_num_bad: int, num_bad: int) -> str:
    if not own_num_bad:
        return f"scores holds {num_bad} row(s) with NaN, +inf or no cluster allowed, all on other processes"
    row = next(
        rows.start + int(bad[0])
        for rows, block in _scaled_blocks(scores, forbidden, sharpness)
        if len(bad := (~block.amax(1).isfinite()).nonzero())
    )
    values = scores[row].double() * sharpness
    if values.isnan().any():
        fault = f"is NaN for cluster {int(values.isnan().nonzero()[0])}"
    elif (values == torch.inf).any():
        fault = f"is +inf (or overflows when sharpened) for cluster {int(values.argmax())}"
    else:
        fault = "is -inf for every cluster with a positive marginal, so that no cluster is left for it"
    return f"scores row {row} {fault} ({num_bad} such row(s) in all); expected log-probabilities"


class _Sums(NamedTuple):
    """Sums over all rows at one point, for the active clusters; the same on every process."""

    masses: Tensor  # mean row of the plan
    gradient: Tensor  # masses - target
    error: float  # L1 norm of the gradient
    hessian: Tensor


class _Solver:
    """The dual problem over the active clusters (positive mass, allowed to some clip) and its state."""

    def __init__(
        self,
        scores: Tensor,
        target: Tensor,
        survey: _Survey,
        sharpness: float,
        tol: float,
        max_passes: int,
        sum_ranks: SumRanks,
    ) -> None:
        # A table of one block is upcast once instead of at every pass.
        self.scores = scores.double() if scores.numel() <= _BLOCK_ELEMENTS else scores
        self.full_target = target
        self.survey = survey
        self.sharpness = sharpness
        self.tol = tol
        self.max_passes = max_passes
        self.sum_ranks = sum_ranks
        self.active = ((target > 0) & survey.reachable).nonzero()[:, 0]
        self.target = target[self.active] / target[self.active].sum()
        self.log_target = self.target.log()
        self.num_passes = 0
        self.best = self.log_target - survey.column_means[self.active]
        self.best_masses = self.target
        self.best_error = float("inf")

    def solve(self, initial_potentials: Tensor | None) -> None:
        """Find the potentials; they and their error are in `best` and `best_error`."""
        by_newton = len(self.full_target) <= MAX_NEWTON_CLUSTERS
        if initial_potentials is not None:
            start = initial_potentials.double()[self.active]
            finite = start.isfinite()
            if finite.any():
                # A cluster that had no mass at the earlier labelling starts beside the least wanted one.
                start = torch.where(finite, start, start[finite].min())
                if by_newton:
                    self._newton(start, self.sharpness, warm=True)
                else:
                    self._scaling(start)
        if self.best_error > self.tol and by_newton:
            fraction = 1 / max(1.0, self.survey.spread / _START_SPREAD)
            start = self.log_target - fraction * self.survey.column_means[self.active]
            self._newton(start, fraction * self.sharpness)
        if self.best_error > self.tol:
            self._scaling(self.best)

    def potentials(self) -> Tensor:
        """(K,) the best potentials: -inf where the marginal is 0, 0 for a cluster that no clip may have."""
        full = torch.zeros_like(self.full_target).masked_fill(self.full_target == 0, -torch.inf)
        full[self.active] = self.best - (self.target * self.best).sum()
        return full

    def marginal_error(self) -> float:
        """L1 distance of the masses from the given marginal, clusters that no clip may have included."""
        masses = torch.zeros_like(self.full_target)
        masses[self.active] = self.best_masses
        return (masses - self.full_target).abs().sum().item()

    def _pass(self, potentials: Tensor, sharpness: float, *, curvature: bool) -> _Sums:
        """Read all rows once; without curvature the hessian is empty."""
        num_clusters = len(self.full_target)
        offsets = torch.full_like(self.full_target, -torch.inf)
        offsets[self.active] = potentials
        masses = torch.zeros_like(self.full_target)
        coupling = masses.new_zeros(num_clusters if curvature else 0, num_clusters)
        for _, plan in _scaled_blocks(self.scores, offsets, sharpness):
            plan -= plan.amax(1, keepdim=True)
            plan.clamp_(min=_LOG_FLOOR).exp_()
            plan /= plan.sum(1, keepdim=True)
            masses += plan.sum(0)
            if curvature:
                coupling.addmm_(plan.T, plan)
        self.num_passes += 1
        total = self.sum_ranks(torch.cat([masses, coupling.flatten()])) / self.survey.num_rows
        masses = total[:num_clusters][self.active]
        gradient = masses - self.target
        error = gradient.abs().sum().item()
        if sharpness == self.sharpness and error < self.best_error:
            self.best, self.best_masses, self.best_error = potentials, masses, error
        if not curvature:
            return _Sums(masses, gradient, error, coupling)
        coupling = total[num_clusters:].view(num_clusters, num_clusters)[self.active][:, self.active]
        # diag(masses) - coupling, written as a graph Laplacian: the rows of the plan sum to 1, so the
        # diagonal is the sum of the other entries, which keeps all digits where the plan is almost hard.
        coupling.fill_diagonal_(0.0)
        return _Sums(masses, gradient, error, torch.diag(coupling.sum(1)) - coupling)

    def _newton_step(self, sums: _Sums, damping: float) -> Tensor | None:
        """Solve for the damped Newton step; None where the system is singular."""
        # The outer product fixes the free constant of the potentials: it makes <target, step> = 0.
        matrix = sums.hessian + torch.outer(self.target, self.target)
        matrix.diagonal().add_((damping + 1e-14) * (self.target + sums.masses))
        factor, failed = torch.linalg.cholesky_ex(matrix)
        step = torch.cholesky_solve(-sums.gradient[:, None], factor)[:, 0]
        step = torch.where(failed > 0, torch.nan, step)
        # Processes may differ in the last bits of a solve: the mean over them is the same number on all.
        step = self.sum_ranks(step) / self.survey.num_ranks
        return step if bool(step.isfinite().all()) else None

    def _newton(self, potentials: Tensor, sharpness: float, *, warm: bool = False) -> None:
        """Damped Newton from the given sharpness up to the final one; a warm start is given up early.

        A stage of the continuation is left as soon as its Newton step is short: that step and a change of the
        potentials in proportion to the sharpness (exact in the limit of hard plans) lead to the next one.
        """
        damping = 0.0
        num_backtracks = num_singular = 0
        step: Tensor | None = None  # the step that led here at the same sharpness, for the overshoot test
        slope = error = 0.0  # at the start of that step
        mark_error, mark_pass = float("inf"), self.num_passes
        while self.num_passes < self.max_passes:
            if self.num_passes == self.max_passes - 1 and sharpness < self.sharpness:
                # The last pass must tell the error of what is returned.
                potentials, step = self._proportional(potentials, self.sharpness / sharpness), None
                sharpness = self.sharpness
            sums = self._pass(potentials, sharpness, curvature=True)
            if sums.error <= self.tol and sharpness == self.sharpness:
                return
            if warm and (sums.error > _WARM_ERROR or self.num_passes == _WARM_PASSES):
                return
            if sums.error < 0.9 * mark_error:
                mark_error, mark_pass = sums.error, self.num_passes
            elif self.num_passes - mark_pass >= _PATIENCE:
                if sharpness == self.sharpness:
                    return
                # Nothing moves at this stage: see whether the final sharpness does better before giving up.
                potentials = self._proportional(potentials, self.sharpness / sharpness)
                sharpness, step = self.sharpness, None
                mark_error, mark_pass = float("inf"), self.num_passes
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
            step = self._newton_step(sums, damping)
            while step is None and num_singular < _MAX_SINGULAR:
                num_singular += 1
                damping = max(10 * damping, 1e-10)
                step = self._newton_step(sums, damping)
            if step is None:
                return
            length = (step.max() - step.min()).item()
            if sharpness < self.sharpness and length <= _ADVANCE_RANGE:
                following = min(self.sharpness, sharpness * _SHARPNESS_RATIO)
                potentials = self._proportional(potentials + step, following / sharpness)
                sharpness, step = following, None
                mark_error, mark_pass = float("inf"), self.num_passes
                continue
            if length > _MAX_STEP_RANGE:
                step = step * (_MAX_STEP_RANGE / length)
            slope, error = (sums.gradient @ step).item(), sums.error
            potentials = potentials + step

    def _proportional(self, potentials: Tensor, ratio: float) -> Tensor:
        return self.log_target + (potentials - self.log_target) * ratio

    def _scaling(self, potentials: Tensor) -> None:
        """Plain log-domain scaling at the final sharpness: slow, and monotone from any start."""
        mark_error, mark_pass = float("inf"), self.num_passes
        while self.num_passes < self.max_passes:
            sums = self._pass(potentials, self.sharpness, curvature=False)
            if sums.error <= self.tol:
                return
            if sums.error < 0.99 * mark_error:
                mark_error, mark_pass = sums.error, self.num_passes
            elif self.num_passes - mark_pass >= _SCALING_PATIENCE:
                return
            potentials = potentials + self.log_target - sums.masses.log()
