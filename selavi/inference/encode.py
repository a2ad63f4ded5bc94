"""Features of clips: batches through the encoders, the mean over the views of a clip.

Axes: N clips, B clips of a batch, V views of a clip, D features.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.errors import DataError
from selavi.model import SelaviModel


@dataclass(frozen=True)
class ClipFeatures:
    """Features of N clips, the mean of their views."""

    features: dict[str, Tensor]
    """(N, D) float32 a modality; zeros where the clip has none."""
    present: dict[str, Tensor]
    """(N,) bool a modality."""
    errors: dict[int, str]
    """Why clips, by row, could not be decoded."""


def average_views(
    features: Mapping[str, Tensor], present: Mapping[str, Tensor], num_views: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mean over the views of a clip that have a modality, each view's features scaled to length 1.

    Args:
        features: (B, D) a modality, `num_views` views of each clip in a row.
        present: (B,) bool a modality.
        num_views: V.

    Returns:
        Features (B / V, D), zeros where no view has the modality, and whether one has (B / V,).
    """
    averaged, has_modality = {}, {}
    for name, values in features.items():
        weights = present[name].float().unflatten(0, (-1, num_views))[..., None]
        views = F.normalize(values.float(), dim=1).unflatten(0, (-1, num_views))
        count = weights.sum(1)
        averaged[name] = (views * weights).sum(1) / count.clamp(min=1)
        has_modality[name] = count[:, 0] > 0
    return averaged, has_modality


@torch.no_grad()
def encode_clips(
    model: SelaviModel,
    augment: Augment,
    batches: Iterable[ClipBatch],
    num_clips: int,
    num_views: int,
    *,
    first_row: int = 0,
) -> ClipFeatures:
    """Encode every clip; see average_views.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batches: every clip's `num_views` views in a row; a batch holds whole clips.
        num_clips: N.
        num_views: views of each clip.
        first_row: number of the first clip in the batches.

    Raises:
        DataError: no clip at all could be decoded.
    """
    features = {name: torch.zeros(num_clips, size) for name, size in model.num_features.items()}
    present = {name: torch.zeros(num_clips, dtype=torch.bool) for name in features}
    reasons: dict[int, str] = {}
    device, encode = next(model.parameters()).device, model.fused_encoders()
    for batch in batches:
        rows = batch.index[::num_views].cpu() - first_row
        reasons |= {row - first_row: reason for row, reason in batch.errors}
        batch = batch.to(device)
        values, has_modality = average_views(encode(augment(batch, random=False)), batch.present, num_views)
        for name in features:
            features[name][rows], present[name][rows] = values[name].cpu(), has_modality[name].cpu()
    decoded = torch.stack(list(present.values())).any(0)
    errors = {row: reason for row, reason in sorted(reasons.items()) if not decoded[row]}
    if len(errors) == num_clips:
        raise DataError(f"none of the {num_clips} clips could be decoded; the first: {errors[min(errors)]}")
    return ClipFeatures(features, present, errors)


def encode_parts(
    model: SelaviModel, augment: Augment, batches: Iterable[ClipBatch], num_clips: int, num_views: int, part: int
) -> Iterator[ClipFeatures]:
    """Encode clips, and yield `part` of them at a time; no batch has clips of two parts.  See encode_clips."""
    for number, batches_of_part in groupby(batches, lambda batch: int(batch.index[0]) // part):
        first_row = number * part
        size = min(part, num_clips - first_row)
        yield encode_clips(model, augment, batches_of_part, size, num_views, first_row=first_row)


def combinations_of(clips: ClipFeatures) -> dict[str, tuple[Tensor, Tensor]]:
    """Features (N, D) and the clips that have them (N,): each modality, and where there are two, both concatenated.

    Each modality is scaled to length 1 first, so that both count alike; a clip without one has zeros in its place.
    """
    scaled = {name: F.normalize(values, dim=1) for name, values in clips.features.items()}
    combinations = {name: (scaled[name], clips.present[name]) for name in scaled}
    if len(scaled) > 1:
        combinations["+".join(scaled)] = (
            torch.cat(list(scaled.values()), 1),
            torch.stack(list(clips.present.values())).any(0),
        )
    return combinations
