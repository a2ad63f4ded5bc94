"""One labelling of all clips: features -> scores -> optimal transport -> label bank (SeLaVi, section 3).

Its relatives differ in two settings.  `labelling.source` says whose features make a label and who learns it;
`labelling.method=kmeans` clusters the features themselves in place of transport on the heads' scores:

    joint, transport    SeLaVi; of one modality SeLa      own, kmeans     DeepCluster (each modality alone)
    concat, transport   SeLa on concatenated features     cross, kmeans   XDC
    own, transport      a SeLa for each modality          concat, kmeans  XDC's variant on concatenated features
    cross, transport    XDC with SeLa's labels
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selavi.config import Config
from selavi.distributed import all_sum, gather_rows
from selavi.errors import NumericError
from selavi.labelling.alignment import align_all, alignment_cost
from selavi.labelling.bank import LabelBank
from selavi.labelling.methods.kmeans import cluster, label_means, start_centres, unit_features
from selavi.labelling.schedule import labelled_fraction
from selavi.labelling.scores import combine_scores, modality_agreement
from selavi.labelling.solver.marginals import estimate_marginal, make_marginal, order_marginal
from selavi.labelling.solver.tables import MAX_SAMPLE_BYTES, BlockTable, HalfTable, Table, make_table
from selavi.labelling.solver.transport import assign, row_statistics
from selavi.randomness import mix
from selavi.wording import byte_size

_BLOCK_ROWS = 8192  # clips whose scores are computed together
# Bytes of a score that is kept in so many bits, with the samples of rows that the solver may keep.
_BYTES_PER_SCORE = {32: 5.2, 16: 3.2}
_WORTH_SAYING = 100_000_000
"""Bytes below which nobody's memory runs out by a table."""
_FEATURE_BYTES = 4096
"""Of the features of a clip of both modalities, as published."""


@dataclass(frozen=True)
class FeatureTable:
    """What the encoders say of this rank's clips, from one view of each."""

    index: Tensor
    """(n,) rows in the label bank."""
    features: Mapping[str, Tensor]
    """(n, D) a branch: a modality, or their concatenation where heads read that."""
    present: Mapping[str, Tensor]
    """(n,) bool a branch."""

    def with_any(self, branches: list[str]) -> "FeatureTable":
        """The clips that have at least one of the branches."""
        kept = torch.stack([self.present[name] for name in branches]).any(0)
        if kept.all():
            return self
        return FeatureTable(
            self.index[kept],
            {name: features[kept] for name, features in self.features.items()},
            {name: present[kept] for name, present in self.present.items()},
        )


HeadLogits = Callable[[Mapping[str, Tensor], list[int]], Mapping[str, Tensor]]
"""(features, heads) -> logits (len(heads), n, K) a branch."""


class _Found(NamedTuple):
    """What transport or K-means found for one head, on this rank."""

    labels: Tensor
    num_passes: int
    marginal_error: float | None
    converged: bool


@dataclass(frozen=True)
class LabellingReport:
    """What a labelling did, over all heads."""

    number: int
    num_passes: int
    """Most passes that a head needed."""
    marginal_error: float | None
    """Largest of the heads; None under K-means, which promises no sizes."""
    converged: bool
    used_clusters: float
    """Mean over heads of the clusters that hold a clip."""
    churn: float
    """Share of (clip, head) pairs whose label changed; nan the first time."""
    seconds: float


@dataclass(frozen=True)
class ClipStatistics:
    """How sure the heads are: (N, H) each, in the order of the label bank.

    Of the plan's rows; under K-means, which has no plan, of the heads' probabilities.
    """

    confidence: Tensor
    margin: Tensor
    entropy: Tensor
    modality_agreement: Tensor
    """sum_k min(p_video, p_audio); nan where a clip has one modality only."""


class Labeller:
    """Labels every clip under every head; the only writer of the label bank."""

    def __init__(self, config: Config) -> None:
        self.config, self.seed = config.labelling, config.seed
        self.voters = config.voters
        self.weights, self.sharpness = config.branch_weights, config.plan_sharpness
        self.num_heads, self.num_clusters = config.heads.num_heads, config.heads.num_clusters
        marginal = self.config.marginal
        self.marginals = [
            None
            if marginal == "estimated"
            else make_marginal(
                torch.tensor(marginal, dtype=torch.float64) if isinstance(marginal, list) else marginal,
                self.num_clusters,
                gaussian_sd=self.config.gaussian_sd,
                zipf_exponent=self.config.zipf_exponent,
                generator=torch.Generator().manual_seed(mix(self.seed, "marginal", head)),
            )
            for head in range(self.num_heads)
        ]

    def head_groups(self, number: int) -> list[list[int]]:
        """Split the heads at random, anew for each labelling; every group sees a view of its own."""
        order = np.random.default_rng(mix(self.seed, "heads", number)).permutation(self.num_heads).tolist()
        return [order[group :: self.config.head_groups] for group in range(self.config.head_groups)]

    def relabel(
        self,
        bank: LabelBank,
        collect: Callable[[int], FeatureTable],
        head_logits: HeadLogits,
        permute_clusters: Callable[[str, int, Tensor], None],
        statistics: bool = False,
    ) -> tuple[LabellingReport, ClipStatistics | None]:
        """Renew the bank.

        Args:
            bank: where the labels go, the same on every rank afterwards.
            collect: pass number -> features of this rank's clips, from views that belong to that number.
            head_logits: applies the heads.
            permute_clusters: (branch, head, permutation) reorders the outputs of one head; called before the
                first labelling, for every branch but the first, where branches vote together.
            statistics: also return how sure each label is; every clip is then labelled, whatever the fraction, and
                one that lacks the modality that labels gets what the heads of the other one say.
        """
        began, number = time.monotonic(), bank.num_labellings
        labels = torch.full_like(bank.labels, -2)  # -1: seen, but without the modality that labels
        sure = torch.full((4, *bank.labels.shape), torch.nan) if statistics else None
        fraction = 1.0 if statistics else labelled_fraction(number, self.config.num_labellings, self.config.fraction)
        results = []
        for group, heads in enumerate(self.head_groups(number)):
            table = collect(number * self.config.head_groups + group)
            rows = gather_rows(table.index).cpu()
            for voting, voters in enumerate(self.voters):
                part = table.with_any(voters)
                part_rows = gather_rows(part.index).cpu()
                unit = self._unit_features(part, voters) if self.config.method == "kmeans" else None
                for head in heads:
                    column = self._column(self._learner(voting), head)
                    if unit is not None:
                        found = self._cluster(unit, part.index, bank, head, column)
                    else:
                        if number == 0 and self.config.align_modalities and len(voters) > 1:
                            self._align(part, head, voters, head_logits, permute_clusters)
                        found = self._transport(part, bank, head, voting, head_logits, fraction)
                    results.append(found)
                    labels[rows, column] = labels[rows, column].clamp(min=-1)
                    labels[part_rows, column] = gather_rows(found.labels).cpu().to(labels.dtype)
            if sure is not None:
                self._describe(table, rows, bank, heads, head_logits, labels, sure)
        assert (labels >= -1).all(), "a clip was left without a label"
        changed = (labels != bank.labels).float().mean().item() if number else float("nan")
        bank.labels, bank.num_labellings = labels, number + 1
        if self.config.method == "kmeans":
            bank.weights = _balance(labels, self.num_clusters)
        errors = [found.marginal_error for found in results if found.marginal_error is not None]
        report = LabellingReport(
            number=number,
            num_passes=max(found.num_passes for found in results),
            marginal_error=max(errors, default=None),
            converged=all(found.converged for found in results),
            used_clusters=_used_clusters(labels),
            churn=changed,
            seconds=time.monotonic() - began,
        )
        return report, None if sure is None else ClipStatistics(*sure)

    def _learner(self, voting: int) -> int:
        """The set of labels that this set of voters makes: its own, or under `cross` the other modality's."""
        return len(self.voters) - 1 - voting if self.config.source == "cross" else voting

    def _column(self, label_set: int, head: int) -> int:
        return label_set * self.num_heads + head

    def _transport(
        self, table: FeatureTable, bank: LabelBank, head: int, voting: int, head_logits: HeadLogits, fraction: float
    ) -> _Found:
        """Labels by optimal transport; the potentials belong to the scores of the voters' own heads."""
        scores = self._scores(table, head, self.voters[voting], head_logits)
        own = self._column(voting, head)
        # A partial labelling has one more potential, which the bank does not keep.
        warm = bank.num_labellings > 0 and fraction == 1
        start = bank.potentials[own].to(scores.device) if warm else None
        result = assign(
            scores,
            self._marginal(scores, head).to(scores.device),
            sharpness=self.sharpness,
            tol=self.config.tol,
            initial_potentials=start,
            size_strength=self.config.size_strength or math.inf,
            fraction=fraction,
            sum_ranks=all_sum,
        )
        bank.potentials[own] = result.potentials[: self.num_clusters].cpu()  # without that of being left out
        return _Found(result.labels, result.num_passes, result.marginal_error, result.converged)

    def _unit_features(self, table: FeatureTable, voters: list[str]) -> Tensor:
        """(n, D) what K-means sees: each modality standardised and of length 1, side by side."""
        unit = torch.cat([unit_features(table.features[name], table.present[name]) for name in voters], 1)
        if all_sum(unit.isfinite().logical_not().any().double()).item():
            raise _diverged("the encoders give features")
        return unit

    def _cluster(self, unit: Tensor, index: Tensor, bank: LabelBank, head: int, column: int) -> _Found:
        if bank.num_labellings == 0:
            seed = mix(self.seed, "kmeans", column)
            centres = start_centres(unit, index, len(bank.ids), self.num_clusters, seed)
        else:
            before = bank.labels[index.cpu(), column].long().to(unit.device)
            centres = label_means(unit, before, self.num_clusters)
        result = cluster(unit, centres)
        return _Found(result.labels, result.num_passes, None, result.converged)

    def _describe(
        self,
        table: FeatureTable,
        rows: Tensor,
        bank: LabelBank,
        heads: list[int],
        head_logits: HeadLogits,
        labels: Tensor,
        sure: Tensor,
    ) -> None:
        """Fill `sure` with what the heads of each column say of every clip, and `labels` where they have none."""
        for label_set, voters in enumerate(self.voters):
            for head in heads:
                column = self._column(label_set, head)
                scores = self._scores(table, head, voters, head_logits)
                potentials = bank.potentials[column].to(scores.device)
                each = row_statistics(scores, potentials, self.sharpness)
                agreement = self._agreement(table, head, voters, head_logits)
                for kind, values in enumerate((*each, agreement)):
                    sure[kind, rows, column] = gather_rows(values.float()).cpu()
                guess = gather_rows(scores.labels(potentials, self.sharpness)).cpu().to(labels.dtype)
                known = labels[rows, column]
                labels[rows, column] = torch.where(known < 0, guess, known)

    def num_bits(self, num_rows: int) -> int:
        """Bits of a score as it is kept, so that those of so many clips fit the memory budget; 0: none is kept."""
        for bits, num_bytes in _BYTES_PER_SCORE.items():
            if num_rows * self.num_clusters * num_bytes <= self.config.memory_gb * 1e9:
                return bits
        return 0

    def describe_memory(self, num_rows: int) -> str:
        """What a labelling of so many clips will hold beside their features; empty where that is little."""
        if self.config.method == "kmeans":
            if num_rows * _FEATURE_BYTES < _WORTH_SAYING:
                return ""
            return (
                f"labelling holds the features twice, once scaled, and distances of {_BLOCK_ROWS} clips to "
                f"{self.num_clusters} centres at a time"
            )
        num_scores, bits = num_rows * self.num_clusters, self.num_bits(num_rows)
        if bits:
            peak = num_scores * _BYTES_PER_SCORE[bits] + self._block_gb() * 1e9
            if num_scores * bits / 8 < _WORTH_SAYING:
                return ""
            return (
                f"labelling holds a float{bits} table of {byte_size(num_scores * bits / 8)}, at most {byte_size(peak)} "
                "beside the features"
            )
        sample_gb = min(2 * MAX_SAMPLE_BYTES * 1e-9, num_rows * self.num_clusters * 2e-9)  # one and the next
        peak_gb = sample_gb + self._block_gb()
        return (
            f"a table of {byte_size(num_scores * 4)} is over labelling.memory_gb={self.config.memory_gb:g}: scores are "
            f"computed anew for each pass, at most {byte_size(peak_gb * 1e9)} beside the features"
        )

    def _block_gb(self) -> float:
        """Of a block of rows: logits and probabilities of each voter, and temporary copies."""
        return _BLOCK_ROWS * self.num_clusters * 4e-9 * (3 * len(self.voters[0]) + 2)

    def _log_probabilities(
        self, table: FeatureTable, head: int, voters: list[str], head_logits: HeadLogits
    ) -> Iterator[tuple[slice, dict[str, Tensor], dict[str, Tensor]]]:
        """Yield (rows, log-probabilities, present) of blocks of clips."""
        for first in range(0, len(table.index), _BLOCK_ROWS):
            rows = slice(first, min(first + _BLOCK_ROWS, len(table.index)))
            yield rows, *self._block(table, head, voters, head_logits, rows)

    def _block(
        self, table: FeatureTable, head: int, voters: list[str], head_logits: HeadLogits, rows: slice
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        logits = head_logits({name: features[rows] for name, features in table.features.items()}, [head])
        present = {name: table.present[name][rows] for name in voters}
        return {name: logits[name][0].float().log_softmax(1) for name in voters}, present

    def _scores(self, table: FeatureTable, head: int, voters: list[str], head_logits: HeadLogits) -> Table:
        """Scores under one head: kept, or over the budget computed anew at each read."""
        num_rows, device = len(table.index), table.index.device
        weights = {name: self.weights[name] for name in voters}

        def rows(chosen: slice) -> Tensor:
            log_probabilities, present = self._block(table, head, voters, head_logits, chosen)
            return combine_scores(log_probabilities, weights, present)

        computed = BlockTable(num_rows, self.num_clusters, rows, _BLOCK_ROWS, device)
        bits = self.num_bits(num_rows)
        scores = torch.empty(num_rows if bits == 32 else 0, self.num_clusters, device=device)
        num_faults = torch.zeros(1, device=device)
        for chosen, block in computed.blocks():
            num_faults += ~block.isfinite().all()
            if len(scores):
                scores[chosen] = block
        if all_sum(num_faults).item():  # every rank stops, whichever has the fault
            raise _diverged(f"head {head} gives scores")
        if bits == 32:
            return make_table(scores)
        return HalfTable(computed) if bits else computed

    def _agreement(self, table: FeatureTable, head: int, voters: list[str], head_logits: HeadLogits) -> Tensor:
        parts = [torch.zeros(0, device=table.index.device)]
        for _, log_probabilities, present in self._log_probabilities(table, head, voters, head_logits):
            parts.append(modality_agreement(log_probabilities, present))
        return torch.cat(parts)

    def _marginal(self, scores: Table, head: int) -> Tensor:
        marginal = self.marginals[head]
        if marginal is not None and self.config.marginal_order == "none":
            return marginal
        # How large the clusters are now: the probabilities' own masses, no sharpness, no potentials.
        masses = all_sum(scores.masses(torch.zeros(self.num_clusters, device=scores.device).double(), 1.0))
        masses = masses / masses.sum()
        if marginal is None:
            return estimate_marginal(masses, self.config.estimate_smoothing)
        return order_marginal(marginal.to(scores.device), masses, self.config.marginal_order)

    def _align(
        self,
        table: FeatureTable,
        head: int,
        voters: list[str],
        head_logits: HeadLogits,
        permute_clusters: Callable[[str, int, Tensor], None],
    ) -> None:
        """Let the heads of all voters name the same clusters as the first one's."""
        pairs = list(combinations(voters, 2))
        costs = {pair: torch.zeros(self.num_clusters, self.num_clusters, dtype=torch.float64) for pair in pairs}
        costs = {pair: cost.to(table.index.device) for pair, cost in costs.items()}
        for _, log_probabilities, present in self._log_probabilities(table, head, voters, head_logits):
            for one, other in pairs:
                both = present[one] & present[other]
                costs[one, other] += alignment_cost(
                    log_probabilities[one][both].exp(), log_probabilities[other][both].exp()
                )
        costs = {pair: all_sum(cost) for pair, cost in costs.items()}
        if not all(cost.isfinite().all() for cost in costs.values()):
            raise _diverged(f"head {head} gives scores")
        for name, permutation in align_all(costs, voters).items():
            permute_clusters(name, head, permutation)


def collect_features(
    batches: Iterable[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]],
    num_features: Mapping[str, int],
    device: torch.device,
) -> FeatureTable:
    """Join (index, features, present) of batches; a rank without clips gives an empty table."""
    indices: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=device)]
    features = {name: [torch.zeros(0, size, device=device)] for name, size in num_features.items()}
    present = {name: [torch.zeros(0, dtype=torch.bool, device=device)] for name in num_features}
    for index, batch_features, batch_present in batches:
        indices.append(index)
        for name in num_features:
            features[name].append(batch_features[name].float())
            present[name].append(batch_present[name])
    return FeatureTable(
        torch.cat(indices),
        {n: torch.cat(f) for n, f in features.items()},
        {n: torch.cat(p) for n, p in present.items()},
    )


def _diverged(what: str) -> NumericError:
    return NumericError(
        f"{what} that are not finite: training has diverged; lower optim.lr, or train with trainer.precision=32-true"
    )


def _used_clusters(labels: Tensor) -> float:
    return float(np.mean([len(column[column >= 0].unique()) for column in labels.T]))


def _balance(labels: Tensor, num_clusters: int) -> Tensor:
    """(N, H) labels -> (H, K) weights with which every used cluster counts alike, 1 on average over the clips.

    DeepCluster draws clips so; without it a few large clusters would drown the others, and features collapse.
    """
    sizes = torch.stack([torch.bincount(column[column >= 0].long(), minlength=num_clusters) for column in labels.T])
    used = (sizes > 0).sum(1, keepdim=True).clamp(min=1)
    return sizes.sum(1, keepdim=True) / (used * sizes.clamp(min=1)).float()
