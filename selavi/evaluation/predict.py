"""Clusters of clips, seen in training or not, from their evenly spaced, unaugmented views."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import DataError
from selavi.labelling.labeller import ClipStatistics
from selavi.labelling.scores import combine_scores, modality_agreement
from selavi.labelling.transport import row_statistics
from selavi.model import SelaviModel


@dataclass(frozen=True)
class Predictions:
    """Of the n clips, of N, of which a view could be decoded, in the order of their rows."""

    rows: Tensor
    """(n,) ascending."""
    clusters: Tensor
    """(n, H); where each modality has labels of its own, the heads of the first, then of the second."""
    alone: dict[str, Tensor]
    """(n, H) by modality, where modalities vote together: what it says alone, -1 for a clip that lacks it."""
    sure: ClipStatistics
    errors: dict[int, str]
    """Why each of the other clips, by row, could not be decoded."""


@torch.no_grad()
def predict(
    model: SelaviModel,
    augment: Augment,
    batches: Iterable[ClipBatch],
    num_clips: int,
    num_views: int,
    config: Config,
    potentials: Tensor,
) -> Predictions:
    """Assign each clip to the likeliest cluster of every head.

    The log-probabilities are averaged over the views and, weighted, over the modalities that vote together; the
    plan row of the last labelling, softmax(sharpness * score + potential), gives the cluster and how sure it is.
    K-means leaves potentials of 0, and there the row is that of the heads' probabilities.  A clip that lacks the
    modality of a head (own and cross labels) goes to the cluster with the largest potential, with the confidence of
    a guess.

    Args:
        model: in evaluation mode.
        augment: of the same configuration.
        batches: every clip's `num_views` views in a row; a batch holds whole clips.
        num_clips: N.
        num_views: views of each clip.
        config: of the run.
        potentials: (H, K) of the last labelling, as the label bank keeps them.

    Raises:
        DataError: no clip at all could be decoded.
    """
    sharpness = config.plan_sharpness
    clusters = torch.full((num_clips, config.num_label_heads), -1)
    alone = {name: torch.full_like(clusters, -1) for names in config.voters if len(names) > 1 for name in names}
    sure = torch.full((4, num_clips, config.num_label_heads), torch.nan)
    errors: dict[int, str] = {}
    for batch in batches:
        rows = batch.index[::num_views].cpu()
        logits = model(augment(batch, random=False), batch.present)
        of_views = model.branch_present(batch.present)
        present = {name: _per_clip(p.float(), num_views) > 0 for name, p in of_views.items()}
        decoded = torch.stack(list(present.values())).any(0)
        errors |= {row: reason for row, reason in batch.errors if not decoded[rows == row].any()}
        for column in range(config.num_label_heads):
            log_probabilities, voting, scores = score_views(logits, of_views, num_views, column, config)
            potential = potentials[column].to(scores.device)
            clusters[rows, column] = (sharpness * scores + potential).argmax(1).cpu()
            for name in alone:
                own = (sharpness * log_probabilities[name] + potential).argmax(1)
                alone[name][rows, column] = torch.where(present[name], own, -1).cpu()
            each = row_statistics(scores, potential, sharpness)
            agreement = modality_agreement(log_probabilities, voting)
            for kind, values in enumerate((*each, agreement)):
                sure[kind, rows, column] = values.float().cpu()
    if len(errors) == num_clips:
        raise DataError(f"none of the {num_clips} clips could be decoded; the first: {errors[min(errors)]}")
    kept = torch.tensor([row for row in range(num_clips) if row not in errors], dtype=torch.int64)
    alone = {name: found[kept] for name, found in alone.items()}
    return Predictions(kept, clusters[kept], alone, ClipStatistics(*sure[:, kept]), errors)


def score_views(
    logits: Mapping[str, Tensor], present: Mapping[str, Tensor], num_views: int, column: int, config: Config
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Average the log-probabilities of one column of the label bank over views and voters.

    Args:
        logits: (H, B, K) a branch, `num_views` views of each clip in a row.
        present: (B,) bool a branch.
        num_views: V.
        column: of the label bank.
        config: of the run.

    Returns:
        Log-probabilities (B / V, K) and presence (B / V,) of each voter, and scores (B / V, K).
    """
    voters, head = config.voters[column // config.heads.num_heads], column % config.heads.num_heads
    log_probabilities = {
        name: _mean_over_views(logits[name][head].float().log_softmax(1), present[name], num_views) for name in voters
    }
    voting = {name: _per_clip(present[name].float(), num_views) > 0 for name in voters}
    weights = {name: config.branch_weights[name] for name in voters}
    return log_probabilities, voting, combine_scores(log_probabilities, weights, voting)


def _per_clip(values: Tensor, num_views: int) -> Tensor:
    return values.unflatten(0, (-1, num_views)).sum(1)


def _mean_over_views(log_probabilities: Tensor, present: Tensor, num_views: int) -> Tensor:
    """(B, K) -> (B / num_views, K): mean over the views that have the modality."""
    weight = present.to(log_probabilities)[:, None]
    return _per_clip(log_probabilities * weight, num_views) / _per_clip(weight, num_views).clamp(min=1)
