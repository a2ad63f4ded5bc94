"""Scores of clips under one head: the log-probabilities of its modalities, combined.

Axes: N clips, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def combine_scores(
    log_probabilities: Mapping[str, Tensor], weights: Mapping[str, float], present: Mapping[str, Tensor]
) -> Tensor:
    """Weighted mean of log-probabilities over the modalities that each clip has.

    With two modalities of equal weight this is the logarithm of the paper's ``(P_video * P_audio) ** (1/2)``,
    so that `transport.assign` at sharpness lambda sees ``(P_video * P_audio) ** (lambda / 2)``.

    Args:
        log_probabilities: (N, K) a modality.
        weights: non-negative weight of each modality, not all 0.
        present: (N,) bool a modality: whether the clip has it.  A missing modality weighs 0 and its entries,
            whatever they hold, are not used.

    Returns:
        (N, K) scores in the widest of the input types, at least float32.  A clip without any modality (or
        with weight 0 on all it has) scores 0 for every cluster: it goes where the marginal wants it.

    Raises:
        ValueError: where the mappings name different modalities, shapes differ, or weights are unusable.
    """
    names = list(log_probabilities)
    if not names or set(weights) != set(names) or set(present) != set(names):
        raise ValueError(
            "log_probabilities, weights and present must name the same modalities (at least one), "
            f"got {sorted(names)}, {sorted(weights)} and {sorted(present)}"
        )
    values = list(weights.values())
    if not all(0 <= value < float("inf") for value in values) or not any(values):
        raise ValueError(f"weights must be finite, not negative and not all 0, got {dict(weights)}")
    shape = log_probabilities[names[0]].shape
    for name in names:
        table, mask = log_probabilities[name], present[name]
        if table.ndim != 2 or table.shape != shape:
            raise ValueError(f"expected log-probabilities (N, K) = {tuple(shape)}, {name}: {tuple(table.shape)}")
        if mask.shape != shape[:1] or mask.dtype != torch.bool:
            raise ValueError(f"expected present (N,) = ({shape[0]},) bool, {name} has {tuple(mask.shape)} {mask.dtype}")
    dtype = torch.float32
    for table in log_probabilities.values():
        dtype = torch.promote_types(dtype, table.dtype)
    device = log_probabilities[names[0]].device
    shares = {name: weights[name] * present[name].to(dtype) for name in names}
    total = torch.stack(list(shares.values())).sum(0)
    scores = torch.zeros(shape, dtype=dtype, device=device)
    for name in names:
        share = (shares[name] / total.where(total > 0, 1.0))[:, None]
        # where, not a product: 0 * -inf and 0 * NaN of a missing modality would spoil the row.
        scores += torch.where(share > 0, log_probabilities[name] * share, 0.0)
    return scores


def modality_agreement(log_probabilities: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """sum_k of the smallest probability that any modality gives cluster k, (N,); nan where not all are there."""
    lowest = torch.stack(list(log_probabilities.values())).amin(0).exp().sum(1)
    complete = torch.stack(list(present.values())).all(0) & (len(log_probabilities) > 1)
    return torch.where(complete, lowest, torch.nan)
