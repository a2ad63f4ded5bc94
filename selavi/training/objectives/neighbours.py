"""Neighbours have one cluster (SCAN: Van Gansbeke et al., ECCV 2020, eq. 2).

Axes: H heads, B clips of a batch, K clusters; N clips, n neighbours of each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from selavi.augment.draws import other_view, which_of
from selavi.batch import RowReader
from selavi.config import Config
from selavi.distributed import all_sum, gather_rows, rank, sum_with_gradient, world_size
from selavi.labelling.solver.kmeans import unit_features
from selavi.scores.retrieval import nearest
from selavi.training.objectives.term import Judged, Loss, Step, Term

LEAST = 1e-12
"""What a probability counts for at least inside a logarithm."""
BLOCK_ROWS = 8192
"""Clips that are read at once."""


def disagreement(one: Tensor, other: Tensor, both: Tensor) -> Tensor:
    """-ln sum_k p_k q_k of two clips' probabilities, mean over heads and over the clips of all processes.

    Args:
        one: (H, B, K) logits.
        other: (H, B, K) logits, each of a clip that is to have the same cluster.
        both: (B,) bool, the pairs that count.

    Returns:
        () float32, whose gradient, averaged over processes, is that of the mean over all their clips.
    """
    agreement = (one.float().log_softmax(2) + other.float().log_softmax(2)).logsumexp(2).mean(0)
    count = all_sum(both.sum().float()).clamp(min=1)
    return sum_with_gradient(-(agreement * both).sum()) / count


def balance(logits: Tensor, present: Tensor) -> Tensor:
    """Entropy, in nats, of the mean probabilities of the clips of all processes, mean over heads; ln K at most.

    Args:
        logits: (H, B, K).
        present: (B,) bool, the clips that count.
    """
    count = all_sum(present.sum().float()).clamp(min=1)
    mean = sum_with_gradient((logits.float().softmax(2) * present[:, None]).sum(1)) / count
    return -(mean * mean.clamp(min=LEAST).log()).sum(1).mean()


def find_neighbours(clips: RowReader, num_clips: int, names: Sequence[str], num_neighbours: int) -> Tensor:
    """The clips with the largest cosine similarity to each, exactly; time grows with the square of the clips.

    Vectors are scaled as K-means scales them: each number to mean 0 and variance 1, then each clip to length 1 in each
    modality, and the modalities side by side.  Every process looks at its share of the clips.

    Args:
        clips: gives vectors as they are.
        num_clips: N, of all processes.
        names: of the modalities.
        num_neighbours: n, below N.

    Returns:
        (N, n) int64 rows, the nearest first, the same on every process.
    """
    rows = torch.arange(num_clips)
    batches = [clips.read_rows(block) for block in rows.split(BLOCK_ROWS)]
    parts = []
    for name in names:
        vectors = torch.cat([batch.inputs[name] for batch in batches])
        # Every process has all clips, so that sums over processes count each of them as often: means are the same.
        parts.append(unit_features(vectors, torch.cat([batch.present[name] for batch in batches])))
    unit = torch.cat(parts, 1)
    mine = rows[rank() :: world_size()]
    nearest_rows, _ = nearest(unit[mine], unit, num_neighbours + 1)
    neighbours = torch.empty(num_clips, num_neighbours, dtype=torch.int64)
    neighbours[gather_rows(mine)] = gather_rows(without_self(nearest_rows, mine))
    return neighbours


def without_self(nearest_rows: Tensor, rows: Tensor) -> Tensor:
    """(B, n + 1) neighbours of clips (B,) -> (B, n): without the clip itself, or the last one where it is not there."""
    is_self = nearest_rows == rows[:, None]
    left_out = torch.where(is_self.any(1), is_self.int().argmax(1), nearest_rows.shape[1] - 1)
    kept = torch.arange(nearest_rows.shape[1]) != left_out[:, None]
    return nearest_rows[kept].view(len(nearest_rows), -1)


def make_term(config: Config) -> Term:
    """Disagreement with a neighbour, less the balance term, summed over branches.

    Where branches learn together, each of a clip's is compared with each of its neighbour's, mean over the latter, so
    that their heads name the same clusters.
    """
    tables = list[Tensor]()
    readers = list[RowReader]()

    def begin(clips: RowReader) -> None:
        num_clips = int(all_sum(torch.tensor(len(clips.all_rows()))))
        count = min(config.loss.neighbours, num_clips - 1)
        names = [[*config.kinds] if config.is_fused else [*one.learners] for one in config.label_sets]
        tables[:] = [find_neighbours(clips, num_clips, of_set, count) for of_set in names]
        readers[:] = [clips]

    def loss(step: Step) -> Loss:
        batch = step.batch
        parts = []
        for label_set, table in zip(config.label_sets, tables, strict=True):
            chosen = which_of(table.shape[1], batch.draws.cpu())
            rows = table[batch.index.cpu()].gather(1, chosen[:, None])[:, 0]
            partner = step.judge(readers[0].read_rows(rows, other_view(batch).draws.cpu()).to(batch.index.device))
            parts += _of_set(step.judged, partner, label_set.learners, config.loss.balance)
        values = torch.stack(parts)
        return Loss(values.sum(), values.detach().mean())

    return Term(loss, begin)


def _of_set(judged: Judged, partner: Judged, learners: Sequence[str], weight: float) -> list[Tensor]:
    """The term of each branch of a learning set."""
    parts = []
    for one in learners:
        apart = [
            disagreement(judged.logits[one], partner.logits[other], judged.present[one] & partner.present[other])
            for other in learners
        ]
        even = balance(judged.logits[one], judged.present[one])
        parts.append(torch.stack(apart).mean() - weight * even)
    return parts
