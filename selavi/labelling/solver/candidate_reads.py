"""Each clip's likeliest clusters taken from a table, and sums over the rows of their model: in torch, for a GPU.

Axes: N clips, K clusters, C candidates of a clip.  `candidate_kernels` has the same three functions for a CPU, and
`candidates` says what the model is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from selavi.labelling.solver.gaps import GAP_BINS, gap_bins
from selavi.labelling.solver.tables import LARGE, MAX_DENSE_CLUSTERS, LargeEntries, Table, join_large

FLOOR = -700.0
"""Nats below a row's best from which an entry counts as if it were here, so that no logarithm is of 0."""


class Taken(NamedTuple):
    """The C largest entries of each row of the plan, and sums of all."""

    scores: Tensor
    """(N, C) float64"""
    clusters: Tensor
    """(N, C)"""
    log_outside: Tensor
    """(N,) log of the sum of ``exp(sharpness * scores + potentials)`` over a row's other clusters."""
    masses: Tensor
    """(K,) of the plan."""
    outside: Tensor
    """(K,) the part of them that is no candidate's."""


class Model(NamedTuple):
    """The model at some potentials and sharpness, float64.

    Row n of the plan is the softmax over ``log_extra[n, c] + potentials[clusters[n, c]]`` for the C candidates, and
    ``log_others[n]`` for what all clusters get by their shares.
    """

    log_extra: Tensor
    """(N, C) may be -inf."""
    clusters: Tensor
    """(N, C)"""
    log_others: Tensor
    """(N,)"""
    potentials: Tensor
    """(K,)"""
    shares: Tensor
    """(K,) sum to 1."""


class RowSums(NamedTuple):
    """Sums over the rows.  What the others add to the masses, the tails and the gaps is left to the caller."""

    masses: Tensor
    """(K,) of the candidates' extra entries."""
    tails: Tensor
    """(3, K) of these, as in `Curvature`."""
    others: Tensor
    """(3,) mass that is spread by shares, and its products with what is large in its row, and with the rest."""
    large: Tensor
    """(N, C) candidates' entries of the plan above LARGE, else 0."""
    pairs: Tensor
    """(K, K) as in `Curvature`; (0, 0) for many clusters."""
    row_counts: Tensor
    """(GAP_BINS,) rows by how far their others are from the whole row."""
    counts: Tensor
    """(2, K, GAP_BINS) as in `Curvature`; of clips that come over, how many more there are than of the others."""


def take(table: Table, potentials: Tensor, sharpness: float, num_candidates: int) -> Taken:
    """The largest entries of each row at some potentials (K,), fewer than get something; one read of all rows."""
    shape = (table.num_rows, num_candidates)
    scores = torch.empty(shape, dtype=torch.float64, device=table.device)
    clusters = torch.empty(shape, dtype=torch.int64, device=table.device)
    log_outside = torch.empty(table.num_rows, dtype=torch.float64, device=table.device)
    masses, outside = torch.zeros_like(potentials), torch.zeros_like(potentials)
    for rows, block in table.blocks():
        scaled = torch.add(potentials, block.double(), alpha=sharpness)
        largest = scaled.topk(num_candidates, dim=1)
        best = largest.values[:, :1].clone()
        entries = scaled.sub_(best).clamp_(min=FLOOR).exp_().scatter_(1, largest.indices, 0.0)
        mine = (largest.values - best).exp_()
        in_others = entries.sum(1)
        weights = 1 / (in_others + mine.sum(1))
        outside += weights @ entries
        masses.index_add_(0, largest.indices.flatten(), (mine * weights[:, None]).flatten())
        clusters[rows] = largest.indices
        scores[rows] = block.gather(1, largest.indices).double()
        log_outside[rows] = in_others.log() + best[:, 0]
    return Taken(scores, clusters, log_outside, masses + outside, outside)


class _Plan(NamedTuple):
    """The plan's rows, and their logarithms."""

    extra: Tensor
    """(N, C)"""
    others: Tensor
    """(N,)"""
    log_extra: Tensor
    log_others: Tensor


def _plan(model: Model) -> _Plan:
    extra = model.log_extra + model.potentials[model.clusters]
    best = torch.maximum(extra.amax(1), model.log_others)
    extra -= best[:, None]
    others = model.log_others - best
    entries = extra.exp()
    log_sums = (entries.sum(1) + others.exp()).log_()
    others -= log_sums
    extra -= log_sums[:, None]
    entries *= log_sums.neg().exp_()[:, None]
    return _Plan(entries, others.exp(), extra, others)


def masses(model: Model) -> tuple[Tensor, Tensor]:
    """(K,) sum of the candidates' extra entries, and () mass that is spread by shares."""
    plan = _plan(model)
    return _by_cluster(model, plan.extra), plan.others.sum()


def curvature(model: Model, bins: Tensor) -> RowSums:
    """Sums for the Hessian and the gaps.

    Args:
        model: what is read.
        bins: (K, GAP_BINS) where the gap of a cluster that is no candidate is counted, by where that of the row's
            others is.
    """
    plan = _plan(model)
    entries = plan.extra + plan.others[:, None] * model.shares[model.clusters]
    large = torch.where(entries > LARGE, entries, 0.0)
    in_large = large.sum(1)
    in_small = (1 - in_large).clamp_(min=0)
    rest = plan.extra - large
    tails = [large * in_small[:, None], rest * in_large[:, None], rest * in_small[:, None]]
    num_clusters = len(model.potentials)
    pairs = entries.new_zeros(0, 0)
    if num_clusters <= MAX_DENSE_CLUSTERS:
        pairs = _pairs(large_entries(large, model.clusters), num_clusters)
    return RowSums(
        masses=_by_cluster(model, plan.extra),
        tails=torch.stack([_by_cluster(model, tail) for tail in tails]),
        others=torch.stack([plan.others.sum(), plan.others @ in_large, plan.others @ in_small]),
        large=large,
        pairs=pairs,
        row_counts=_count(gap_bins(-plan.log_others), GAP_BINS),
        counts=_gap_counts(model, plan, bins),
    )


def large_entries(large: Tensor, clusters: Tensor) -> LargeEntries:
    """By rows, of what is not 0 of large (N, C)."""
    is_large = large > 0
    return join_large([is_large.sum(1)], [clusters[is_large]], [large[is_large]], large.device)


def _by_cluster(model: Model, entries: Tensor) -> Tensor:
    """(K,) sums of the candidates' entries (N, C) by cluster."""
    return torch.zeros_like(model.potentials).index_add_(0, model.clusters.flatten(), entries.flatten())


def _pairs(large: LargeEntries, num_clusters: int) -> Tensor:
    """(K, K) sum over the rows of ``p_i * p_j``, off the diagonal, of entries that are given by rows."""
    pairs = large.values.new_zeros(num_clusters, num_clusters)
    counts = large.row_starts.diff()
    rows = torch.arange(len(counts), device=pairs.device).repeat_interleave(counts)
    first = torch.arange(len(rows), device=pairs.device)
    apart = 0
    while len(first):
        # Entries of a row lie beside each other: all pairs that are so far apart at a time.
        apart += 1
        first = first[first + apart < len(rows)]
        first = first[rows[first] == rows[first + apart]]
        places = large.clusters[first] * num_clusters + large.clusters[first + apart]
        pairs.view(-1).index_add_(0, places, large.values[first] * large.values[first + apart])
    return pairs + pairs.T


def _gap_counts(model: Model, plan: _Plan, bins: Tensor) -> Tensor:
    columns, num_places = model.clusters * GAP_BINS, len(model.potentials) * GAP_BINS
    as_others = bins[model.clusters, gap_bins(-plan.log_others)[:, None]]
    nearer = torch.minimum(as_others, gap_bins(-plan.log_extra))
    two = plan.log_extra.topk(2, dim=1)
    leads = gap_bins(two.values[:, 0] - torch.maximum(two.values[:, 1], plan.log_others))
    places = columns.gather(1, two.indices[:, :1])[:, 0] + leads
    coming = _count(columns + nearer, num_places) - _count(columns + as_others, num_places)
    return torch.stack([coming, _count(places[leads > 0], num_places)]).view(2, -1, GAP_BINS)


def _count(places: Tensor, num_places: int) -> Tensor:
    return places.flatten().bincount(minlength=num_places).double()
