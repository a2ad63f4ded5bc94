"""One labelling of all clips: features -> scores -> optimal transport -> label bank (SeLaVi, section 3)."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selavi.config import Config
from selavi.distributed import all_sum, gather_rows
from selavi.errors import NumericError
from selavi.labelling.alignment import align, alignment_cost
from selavi.labelling.bank import LabelBank
from selavi.labelling.marginals import make_marginal, order_marginal
from selavi.labelling.scores import combine_scores, modality_agreement
from selavi.labelling.transport import Labelling, assign, row_statistics
from selavi.randomness import mix


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
            make_marginal(
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
            statistics: also return how sure each label is.
        """
        began, number = time.monotonic(), bank.num_labellings
        labels = torch.full_like(bank.labels, -1)
        sure = torch.full((4, *bank.labels.shape), torch.nan) if statistics else None
        results = []
        for group, heads in enumerate(self.head_groups(number)):
            table = collect(number * self.config.head_groups + group)
            rows = gather_rows(table.index).cpu()
            for head in heads:
                if number == 0 and self.config.align_modalities:
                    self._align(table, head, head_logits, permute_clusters)
                log_probabilities = self._log_probabilities(table, head, head_logits)
                scores = combine_scores(log_probabilities, self.weights, table.present)
                result = self._assign(scores, head, bank.potentials[head])
                results.append(result)
                labels[rows, head] = gather_rows(result.labels).cpu().to(labels.dtype)
                bank.potentials[head] = result.potentials.cpu()
                if sure is not None:
                    each = row_statistics(scores, result.potentials, self.config.sharpness)
                    agreement = modality_agreement(log_probabilities, table.present)
                    for kind, values in enumerate((*each, agreement)):
                        sure[kind, rows, head] = gather_rows(values.float()).cpu()
        assert (labels >= 0).all(), "a clip was left without a label"
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

    def _log_probabilities(self, table: FeatureTable, head: int, head_logits: HeadLogits) -> dict[str, Tensor]:
        logits = head_logits(table.features, [head])
        probabilities = {name: logits[name][0].float().log_softmax(1) for name in self.modalities}
        finite = torch.stack([p[table.present[name]].isfinite().all() for name, p in probabilities.items()]).all()
        if all_sum((~finite).float()).item():  # every rank stops, whichever has the fault
            raise NumericError(
                f"head {head} gives scores that are not finite: training has diverged; lower optim.lr, or train with "
                "trainer.precision=32-true"
            )
        return probabilities

    def _assign(self, scores: Tensor, head: int, potentials: Tensor) -> Labelling:
        masses = all_sum(scores.softmax(1).sum(0, dtype=torch.float64))
        marginal = order_marginal(
            self.marginals[head].to(scores.device), masses / masses.sum(), self.config.marginal_order
        )
        return assign(
            scores,
            marginal,
            sharpness=self.config.sharpness,
            tol=self.config.tol,
            initial_potentials=potentials.to(scores.device),
            sum_ranks=all_sum,
        )

    def _align(
        self,
        table: FeatureTable,
        head: int,
        head_logits: HeadLogits,
        permute_clusters: Callable[[str, int, Tensor], None],
    ) -> None:
        """Let every other modality's head name the same clusters as the first one's."""
        probabilities = {n: p.exp() for n, p in self._log_probabilities(table, head, head_logits).items()}
        reference = self.modalities[0]
        for name in self.modalities[1:]:
            both = table.present[reference] & table.present[name]
            cost = all_sum(alignment_cost(probabilities[reference][both], probabilities[name][both]))
            permute_clusters(name, head, align(cost))


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


def _used_clusters(labels: Tensor) -> float:
    return float(np.mean([len(column.unique()) for column in labels.T]))
