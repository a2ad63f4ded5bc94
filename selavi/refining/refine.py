"""From what a person named to heads, labels and how sure they are.

Axes: N clips, H heads, P places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selavi.config import Config
from selavi.labelling.bank import LabelBank
from selavi.labelling.statistics import ClipStatistics
from selavi.model import SelaviModel
from selavi.refining.confidence import Calibration, calibrate, can_calibrate
from selavi.refining.heads import NamedHeads, folds_of_answers
from selavi.refining.places import NO_PLACE, Places
from selavi.refining.questions import choose_questions
from selavi.training.first.views import CachedViews
from selavi.training.refit import with_heads

SURE = 0.5
"""Least probability of a place that is called by its name."""


@dataclass(frozen=True)
class Refined:
    """Heads that know the names, and what they say of the training clips."""

    config: Config
    """That of the new run; the sharpness of its labels is the calibrated one."""
    model: SelaviModel
    """The run's encoders with the new heads, in evaluation mode."""
    bank: LabelBank
    """The places of all clips, the same under every head."""
    statistics: ClipStatistics
    likeliest: Tensor
    """(N,) int64, the likeliest place of each clip, whatever a person said of it; NO_PLACE where nothing is known."""
    calibration: Calibration
    questions: Tensor
    """Rows of the clips to ask about next, the least sure first."""

    @property
    def is_sure(self) -> Tensor:
        """(N,) whether a clip is called by the name of its place."""
        return self.statistics.confidence[:, 0] >= SURE


def refine(
    config: Config, model: SelaviModel, views: CachedViews, ids: Sequence[str], places: Places, num_questions: int
) -> Refined:
    """Learn the places, first without a share of the answers to see how sure the heads are, then with all of them.

    Args:
        config: of the new run: P clusters, plain votes of all modalities.
        model: whose encoders stay.
        views: of the training clips, of these encoders.
        ids: of the clips.
        places: what to learn.
        num_questions: most clips to ask about next.
    """
    device, calibration = next(model.parameters()).device, Calibration(float(len(config.branches)))
    if config.heads.num_heads > 1 and can_calibrate(places.answers, places.is_confirmed):
        folds = folds_of_answers(places, config.heads.num_heads, config.seed)
        trial = NamedHeads(config, views, ids, device, places, folds)
        trial.train()
        calibration = calibrate(*_held_out(trial, folds))
    heads = NamedHeads(config, views, ids, device, places, torch.full_like(places.answers, NO_PLACE))
    heads.train()
    config = replace(config, labelling=replace(config.labelling, sharpness=calibration.sharpness))
    said = _ask_heads(heads, calibration.sharpness)
    answers, margins = places.answers, said.margin
    bank = LabelBank(ids, config.heads.num_heads, config.heads.num_clusters)
    labels = torch.where(said.likeliest == NO_PLACE, places.start, said.likeliest)
    labels = torch.where(answers == NO_PLACE, labels, answers).int()
    bank.labels = labels[:, None].repeat(1, config.heads.num_heads)
    bank.num_labellings = 1
    may_ask = (answers == NO_PLACE) & ~places.turned_away & margins.isfinite()
    questions = choose_questions(said.features, margins, may_ask, num_questions, config.seed)
    statistics = said.statistics(answers, config.heads.num_heads)
    new_model = with_heads(config, model, heads)
    return Refined(config, new_model, bank, statistics, said.likeliest, calibration, questions)


@dataclass(frozen=True)
class _Said:
    """What the heads say together of each clip; nan of clips that no modality shows."""

    likeliest: Tensor
    confidence: Tensor
    margin: Tensor
    entropy: Tensor
    modality_agreement: Tensor
    features: Tensor

    def statistics(self, answers: Tensor, num_heads: int) -> ClipStatistics:
        """The same for every head; a clip that a person put somewhere is there for sure."""
        is_answered = answers != NO_PLACE
        columns = (
            torch.where(is_answered, 1.0, self.confidence),
            torch.where(is_answered, 1.0, self.margin),
            torch.where(is_answered, 0.0, self.entropy),
            self.modality_agreement,
        )
        return ClipStatistics(*(values[:, None].expand(-1, num_heads).clone() for values in columns))


@torch.no_grad()
def _held_out(heads: NamedHeads, folds: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (A, P) of the answers by the heads that did not learn them, and the answers (A,)."""
    votes = heads.votes()
    fold_of_row = folds[votes.clips.index.cpu()]
    scores, rows = [], []
    for head in range(heads.config.heads.num_heads):
        chosen = (fold_of_row == head).nonzero()[:, 0]
        for block, values in votes.scores(head).blocks():
            inside = chosen[(chosen >= block.start) & (chosen < block.stop)]
            scores.append(values[inside.to(values.device) - block.start].cpu())
            rows.append(inside)
    answers = heads.places.answers[votes.clips.index.cpu()[torch.cat(rows)]]
    return torch.cat(scores), answers


@torch.no_grad()
def _ask_heads(heads: NamedHeads, sharpness: float) -> _Said:
    """The mean over the heads of the probabilities (N, P)."""
    votes, num_heads = heads.votes(), heads.config.heads.num_heads
    index, num_clips = votes.clips.index.cpu(), len(heads.bank.ids)
    mean = torch.zeros(len(index), heads.config.heads.num_clusters)
    agreement = torch.zeros(len(index))
    for head in range(num_heads):
        for block, values in votes.scores(head).blocks():
            mean[block] += (sharpness * values).softmax(1).cpu() / num_heads
        agreement += votes.agreement(head).cpu() / num_heads
    top, places = mean.topk(2, 1)
    entropy = -(mean * mean.clamp(min=1e-12).log()).sum(1)
    unknown = torch.full((num_clips,), float("nan"))
    columns = [unknown.index_put((index,), values) for values in (top[:, 0], top[:, 0] - top[:, 1], entropy, agreement)]
    likeliest = torch.full((num_clips,), NO_PLACE).index_put((index,), places[:, 0])
    joined = torch.cat([features.cpu() for features in votes.clips.whole.values()], 1)
    features = torch.zeros(num_clips, joined.shape[1]).index_put((index,), joined)
    confidence, margin, entropy, agreement = columns
    return _Said(likeliest, confidence, margin, entropy, agreement, features)
