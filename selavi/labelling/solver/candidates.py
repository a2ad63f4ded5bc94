"""Each clip's likeliest clusters, and a model of all others: a table that is read in a small part of the time.

Axes: N clips (this process's rows), K clusters, C candidates of a clip.  Where the plan is nearly hard, a row has few
entries that matter, and a search may take many steps over these before any other entry matters.  The rows are modelled
as the softmax over the clusters of

    sharpness * scores[n, k] + g[k]             for the C candidates k of clip n
    sharpness * (own[n] + common[k]) + g[k]     for all others

where own and common are such that, at the potentials at which the candidates were taken, the others have the mass in
each row that they really have, and about the mass in each column.  That is close where a clip's other clusters are all
alike, and else they are a small part of the mass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from selavi.labelling.solver.gaps import GAP_BINS, gap_bins, gap_edges
from selavi.labelling.solver.problem import SumRanks
from selavi.labelling.solver.tables import MAX_DENSE_CLUSTERS, Curvature, LargeEntries, Table, join_large

_LARGE = 0.01
"""Entries of the plan above this are coupled one by one; of the others there are sums only."""
_FLOOR = -700.0
"""Nats below a row's best from which an entry counts as if it were here, so that no logarithm is of 0."""
_LEAST_OUTSIDE = 1e-3
"""Least share of the others' mass that is taken to lie outside of a row's candidates."""


class _Plan(NamedTuple):
    """The plan's rows: each is ``extra`` at its candidates plus ``others * shares`` at all clusters."""

    extra: Tensor
    """(N, C) what the candidates have beyond what the model of the others gives them."""
    others: Tensor
    """(N,) mass that is spread by shares."""
    shares: Tensor
    """(K,) sum to 1."""
    logarithms: Tensor
    """(N, C) of the candidates' extra entries."""
    log_others: Tensor
    """(N,)"""
    log_shares: Tensor
    """(K,)"""


class CandidateTable:
    """A `Table` of each row's C largest entries at some potentials, held in float64: some 120 bytes an entry.

    To take them is one read of all rows; what it says of the masses is in `true_masses`.  At that sharpness the masses
    are corrected by what the model lacks there, so that they are exact where the potentials have not moved.

    Args:
        table: all scores of this process's rows.
        potentials: (K,) -inf for a cluster that gets nothing.
        sharpness: at which the candidates are taken.
        num_candidates: C, less than the clusters that get something.
        sum_ranks: adds over processes.

    Attributes:
        true_masses: (K,) sum of the plan's rows at the potentials, over this process's rows.
    """

    def __init__(
        self, table: Table, potentials: Tensor, sharpness: float, num_candidates: int, sum_ranks: SumRanks
    ) -> None:
        self.num_rows, self.num_clusters, self.device = table.num_rows, table.num_clusters, table.device
        self._taken_at = sharpness
        shape = (self.num_rows, num_candidates)
        self._scores = torch.empty(shape, dtype=torch.float64, device=self.device)
        self._clusters = torch.empty(shape, dtype=torch.int64, device=self.device)
        log_outside = torch.empty(self.num_rows, dtype=torch.float64, device=self.device)
        self.true_masses, outside = torch.zeros(2, self.num_clusters, dtype=torch.float64, device=self.device).unbind()
        for rows, block in table.blocks():
            scaled = torch.add(potentials, block.double(), alpha=sharpness)
            largest = scaled.topk(num_candidates, dim=1)
            best = largest.values[:, :1].clone()
            entries = scaled.sub_(best).clamp_(min=_FLOOR).exp_().scatter_(1, largest.indices, 0.0)
            mine = (largest.values - best).exp_()
            in_others = entries.sum(1)
            weights = 1 / (in_others + mine.sum(1))
            outside += weights @ entries
            self._add(self.true_masses, largest.indices, mine * weights[:, None])
            self._clusters[rows] = largest.indices
            self._scores[rows] = block.gather(1, largest.indices)
            log_outside[rows] = in_others.log() + best[:, 0]
        self.true_masses += outside
        # A cluster that is a candidate of every clip has nothing outside.
        in_column = sum_ranks(outside.clone()).clamp_(min=1e-300).masked_fill_(potentials == -torch.inf, 0.0)
        shares = in_column / in_column.sum()
        self._common = torch.where(shares > 0, (shares.log() - potentials) / sharpness, -torch.inf)
        in_candidates = shares[self._clusters].sum(1)
        self._own = (log_outside - (1 - in_candidates).clamp_(min=_LEAST_OUTSIDE).log()) / sharpness
        self._extra_at, self._log_extra = 0.0, self._scores
        self._correction = torch.zeros_like(self.true_masses)
        self._correction = self.true_masses - self.masses(potentials, sharpness)

    def exact(self) -> CandidateTable:
        """This table: it is float64."""
        return self

    def masses(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(K,) float64 sum of the plan's rows."""
        return self._masses(self._plan(potentials, sharpness), sharpness)

    def curvature(self, potentials: Tensor, sharpness: float) -> Curvature:
        """Masses and sums for the Hessian, and gaps."""
        plan = self._plan(potentials, sharpness)
        entries = plan.extra + plan.others[:, None] * plan.shares[self._clusters]
        is_large = entries > _LARGE
        large = torch.where(is_large, entries, 0.0)
        in_large = large.sum(1)
        in_small = (1 - in_large).clamp_(min=0)
        rest = plan.extra - large
        tails = torch.stack(
            [
                self._sum(large * in_small[:, None]),
                self._sum(rest * in_large[:, None]) + (plan.others @ in_large) * plan.shares,
                self._sum(rest * in_small[:, None]) + (plan.others @ in_small) * plan.shares,
            ]
        ).clamp_(min=0)
        masses = self._masses(plan, sharpness)
        counts = self._gap_counts(plan)
        coupled = join_large([is_large.sum(1)], [self._clusters[is_large]], [entries[is_large]], self.device)
        if self.num_clusters > MAX_DENSE_CLUSTERS:
            return Curvature(masses, tails, masses.new_zeros(0, 0), coupled, counts)
        return Curvature(masses, tails, _pairs(coupled, self.num_clusters), None, counts)

    def _plan(self, potentials: Tensor, sharpness: float) -> _Plan:
        log_shares = sharpness * self._common + potentials
        total = log_shares.logsumexp(0)
        extra = self._log_extra_at(sharpness) + potentials[self._clusters]
        others = sharpness * self._own + total
        best = torch.maximum(extra.amax(1), others)
        extra -= best[:, None]
        others = others - best
        entries = extra.exp()
        log_sums = (entries.sum(1) + others.exp()).log_()
        others -= log_sums
        extra -= log_sums[:, None]
        entries *= log_sums.neg().exp_()[:, None]
        log_shares = log_shares - total
        return _Plan(entries, others.exp(), log_shares.exp(), extra, others, log_shares)

    def _log_extra_at(self, sharpness: float) -> Tensor:
        """(N, C) ``log(exp(sharpness * scores) - exp(sharpness * (own + common)))``, or -inf; the last one is kept."""
        if self._extra_at != sharpness:
            scaled = sharpness * self._scores
            ahead = scaled - sharpness * (self._own[:, None] + self._common[self._clusters])
            self._log_extra = scaled + torch.where(ahead > 0, -(-ahead).expm1(), 0.0).log_()
            self._extra_at = sharpness
        return self._log_extra

    def _masses(self, plan: _Plan, sharpness: float) -> Tensor:
        masses = self._sum(plan.extra) + plan.others.sum() * plan.shares
        return masses + self._correction if sharpness == self._taken_at else masses

    def _sum(self, entries: Tensor) -> Tensor:
        """(K,) sums of the candidates' entries (N, C) by cluster."""
        return self._add(entries.new_zeros(self.num_clusters), self._clusters, entries)

    def _add(self, sums: Tensor, clusters: Tensor, entries: Tensor) -> Tensor:
        return sums.index_add_(0, clusters.flatten(), entries.flatten())

    def _gap_counts(self, plan: _Plan) -> Tensor:
        """(2, K, GAP_BINS) as in `Curvature`."""
        counts = plan.others.new_zeros(2, self.num_clusters, GAP_BINS)
        # Of the others, the gap is that of the row's share plus that of the column's.
        row_bins = gap_bins(-plan.log_others)
        edges = torch.cat([counts.new_zeros(1), gap_edges().to(self.device)[:-1]])
        bins = gap_bins(edges - plan.log_shares.clamp(min=-1e6)[:, None])
        counts[0].scatter_add_(1, bins, self._count(row_bins, GAP_BINS).expand(self.num_clusters, -1))
        columns, num_places = self._clusters * GAP_BINS, self.num_clusters * GAP_BINS
        as_others = bins[self._clusters, row_bins[:, None]]
        nearer = torch.minimum(as_others, gap_bins(-plan.logarithms))
        change = self._count(columns + nearer, num_places) - self._count(columns + as_others, num_places)
        counts[0] += change.view_as(counts[0])
        two = plan.logarithms.topk(2, dim=1)
        leads = gap_bins(two.values[:, 0] - torch.maximum(two.values[:, 1], plan.log_others))
        places = columns.gather(1, two.indices[:, :1])[:, 0] + leads
        counts[1] += self._count(places[leads > 0], num_places).view_as(counts[1])
        return counts

    def _count(self, places: Tensor, num_places: int) -> Tensor:
        return places.flatten().bincount(minlength=num_places).double()


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
