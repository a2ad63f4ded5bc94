"""Mutual information of the clusters of two views of a clip (IIC: Ji, Henriques, Vedaldi, ICCV 2019, eq. 3).

The two views are two modalities of the clip where they learn together, and two augmented views where one learns alone.

Axes: H heads, B clips of a batch, K clusters.
"""

from itertools import combinations

import torch
from torch import Tensor

from selavi.augment.draws import other_view
from selavi.config import Config
from selavi.distributed import sum_with_gradient
from selavi.training.objectives.term import Judged, Loss, Step, Term

LEAST = 1e-12
"""What a probability counts for at least inside a logarithm."""


def joint_probabilities(one: Tensor, other: Tensor, both: Tensor) -> Tensor:
    """How often each pair of clusters comes together, in any order, over the clips of all processes.

    P = (1 / B) sum_b p_b q_b^T, made symmetric: (P + P^T) / 2.  Without that the other's cluster 7 may answer this
    one's cluster 3, which mutual information does not mind.

    Args:
        one: (H, B, K) logits.
        other: (H, B, K) logits.
        both: (B,) bool, the clips that have both; of all processes' clips at least one.

    Returns:
        (H, K, K) float32; each head's sums to 1.
    """
    kept = one.float().softmax(2) * both[:, None]
    pairs = sum_with_gradient(torch.einsum("hbk,hbl->hkl", kept, other.float().softmax(2)))
    pairs = pairs + pairs.mT
    return pairs / pairs.sum((1, 2), keepdim=True).clamp(min=LEAST)


def mutual_information(joint: Tensor) -> Tensor:
    """Mutual information, in nats, of joint probabilities (H, K, K) -> (H,); ln K at most.

    sum_kl P_kl (ln P_kl - ln P_k. - ln P_.l)
    """
    rows, columns = joint.sum(2, keepdim=True), joint.sum(1, keepdim=True)
    logarithms = joint.clamp(min=LEAST).log() - rows.clamp(min=LEAST).log() - columns.clamp(min=LEAST).log()
    return (joint * logarithms).sum((1, 2))


def make_term(config: Config) -> Term:
    """Minus the mutual information, mean over heads, summed over pairs of branches or, of one alone, of its views."""
    label_sets = config.label_sets

    def loss(step: Step) -> Loss:
        judged, again = step.judged, None
        parts = []
        for label_set in label_sets:
            if len(label_set.learners) > 1:
                parts += [_of_pair(judged, judged, one, other) for one, other in combinations(label_set.learners, 2)]
                continue
            if again is None:
                again = step.judge(other_view(step.batch))
            (alone,) = label_set.learners
            parts.append(_of_pair(judged, again, alone, alone))
        values = torch.stack(parts)
        return Loss(values.sum(), values.detach().mean())

    return Term(loss)


def _of_pair(judged: Judged, again: Judged, one: str, other: str) -> Tensor:
    both = judged.present[one] & again.present[other]
    return -mutual_information(joint_probabilities(judged.logits[one], again.logits[other], both)).mean()
