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

from types import ModuleType

import torch
from torch import Tensor

from selavi.labelling.solver import candidate_reads
from selavi.labelling.solver.candidate_reads import Model, large_entries
from selavi.labelling.solver.gaps import GAP_BINS, gap_bins, gap_edges
from selavi.labelling.solver.problem import SumRanks
from selavi.labelling.solver.tables import MAX_DENSE_CLUSTERS, Curvature, Table

_LEAST_OUTSIDE = 1e-3
"""Least share of the others' mass that is taken to lie outside of a row's candidates."""


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
        self._taken_at, self._reads = sharpness, reads_on(table.device)
        taken = self._reads.take(table, potentials, sharpness, num_candidates)
        self._scores, self._clusters, self.true_masses = taken.scores, taken.clusters, taken.masses
        # A cluster that is a candidate of every clip has nothing outside.
        in_column = sum_ranks(taken.outside.clone()).clamp_(min=1e-300).masked_fill_(potentials == -torch.inf, 0.0)
        shares = in_column / in_column.sum()
        self._common = torch.where(shares > 0, (shares.log() - potentials) / sharpness, -torch.inf)
        in_candidates = shares[self._clusters].sum(1)
        self._own = (taken.log_outside - (1 - in_candidates).clamp_(min=_LEAST_OUTSIDE).log()) / sharpness
        self._extra_at, self._log_extra = 0.0, self._scores
        self._correction = torch.zeros_like(self.true_masses)
        self._correction = self.true_masses - self.masses(potentials, sharpness)

    def exact(self) -> CandidateTable:
        """This table: it is float64."""
        return self

    def masses(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(K,) float64 sum of the plan's rows."""
        model, _ = self._model(potentials, sharpness)
        extra, others = self._reads.masses(model)
        return self._corrected(extra + others * model.shares, sharpness)

    def curvature(self, potentials: Tensor, sharpness: float) -> Curvature:
        """Masses and sums for the Hessian, and gaps."""
        model, log_shares = self._model(potentials, sharpness)
        # Of the others, the gap is that of the row's share plus that of the column's.
        edges = torch.cat([log_shares.new_zeros(1), gap_edges().to(self.device)[:-1]])
        bins = gap_bins(edges - log_shares.clamp(min=-1e6)[:, None])
        sums = self._reads.curvature(model, bins)
        masses = self._corrected(sums.masses + sums.others[0] * model.shares, sharpness)
        tails = sums.tails
        tails[1:] += sums.others[1:, None] * model.shares
        sums.counts[0].scatter_add_(1, bins, sums.row_counts.expand(self.num_clusters, GAP_BINS))
        is_dense = self.num_clusters <= MAX_DENSE_CLUSTERS
        large = None if is_dense else large_entries(sums.large, self._clusters)
        return Curvature(masses, tails.clamp_(min=0), sums.pairs, large, sums.counts)

    def _model(self, potentials: Tensor, sharpness: float) -> tuple[Model, Tensor]:
        """What is read, and (K,) the logarithms of its shares."""
        log_shares = sharpness * self._common + potentials
        total = log_shares.logsumexp(0)
        log_shares -= total
        log_extra, log_others = self._log_extra_at(sharpness), sharpness * self._own + total
        return Model(log_extra, self._clusters, log_others, potentials, log_shares.exp()), log_shares

    def _log_extra_at(self, sharpness: float) -> Tensor:
        """(N, C) ``log(exp(sharpness * scores) - exp(sharpness * (own + common)))``, or -inf; the last one is kept."""
        if self._extra_at != sharpness:
            scaled = sharpness * self._scores
            ahead = scaled - sharpness * (self._own[:, None] + self._common[self._clusters])
            self._log_extra = scaled + torch.where(ahead > 0, -(-ahead).expm1(), 0.0).log_()
            self._extra_at = sharpness
        return self._log_extra

    def _corrected(self, masses: Tensor, sharpness: float) -> Tensor:
        return masses + self._correction if sharpness == self._taken_at else masses


def reads_on(device: torch.device) -> ModuleType:
    """Where candidates are taken and read: in compiled code on a CPU, which is imported late, else in torch."""
    if device.type != "cpu":
        return candidate_reads
    from selavi.labelling.solver import candidate_kernels

    return candidate_kernels
