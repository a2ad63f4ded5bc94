"""What one voting set says of the clips: the scores of its heads, kept or computed anew at each read.

Axes: n clips of this rank, K clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from selavi.distributed import all_sum
from selavi.errors import NumericError
from selavi.labelling import memory
from selavi.labelling.alignment import alignment_cost
from selavi.labelling.features import FeatureTable
from selavi.labelling.rule import LabelRule
from selavi.labelling.scores import combine_scores, modality_agreement
from selavi.labelling.solver.tables import BlockTable, HalfTable, Table, make_table
from selavi.labelling.spread import Spread, equal_gains

HeadLogits = Callable[[Mapping[str, Tensor], list[int]], Mapping[str, Tensor]]
"""(features, heads) -> logits (len(heads), n, K) a branch."""


@dataclass(frozen=True)
class Votes:
    """The clips of this rank that at least one of the voters can judge, and what the voters' heads say of them."""

    clips: FeatureTable
    voters: Sequence[str]
    """Branches whose heads decide together."""
    weights: Mapping[str, float]
    """Weight of each branch's vote."""
    num_clips: int
    """Clips of all ranks, those included that no voter can judge."""
    num_clusters: int
    """K."""
    memory_gb: float
    """Budget for the scores of one head."""
    head_logits: HeadLogits
    """Applies the heads."""
    rule: LabelRule
    """Scales the votes."""
    columns: Sequence[int]
    """The column of the rule that belongs to each head."""

    def equalise(self, head: int) -> None:
        """Scale the votes of one head so that all voters have the same say; the rule keeps how."""
        device = self.clips.index.device
        spreads = {name: Spread(self.num_clusters, device) for name in self.voters}
        for _, log_probabilities, present in self.blocks(head, self.voters):
            for name, spread in spreads.items():
                spread.add(log_probabilities[name][present[name]])
        measured = {name: spread.measure() for name, spread in spreads.items()}
        gains = equal_gains({name: spread for name, (_, spread) in measured.items()})
        self.rule.set_scale(self.columns[head], {name: centre for name, (centre, _) in measured.items()}, gains)

    def scores(self, head: int) -> Table:
        """Scores under one head: kept, or over the budget computed anew at each read.

        Raises:
            NumericError: some are not finite, on whichever rank.
        """
        num_rows, device = len(self.clips.index), self.clips.index.device
        weights = {name: self.weights[name] for name in self.voters}

        def rows(chosen: slice) -> Tensor:
            log_probabilities, present = self._block(head, chosen, self.voters)
            return combine_scores(self.rule.scale(self.columns[head], log_probabilities), weights, present)

        computed = BlockTable(num_rows, self.num_clusters, rows, memory.BLOCK_ROWS, device)
        bits = memory.bits_per_score(num_rows, self.num_clusters, self.memory_gb)
        kept = torch.empty(num_rows if bits == 32 else 0, self.num_clusters, device=device)
        num_faults = torch.zeros(1, device=device)
        for chosen, block in computed.blocks():
            num_faults += ~block.isfinite().all()
            if len(kept):
                kept[chosen] = block
        if all_sum(num_faults).item():  # every rank stops, whichever has the fault
            raise diverged(f"head {head} gives scores")
        if bits == 32:
            return make_table(kept)
        return HalfTable(computed) if bits else computed

    def agreement(self, head: int) -> Tensor:
        """(n,) how far the voters agree; see modality_agreement."""
        parts = [torch.zeros(0, device=self.clips.index.device)]
        for _, log_probabilities, present in self.blocks(head, self.voters):
            parts.append(modality_agreement(log_probabilities, present))
        return torch.cat(parts)

    def alignment_costs(self, head: int) -> dict[tuple[str, str], Tensor]:
        """What it costs to call a cluster of one voter the same as one of another, (K, K) a pair; see align_all.

        Raises:
            NumericError: some scores are not finite, on whichever rank.
        """
        device = self.clips.index.device
        costs = {
            pair: torch.zeros(self.num_clusters, self.num_clusters, dtype=torch.float64).to(device)
            for pair in combinations(self.voters, 2)
        }
        for _, log_probabilities, present in self.blocks(head, self.voters):
            for one, other in costs:
                both = present[one] & present[other]
                costs[one, other] += alignment_cost(
                    log_probabilities[one][both].exp(), log_probabilities[other][both].exp()
                )
        costs = {pair: all_sum(cost) for pair, cost in costs.items()}
        if not all(cost.isfinite().all() for cost in costs.values()):
            raise diverged(f"head {head} gives scores")
        return costs

    def blocks(
        self, head: int, branches: Sequence[str]
    ) -> Iterator[tuple[slice, dict[str, Tensor], dict[str, Tensor]]]:
        """Rows of blocks of clips, with log-probabilities (b, K) and presence (b,) of some branches, unscaled."""
        num_rows = len(self.clips.index)
        for first in range(0, num_rows, memory.BLOCK_ROWS):
            rows = slice(first, min(first + memory.BLOCK_ROWS, num_rows))
            yield rows, *self._block(head, rows, branches)

    def _block(self, head: int, rows: slice, branches: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        logits = self.head_logits({name: features[rows] for name, features in self.clips.features.items()}, [head])
        present = {name: self.clips.present[name][rows] for name in branches}
        return {name: logits[name][0].float().log_softmax(1) for name in branches}, present


def diverged(what: str) -> NumericError:
    """The error of a training whose numbers are no longer finite."""
    return NumericError(
        f"{what} that are not finite: training has diverged; lower optim.lr, or train with trainer.precision=32-true"
    )
