"""Which part of a picture looks like a cluster, or like what is heard: windows of it, encoded as pictures of their own.

The evidence (evidence.py) says what the model goes by in a picture as it is.  Where several things are in one picture,
it rarely says which of them belongs to the cluster, since the model never saw several at once.  A window that shows one
of them alone looks like what it was trained on.

A window's score is that of the evidence, the cluster's logit minus the mean of all clusters' logits; for what is heard,
the mean over all clusters by the probability that the sound gives them.  A place of the picture has the mean of the
windows that it lies in.  The windows form a regular grid, half a side apart:

    +-----+-----+---+      SIDE = 2/5 of the picture: 4 x 4 windows, each of
    |  1  :     |   |      which lies half over the next one to the right
    |  +..:..+..|...|      and the next one below
    +-----+  2  :   |

Axes: B windows in time of a batch, T frames, h, w height and width, W windows of a picture, K clusters.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.localisation.evidence import PICTURED, input_shape
from selavi.localisation.moments import heard_modalities
from selavi.model import SelaviModel

PER_SIDE = 4
"""Windows along each side of a picture."""
SIDE = 2 / (PER_SIDE + 1)
"""Side of a window, as a share of the picture's."""


class Window(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of a picture, in its pixels."""

    top: int
    bottom: int
    left: int
    right: int


def grid(height: int, width: int) -> list[Window]:
    """The windows of a picture of so many pixels, row by row."""
    rows, columns = _spans(height), _spans(width)
    return [Window(*down, *across) for down in rows for across in columns]


def _spans(length: int) -> list[tuple[int, int]]:
    """[begin, end) of the windows along a side, from the one end to the other."""
    size = round(SIDE * length)
    begins = [round((length - size) * number / (PER_SIDE - 1)) for number in range(PER_SIDE)]
    return [(begin, begin + size) for begin in begins]


def spread(scores: Tensor, windows: list[Window], height: int, width: int, size: tuple[int, int]) -> Tensor:
    """Give each place of pictures the mean of the windows that it lies in.

    Args:
        scores: (B, W), of windows that cover the picture together.
        windows: W of them, in pixels of a picture of `height` and `width`.
        height: of the picture.
        width: of the picture.
        size: (h, w) places of the result, which divide the picture evenly.

    Returns:
        (B, h, w) of the scores' type.

    Raises:
        ValueError: a place lies in no window.
    """
    y, x = ((torch.arange(count) + 0.5) * length / count for count, length in zip(size, (height, width), strict=True))
    covered = torch.stack(
        [
            ((y >= window.top) & (y < window.bottom))[:, None] & ((x >= window.left) & (x < window.right))
            for window in windows
        ]
    ).to(scores)
    counts = covered.sum(0)
    if not counts.all():
        raise ValueError(f"{int((counts == 0).sum())} of {counts.numel()} places lie in none of {len(windows)} windows")
    return torch.einsum("bn,nhw->bhw", scores, covered) / counts


@torch.no_grad()
def window_scores(
    model: SelaviModel, augment: Augment, batch: ClipBatch, head: int, config: Config
) -> tuple[Tensor, list[Window]]:
    """Score each window of the pictures of a batch for each cluster: W encodings a clip.

    The windows are cut from the frames as they are decoded and resized to what the encoder reads.  A head that reads
    the features of all modalities at once gets each window as a clip that lacks the others.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batch: B clips.
        head: column of the label bank, of a head that reads pictures.
        config: of the run.

    Returns:
        (B, W, K) float32 on the CPU, each cluster's logit minus the mean of all; and the windows, in decoded pixels.
        What it says of a clip without a picture means nothing.
    """
    frames = batch.inputs[PICTURED].to(next(model.parameters()).device)
    windows = grid(*frames.shape[2:4])
    scores = []
    for top, bottom, left, right in windows:
        logits = _logits(model, augment, PICTURED, frames[:, :, top:bottom, left:right], head, config)
        scores.append((logits - logits.mean(1, keepdim=True)).float().cpu())
    return torch.stack(scores, 1), windows


@torch.no_grad()
def heard_probabilities(
    model: SelaviModel, augment: Augment, batch: ClipBatch, head: int, config: Config
) -> tuple[Tensor, Tensor]:
    """What the sound alone says of the clusters, the mean over what is made of sound.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batch: B clips.
        head: column of the label bank, of a head that reads sound.
        config: of the run.

    Returns:
        (B, K) float32 probabilities on the CPU, and (B,) bool: which clips have all of it.
    """
    names, device = heard_modalities(config, head), next(model.parameters()).device
    logits = [_logits(model, augment, name, batch.inputs[name].to(device), head, config) for name in names]
    probabilities = torch.stack([values.softmax(1) for values in logits]).mean(0)
    return probabilities.float().cpu(), torch.stack([batch.present[name] for name in names]).all(0).cpu()


def _logits(model: SelaviModel, augment: Augment, name: str, values: Tensor, head: int, config: Config) -> Tensor:
    """(B, K) logits for B clips of which nothing is there but one modality, unaugmented, on the model's device."""
    branches, column = config.head_of_column(head)
    branch = name if name in branches else branches[0]
    widths = model.num_features.items()
    blank = {other: torch.zeros(len(values), width, device=values.device) for other, width in widths}
    present = {other: torch.full((len(values),), other == name, device=values.device) for other in config.kinds}
    features = blank | {name: model.encoders[name](augment.plain({name: values})[name])}
    return model.heads[branch](model.join(features, present)[0][branch], [column])[0]


def find_in_windows(
    model: SelaviModel, augment: Augment, batch: ClipBatch, clusters: Tensor, head: int, config: Config
) -> dict[str, Tensor]:
    """Compute the maps of windows in time, as `find_evidence` does; of pictures alone.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batch: B clips.
        clusters: (B,) the cluster to look for, of each.
        head: column of the label bank, of a head that reads pictures.
        config: of the run.

    Returns:
        (B, 1, h, w) float32 on the CPU: one map for all frames, on the pixels that the encoder reads, whose mean over
        the picture times their number is that of the places' scores.  Zeros for a clip without a picture.
    """
    scores, windows = window_scores(model, augment, batch, head, config)
    of_cluster = scores.gather(2, clusters.cpu()[:, None, None].expand(-1, len(windows), 1))[..., 0]
    return _maps_of(of_cluster, windows, batch, batch.present[PICTURED].cpu(), config)


def find_heard(
    model: SelaviModel, augment: Augment, batch: ClipBatch, clusters: Tensor, head: int, config: Config
) -> dict[str, Tensor]:
    """As find_in_windows, for what is heard in the same time in place of a cluster; `clusters` changes nothing.

    Returns:
        (B, 1, h, w) float32 on the CPU, as find_in_windows; zeros also for a clip without sound.
    """
    scores, windows = window_scores(model, augment, batch, head, config)
    probabilities, has_sound = heard_probabilities(model, augment, batch, head, config)
    expected = torch.einsum("bwk,bk->bw", scores, probabilities)
    return _maps_of(expected, windows, batch, has_sound & batch.present[PICTURED].cpu(), config)


def read_for_heard(config: Config, head: int) -> list[str]:
    """The modalities that find_heard reads.

    Raises:
        UsageError: the head hears nothing.
    """
    heard = heard_modalities(config, head)
    if not heard:
        names = " and ".join(config.head_of_column(head)[0])
        raise UsageError(f"head {head} reads {names}, and hears nothing: choose another --head, or other --maps")
    return [PICTURED, *heard]


def _maps_of(
    scores: Tensor, windows: list[Window], batch: ClipBatch, is_there: Tensor, config: Config
) -> dict[str, Tensor]:
    """Maps of the scores (B, W) of windows, zeros where `is_there` (B,) is false."""
    height, width = batch.inputs[PICTURED].shape[2:4]
    seen = input_shape(config, PICTURED)[1:]
    maps = spread(scores, windows, height, width, (seen[0], seen[1])) / (seen[0] * seen[1])
    return {PICTURED: maps.where(is_there[:, None, None], 0.0)[:, None]}
