"""Optimal transport of clips to clusters of given sizes: the step that turns scores into pseudo-labels.

Axes: N clips, K clusters.  The plan that minimises ``-sum(plan * scores) - entropy(plan) / sharpness`` under the row
sums 1/N and the column sums ``marginal`` (SeLaVi, section 3.1; lambda of the paper is the sharpness) has the rows

    plan[n] = softmax(sharpness * scores[n] + g) / N

Only the K cluster potentials g are unknown.  `assign_reference` finds them in the plainest way, and says in twenty
lines what a labelling is; `assign` finds the same ones in far fewer reads of the scores, over several processes, and
with sizes that may float or clips that are left out.  How it searches is in `newton`, what it reads in `dual`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from selavi.labelling.solver.dual import Dual
from selavi.labelling.solver.problem import (
    SumRanks,
    check_limits,
    check_start,
    make_problem,
    marginal_error,
    on_one_process,
    survey,
)
from selavi.labelling.solver.search import Search
from selavi.labelling.solver.tables import Table, make_table, one_torch_thread


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
        num_passes: reads of all rows by the solver; reads of a sample, or of each clip's likeliest clusters, are
            counted by their share of all scores, and the total is rounded up.  The one read that checks the scores
            before and the one that takes the labels after are not counted.
        inner_passes: how much of num_passes, before rounding, were reads of each clip's likeliest clusters alone.
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
    inner_passes: float
    converged: bool
    reason: str
    num_hessians: int
    masses: Tensor


@torch.no_grad()
def assign_reference(
    scores: Tensor, marginal: Tensor, *, sharpness: float = 20.0, tol: float = 1e-6, max_passes: int = 5000
) -> Labelling:
    """Plain log-domain scaling on a float64 copy of the table: what tests compare `assign` with.

    Takes the arguments of `assign`, with finite scores and a positive marginal, on one process.
    """
    target = make_problem(scores, marginal, sharpness).target()
    check_limits(tol, max_passes)
    scaled = scores.double() * sharpness
    potentials = torch.zeros_like(target)
    num_passes = 0
    while True:
        masses = (scaled + potentials).softmax(1).mean(0)
        num_passes += 1
        error = marginal_error(masses, target)
        if error <= tol or num_passes == max_passes:
            break
        # The rows are normalised by construction, so one update of the columns is one full round of scaling.
        potentials = potentials + target.log() - masses.log()
    potentials = potentials - (target * potentials).sum()
    labels = (scaled + potentials).argmax(1)
    reason = "" if error <= tol else "max_passes reached"
    return Labelling(labels, potentials, error, num_passes, 0.0, error <= tol, reason, 0, masses)


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
        process. `converged` is False, with the best potentials and the reason, where the target cannot be
        met or was not in max_passes.

    Raises:
        ValueError: for wrong shapes or types, NaN or +inf in the scores, a clip without any cluster it may
            have, a marginal that is negative, not finite or does not sum to 1, a non-positive sharpness,
            tol or size_strength, a fraction outside (0, 1].
    """
    problem = make_problem(scores, marginal, sharpness, size_strength, fraction)
    check_limits(tol, max_passes)
    check_start(initial_potentials, len(problem.target()))
    table, overview = survey(problem, tol, sum_ranks)
    search = Search(Dual(problem, overview, sum_ranks), table, tol, max_passes)
    with one_torch_thread(table):
        search.run(initial_potentials)
        potentials = search.dual.full_potentials(search.best())
        labels = table.labels(potentials, sharpness)
    if problem.is_partial:
        labels[labels == problem.num_clusters] = -1
    error = search.error()
    converged = error <= tol
    return Labelling(
        labels=labels,
        potentials=potentials,
        marginal_error=error,
        num_passes=math.ceil(search.num_reads),
        inner_passes=search.num_candidate_reads,
        converged=converged,
        reason="" if converged else search.reason(),
        num_hessians=search.num_hessians,
        masses=search.masses()[: problem.num_clusters],
    )


class RowStatistics(NamedTuple):
    """How confident the plan is of each clip: confidence, margin and entropy (nats), each (N,) float32."""

    confidence: Tensor
    margin: Tensor
    entropy: Tensor


@torch.no_grad()
def row_statistics(scores: Tensor | Table, potentials: Tensor, sharpness: float) -> RowStatistics:
    """Confidence (largest entry), margin (largest minus second) and entropy (nats) of every row of the plan.

    The table is read in blocks, the plan is never held.  With K = 1 the margin is the confidence.

    Raises:
        ValueError: where potentials is not (K,).
    """
    if isinstance(scores, Tensor):
        if scores.ndim != 2 or potentials.shape != scores.shape[1:]:
            shapes = f"{tuple(scores.shape)} and {tuple(potentials.shape)}"
            raise ValueError(f"expected scores (N, K) and potentials (K,), got {shapes}")
        scores = make_table(scores)
    return RowStatistics(*scores.statistics(potentials, sharpness))
