"""Clusters of clips, seen in training or not, from their evenly spaced, unaugmented views."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import DataError
from selavi.inference.encode import average_views
from selavi.labelling.rule import LabelRule
from selavi.labelling.scores import combine_scores, modality_agreement
from selavi.labelling.solver.transport import row_statistics
from selavi.labelling.statistics import ClipStatistics
from selavi.model import SelaviModel


@dataclass(frozen=True)
class Predictions:
    """Clusters of the n clips, of N, of which a view could be decoded, in the order of their rows."""

    rows: Tensor
    """(n,) ascending."""
    clusters: Tensor
    """(n, H); where each modality has labels of its own, the heads of the first, then of the second."""
    by_modality: dict[str, Tensor]
    """(n, H) a modality, where modalities vote together: what it says alone, -1 for a clip that lacks it."""
    statistics: ClipStatistics
    errors: dict[int, str]
    """Why each of the other clips, by row, could not be decoded."""


def predict(
    model: SelaviModel,
    augment: Augment,
    batches: Iterable[ClipBatch],
    num_clips: int,
    num_views: int,
    config: Config,
    rule: LabelRule,
) -> Predictions:
    """Assign each clip to the likeliest cluster of every head.

    The log-probabilities are averaged over the views, scaled by the rule and, weighted, averaged over the modalities
    that vote together; the plan row of the last labelling, softmax(sharpness * score + potential), gives the cluster
    and how clear it is.
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
        rule: of the last labelling.

    Raises:
        DataError: no clip at all could be decoded.
    """
    clusters = torch.full((num_clips, config.num_label_heads), -1)
    by_modality = {name: torch.full_like(clusters, -1) for name in _vote_together(config)}
    statistics = torch.full((4, num_clips, config.num_label_heads), torch.nan)
    errors: dict[int, str] = {}
    for batch in batches:
        predicted = predict_batch(model, augment, batch, num_views, config, rule)
        errors |= predicted.errors
        clusters[predicted.rows] = predicted.clusters
        statistics[:, predicted.rows] = predicted.statistics
        for name, of_modality in predicted.by_modality.items():
            by_modality[name][predicted.rows] = of_modality
    if len(errors) == num_clips:
        raise DataError(f"none of the {num_clips} clips could be decoded; the first: {errors[min(errors)]}")
    kept = torch.tensor([row for row in range(num_clips) if row not in errors], dtype=torch.int64)
    by_modality = {name: of_modality[kept] for name, of_modality in by_modality.items()}
    return Predictions(kept, clusters[kept], by_modality, ClipStatistics(*statistics[:, kept]), errors)


@dataclass(frozen=True)
class BatchPredictions:
    """Clusters of the b clips of a batch, on the CPU; C columns of the label bank were asked for."""

    rows: Tensor
    """(b,) as the batch has them."""
    clusters: Tensor
    """(b, C)."""
    has_evidence: Tensor
    """(b, C) bool: whether the clip has a modality that the head judges by; else its cluster is a guess."""
    by_modality: dict[str, Tensor]
    """(b, C) a modality, where modalities vote together: what it says alone, -1 for a clip that lacks it."""
    statistics: Tensor
    """(4, b, C) confidence, margin, entropy, modality agreement."""
    nearest: Tensor
    """(b, C, n) the likeliest clusters after the clip's own."""
    probabilities: Tensor
    """(b, C, n) their probabilities in the row that gave the cluster."""
    features: dict[str, Tensor]
    """(b, D) a modality: mean over its views, each of length 1; zeros for a clip that lacks it."""
    present: dict[str, Tensor]
    """(b,) bool a modality."""
    errors: dict[int, str]
    """Why clips, by row, could not be decoded."""


@torch.no_grad()
def predict_batch(
    model: SelaviModel,
    augment: Augment,
    batch: ClipBatch,
    num_views: int,
    config: Config,
    rule: LabelRule,
    *,
    sharpness: float | None = None,
    columns: Sequence[int] | None = None,
    num_nearest: int = 0,
) -> BatchPredictions:
    """Assign the clips of one batch; see predict.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batch: whole clips, `num_views` views of each in a row.
        num_views: V.
        config: of the run.
        rule: see predict.
        sharpness: of the rows, softmax(sharpness * score + potential); by default that of the run's plan.
        columns: of the label bank; by default all.
        num_nearest: n, at most K - 1.
    """
    sharpness = config.plan_sharpness if sharpness is None else sharpness
    columns = range(config.num_label_heads) if columns is None else columns
    occurs = {name: bool(present.any()) for name, present in batch.present.items()}
    batch = batch.to(next(model.parameters()).device)
    rows = batch.index[::num_views].cpu()
    inputs = augment(batch, random=False)
    # Nobody asks for the features of a modality that no clip has: a folder of sounds costs no video encoder.
    features = {
        name: encoder(inputs[name])
        if occurs[name]
        else torch.zeros(len(batch.index), model.num_features[name], device=batch.index.device)
        for name, encoder in model.encoders.items()
    }
    joined, of_views = model.join(features, batch.present)
    logits = model.logits(joined)
    present = {name: _per_clip(p.float(), num_views) > 0 for name, p in of_views.items()}
    decoded = torch.stack(list(present.values())).any(0).cpu()
    clusters, has_evidence, statistics, nearest, probabilities = [], [], [], [], []
    by_modality: dict[str, list[Tensor]] = {name: [] for name in _vote_together(config)}
    for column in columns:
        log_probabilities, voting, scores = score_views(logits, of_views, num_views, column, config, rule)
        potential = rule.potentials[column].to(scores.device)
        assigned = (sharpness * scores + potential).argmax(1)
        clusters.append(assigned)
        has_evidence.append(torch.stack(list(voting.values())).any(0))
        votes = rule.scale(column, log_probabilities)
        for name in by_modality:
            own = (sharpness * votes[name] + potential).argmax(1)
            by_modality[name].append(torch.where(present[name], own, -1))
        agreement = modality_agreement(log_probabilities, voting)
        of_column = (*row_statistics(scores, potential, sharpness), agreement)
        statistics.append(torch.stack([values.float() for values in of_column]))
        row = (sharpness * scores.double() + potential).softmax(1).scatter(1, assigned[:, None], -1.0)
        likeliest = row.topk(num_nearest, 1)
        nearest.append(likeliest.indices)
        probabilities.append(likeliest.values.float())
    averaged, averaged_present = average_views(features, batch.present, num_views)
    return BatchPredictions(
        rows,
        torch.stack(clusters, 1).cpu(),
        torch.stack(has_evidence, 1).cpu(),
        {name: torch.stack(own, 1).cpu() for name, own in by_modality.items()},
        torch.stack(statistics, 2).cpu(),
        torch.stack(nearest, 1).cpu(),
        torch.stack(probabilities, 1).cpu(),
        {name: values.cpu() for name, values in averaged.items()},
        {name: values.cpu() for name, values in averaged_present.items()},
        {row: reason for row, reason in batch.errors if not decoded[rows == row].any()},
    )


def score_views(
    logits: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    num_views: int,
    column: int,
    config: Config,
    rule: LabelRule,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Average the log-probabilities of one column of the label bank over views and voters.

    Args:
        logits: (H, B, K) a branch, `num_views` views of each clip in a row.
        present: (B,) bool a branch.
        num_views: V.
        column: of the label bank.
        config: of the run.
        rule: of the last labelling.

    Returns:
        Log-probabilities (B / V, K) and presence (B / V,) of each voter, and scores (B / V, K).
    """
    voters, head = config.head_of_column(column)
    log_probabilities = {
        name: _mean_over_views(logits[name][head].float().log_softmax(1), present[name], num_views) for name in voters
    }
    voting = {name: _per_clip(present[name].float(), num_views) > 0 for name in voters}
    weights = {name: config.branch_weights[name] for name in voters}
    return log_probabilities, voting, combine_scores(rule.scale(column, log_probabilities), weights, voting)


def _vote_together(config: Config) -> list[str]:
    """The modalities that vote together with others, under every head."""
    label_sets = config.label_sets
    return list(label_sets[0].voters) if len(label_sets) == 1 and len(label_sets[0].voters) > 1 else []


def _per_clip(values: Tensor, num_views: int) -> Tensor:
    return values.unflatten(0, (-1, num_views)).sum(1)


def _mean_over_views(log_probabilities: Tensor, present: Tensor, num_views: int) -> Tensor:
    """(B, K) -> (B / num_views, K): mean over the views that have the modality."""
    weight = present.to(log_probabilities)[:, None]
    return _per_clip(log_probabilities * weight, num_views) / _per_clip(weight, num_views).clamp(min=1)
