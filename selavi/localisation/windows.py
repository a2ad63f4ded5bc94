"""Which part of a picture looks like a cluster: square windows of it, each encoded as if it were the whole picture.

The evidence (evidence.py) says what the model goes by in a picture as it is.  Where several things are in one picture,
it rarely says which of them belongs to the cluster, since the model never saw several at once.  A window that shows one
of them alone looks like what it was trained on.

A window's score is that of the evidence, the cluster's logit minus the mean of all clusters' logits, and a place of the
picture has the mean of the windows that it lies in.  The windows form a regular grid, half a side apart:

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
from selavi.localisation.evidence import PICTURED, input_shape
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
    batch = batch.to(next(model.parameters()).device)
    frames = batch.inputs[PICTURED]
    branches, column = config.head_of_column(head)
    branch = PICTURED if PICTURED in branches else branches[0]
    shape = {name: (len(frames), width) for name, width in model.num_features.items()}
    blank = {name: torch.zeros(of_name, device=frames.device) for name, of_name in shape.items()}
    present = {name: torch.full_like(is_there, name == PICTURED) for name, is_there in batch.present.items()}
    windows = grid(*frames.shape[2:4])
    scores = []
    for top, bottom, left, right in windows:
        seen = augment.plain({PICTURED: frames[:, :, top:bottom, left:right]})[PICTURED]
        features = blank | {PICTURED: model.encoders[PICTURED](seen)}
        joined = model.join(features, present)[0][branch]
        logits = model.heads[branch](joined, [column])[0]
        scores.append((logits - logits.mean(1, keepdim=True)).float().cpu())
    return torch.stack(scores, 1), windows


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
    height, width = batch.inputs[PICTURED].shape[2:4]
    seen = input_shape(config, PICTURED)[1:]
    maps = spread(of_cluster, windows, height, width, (seen[0], seen[1])) / (seen[0] * seen[1])
    is_there = batch.present[PICTURED].cpu()
    return {PICTURED: maps.where(is_there[:, None, None], 0.0)[:, None]}
