"""What windows around the moments of clips say: how much their sound speaks for a cluster, and what their map shows.

Axes: B windows of a batch, K clusters, C channels, T time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.localisation.evidence import PICTURED, map_of_stage, nearest_position, score_of
from selavi.modalities import reads_sound
from selavi.model import SelaviModel


def heard_modalities(config: Config, head: int) -> list[str]:
    """The modalities made of sound that a head of the label bank reads."""
    names = config.kinds if config.is_fused else config.head_of_column(head)[0]
    return [name for name in names if reads_sound(config, [name])]


@torch.no_grad()
def sounding(
    model: SelaviModel, augment: Augment, batch: ClipBatch, clusters: Tensor, head: int, config: Config
) -> Tensor:
    """By how much the sound of windows raises the score of clusters above what silence in its place gives.

    The score is that of the evidence, a cluster's logit minus the mean of all (`score_of`), summed over the branches
    that read sound.  Silence is a waveform of zeros; all else of the window stays as it is.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batch: B windows.
        clusters: (B,) whose score is taken.
        head: column of the label bank.
        config: of the run.

    Returns:
        (B,) float32 on the CPU: 0 for silence; nan for a window without sound, and where the head reads none.
    """
    batch = batch.to(next(model.parameters()).device)
    heard = heard_modalities(config, head)
    if not heard:
        return torch.full((len(batch.index),), torch.nan)
    branches, column = config.head_of_column(head)
    needed = list(config.kinds) if config.is_fused else heard
    chosen = clusters.to(batch.index.device)[:, None]

    def score(inputs: dict[str, Tensor]) -> Tensor:
        seen = augment.plain(inputs)
        features = {name: model.encoders[name](seen[name]) for name in needed}
        joined = model.join(features, batch.present)[0]
        logits = [model.heads[branch](joined[branch], [column])[0] for branch in branches if branch in joined]
        return torch.stack([score_of(values, chosen) for values in logits]).sum(0)

    inputs = {name: batch.inputs[name] for name in needed}
    silent = inputs | {name: torch.zeros_like(inputs[name]) for name in heard}
    has_sound = torch.stack([batch.present[name] for name in heard]).any(0)
    return (score(inputs) - score(silent)).where(has_sound, torch.nan).float().cpu()


@torch.no_grad()
def shown_features(
    model: SelaviModel, augment: Augment, batch: ClipBatch, maps: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Features of the picture at moments: inside what a map shows, and of the whole picture.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batch: B windows that have a picture.
        maps: (B, T, h, w) evidence, as find_evidence gives it.
        shares: (B,) of each window that has passed at its moment, in [0, 1].

    Returns:
        (B, C) float32 each, on the CPU: the mean of the encoder's last map over its positions, at the position in time
        next to the moment; the first one weighted by the positive evidence there, and nan where that is 0.
    """
    batch = batch.to(next(model.parameters()).device)
    seen = augment.plain({PICTURED: batch.inputs[PICTURED]})[PICTURED]
    last = map_of_stage(PICTURED, model.encoders[PICTURED], seen).float().cpu()
    num_frames = seen.shape[2]
    positions = _at(last.movedim(2, 1), shares, num_frames)
    shown = _at(maps, shares, num_frames).clamp(min=0)
    weights = F.adaptive_avg_pool2d(shown, (positions.shape[2], positions.shape[3]))[:, None]
    inside = (positions * weights).sum((2, 3)) / weights.sum((2, 3))
    return inside, positions.mean((2, 3))


def _at(values: Tensor, shares: Tensor, num_frames: int) -> Tensor:
    """(B, T, ...) -> (B, ...): the position in time next to the moment of each window."""
    nearest = [nearest_position(share, values.shape[1], num_frames) for share in shares.tolist()]
    return values[torch.arange(len(values)), nearest]
