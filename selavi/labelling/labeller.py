"""One labelling of all clips: features -> scores -> optimal transport -> label bank (SeLaVi, section 3)."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from selavi.config import Config
from selavi.distributed import all_sum, gather_rows
from selavi.errors import NumericError
from selavi.labelling.alignment import align_all, alignment_cost
from selavi.labelling.bank import LabelBank
from selavi.labelling.marginals import estimate_marginal, make_marginal, order_marginal
from selavi.labelling.schedule import labelled_fraction
from selavi.labelling.scores import combine_scores, modality_agreement
from selavi.labelling.tables import MAX_SAMPLE_BYTES, BlockTable, HalfTable, Table, make_table
from selavi.labelling.transport import Labelling, assign, row_statistics
from selavi.randomness import mix

_BLOCK_ROWS = 8192  # clips whose scores are computed together
# Bytes of a score that is kept in so many bits, with the samples of rows that the solver may keep.
_BYTES_PER_SCORE = {32: 5.2, 16: 3.2}


@dataclass(frozen=True)
class FeatureTable:
    """What the encoders say of this rank's clips, from one view of each."""

    index: Tensor
    """(n,) rows in the label bank."""
    features: Mapping[str, Tensor]
    """(n, D) a modality."""
    present: Mapping[str, Tensor]
    """(n,) bool a modality."""


HeadLogits = Callable[[Mapping[str, Tensor], list[int]], Mapping[str, Tensor]]
"""(features, heads) -> logits (len(heads), n, K) a modality."""


@dataclass(frozen=True)
class LabellingReport:
    """What a labelling did, over all heads."""

    number: int
    num_passes: int
    """Most passes that a head needed."""
    marginal_error: float
    """Largest of the heads."""
    converged: bool
    used_clusters: float
    """Mean over heads of the clusters that hold a clip."""
    churn: float
    """Share of (clip, head) pairs whose label changed; nan the first time."""
    seconds: float


@dataclass(frozen=True)
class ClipStatistics:
    """How sure the labels are: (N, H) each, in the order of the label bank."""

    confidence: Tensor
    margin: Tensor
    entropy: Tensor
    modality_agreement: Tensor
    """sum_k min(p_video, p_audio); nan where a clip has one modality only."""


class Labeller:
    """Labels every clip under every head; the only writer of the label bank."""

    def __init__(self, config: Config) -> None:
        self.config, self.seed = config.labelling, config.seed
        self.modalities = config.modalities
        self.weights = {name: config.labelling.weights[name] for name in config.modalities}
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
            permute_clusters: (modality, head, permutation) reorders the outputs of one head; called before the
                first labelling, for every modality but the first.
            statistics: also return how sure each label is; every clip is then labelled, whatever the fraction.
        """
        began, number = time.monotonic(), bank.num_labellings
        labels = torch.full_like(bank.labels, -1)
        sure = torch.full((4, *bank.labels.shape), torch.nan) if statistics else None
        fraction = 1.0 if statistics else labelled_fraction(number, self.config.num_labellings, self.config.fraction)
        results = []
        for group, heads in enumerate(self.head_groups(number)):
            table = collect(number * self.config.head_groups + group)
            rows = gather_rows(table.index).cpu()
            for head in heads:
                if number == 0 and self.config.align_modalities:
                    self._align(table, head, head_logits, permute_clusters)
                scores = self._scores(table, head, head_logits)
                result = self._assign(scores, head, bank.potentials[head] if number else None, fraction)
                results.append(result)
                labels[rows, head] = gather_rows(result.labels).cpu().to(labels.dtype)
                potentials = result.potentials[: self.num_clusters]  # without that of being left out
                bank.potentials[head] = potentials.cpu()
                if sure is not None:
                    each = row_statistics(scores, potentials, self.config.sharpness)
                    agreement = self._agreement(table, head, head_logits)
                    for kind, values in enumerate((*each, agreement)):
                        sure[kind, rows, head] = gather_rows(values.float()).cpu()
        assert fraction < 1 or (labels >= 0).all(), "a clip was left without a label"
        changed = (labels != bank.labels).float().mean().item() if number else float("nan")
        bank.labels, bank.num_labellings = labels, number + 1
        report = LabellingReport(
            number=number,
            num_passes=max(result.num_passes for result in results),
            marginal_error=max(result.marginal_error for result in results),
            converged=all(result.converged for result in results),
            used_clusters=_used_clusters(labels),
            churn=changed,
            seconds=time.monotonic() - began,
        )
        return report, None if sure is None else ClipStatistics(*sure)

    def num_bits(self, num_rows: int) -> int:
        """Bits of a score as it is kept, so that those of so many clips fit the memory budget; 0: none is kept."""
        for bits, num_bytes in _BYTES_PER_SCORE.items():
            if num_rows * self.num_clusters * num_bytes <= self.config.memory_gb * 1e9:
                return bits
        return 0

    def describe_memory(self, num_rows: int) -> str:
        """What a labelling of so many clips will hold beside their features."""
        num_scores, bits = num_rows * self.num_clusters, self.num_bits(num_rows)
        if bits:
            peak_gb = num_scores * _BYTES_PER_SCORE[bits] * 1e-9 + self._block_gb()
            return (
                f"labelling holds a float{bits} table of {num_scores * bits / 8e9:.2g} GB, at most {peak_gb:.2g} GB "
                "beside the features"
            )
        sample_gb = min(2 * MAX_SAMPLE_BYTES * 1e-9, num_rows * self.num_clusters * 2e-9)  # one and the next
        peak_gb = sample_gb + self._block_gb()
        return (
            f"a table of {num_scores * 4e-9:.3g} GB is over labelling.memory_gb={self.config.memory_gb:g}: scores are "
            f"computed anew for each pass, at most {peak_gb:.2g} GB beside the features"
        )

    def _block_gb(self) -> float:
        """Of a block of rows: logits and probabilities of each modality, and temporary copies."""
        return _BLOCK_ROWS * self.num_clusters * 4e-9 * (3 * len(self.modalities) + 2)

    def _log_probabilities(
        self, table: FeatureTable, head: int, head_logits: HeadLogits
    ) -> Iterator[tuple[slice, dict[str, Tensor], dict[str, Tensor]]]:
        """Yield (rows, log-probabilities, present) of blocks of clips."""
        for first in range(0, len(table.index), _BLOCK_ROWS):
            rows = slice(first, min(first + _BLOCK_ROWS, len(table.index)))
            yield rows, *self._block(table, head, head_logits, rows)

    def _block(
        self, table: FeatureTable, head: int, head_logits: HeadLogits, rows: slice
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        logits = head_logits({name: features[rows] for name, features in table.features.items()}, [head])
        present = {name: mask[rows] for name, mask in table.present.items()}
        return {name: logits[name][0].float().log_softmax(1) for name in self.modalities}, present

    def _scores(self, table: FeatureTable, head: int, head_logits: HeadLogits) -> Table:
        """Scores under one head: kept, or over the budget computed anew at each read."""
        num_rows, device = len(table.index), table.index.device

        def rows(chosen: slice) -> Tensor:
            log_probabilities, present = self._block(table, head, head_logits, chosen)
            return combine_scores(log_probabilities, self.weights, present)

        computed = BlockTable(num_rows, self.num_clusters, rows, _BLOCK_ROWS, device)
        bits = self.num_bits(num_rows)
        scores = torch.empty(num_rows if bits == 32 else 0, self.num_clusters, device=device)
        num_faults = torch.zeros(1, device=device)
        for chosen, block in computed.blocks():
            num_faults += ~block.isfinite().all()
            if len(scores):
                scores[chosen] = block
        if all_sum(num_faults).item():  # every rank stops, whichever has the fault
            raise _diverged(head)
        if bits == 32:
            return make_table(scores)
        return HalfTable(computed) if bits else computed

    def _agreement(self, table: FeatureTable, head: int, head_logits: HeadLogits) -> Tensor:
        parts = [torch.zeros(0, device=table.index.device)]
        for _, log_probabilities, present in self._log_probabilities(table, head, head_logits):
            parts.append(modality_agreement(log_probabilities, present))
        return torch.cat(parts)

    def _assign(self, scores: Table, head: int, potentials: Tensor | None, fraction: float) -> Labelling:
        config = self.config
        marginal = self.marginals[head]
        if marginal is None or config.marginal_order != "none":
            # How large the clusters are now: the probabilities' own masses, no sharpness, no potentials.
            masses = all_sum(scores.masses(torch.zeros(self.num_clusters, device=scores.device).double(), 1.0))
            masses = masses / masses.sum()
            if marginal is None:
                marginal = estimate_marginal(masses, config.estimate_smoothing)
            else:
                marginal = order_marginal(marginal.to(scores.device), masses, config.marginal_order)
        # A partial labelling has one more potential, which the bank does not keep.
        warm = potentials is not None and fraction == 1
        return assign(
            scores,
            marginal.to(scores.device),
            sharpness=config.sharpness,
            tol=config.tol,
            initial_potentials=potentials.to(scores.device) if warm and potentials is not None else None,
            size_strength=config.size_strength or math.inf,
            fraction=fraction,
            sum_ranks=all_sum,
        )

    def _align(
        self,
        table: FeatureTable,
        head: int,
        head_logits: HeadLogits,
        permute_clusters: Callable[[str, int, Tensor], None],
    ) -> None:
        """Let the heads of all modalities name the same clusters as the first one's."""
        pairs = list(combinations(self.modalities, 2))
        costs = {pair: torch.zeros(self.num_clusters, self.num_clusters, dtype=torch.float64) for pair in pairs}
        costs = {pair: cost.to(table.index.device) for pair, cost in costs.items()}
        for _, log_probabilities, present in self._log_probabilities(table, head, head_logits):
            for one, other in pairs:
                both = present[one] & present[other]
                costs[one, other] += alignment_cost(
                    log_probabilities[one][both].exp(), log_probabilities[other][both].exp()
                )
        costs = {pair: all_sum(cost) for pair, cost in costs.items()}
        if not all(cost.isfinite().all() for cost in costs.values()):
            raise _diverged(head)
        for name, permutation in align_all(costs, self.modalities).items():
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


def _diverged(head: int) -> NumericError:
    return NumericError(
        f"head {head} gives scores that are not finite: training has diverged; lower optim.lr, or train with "
        "trainer.precision=32-true"
    )


def _used_clusters(labels: Tensor) -> float:
    return float(np.mean([len(column.unique()) for column in labels.T]))
