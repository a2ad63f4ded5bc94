"""What stands out of a picture, in space and in time, as an encoder's early maps have it.

A background is much the same all over a picture, and a thing that stands before it is not: a place counts by how far
the channels of the encoder there are from those of the picture's median place.  Or the background is motley, and stays
as it is while the thing moves: a place counts by how far its channels are from their median over time, too.  Of both,
what points at something more sharply decides: a camera that shakes changes every place, and a still scene none.

Each frame is encoded by itself, without what comes before and after it, and in four mirror images, since a filter that
answers to the left edge of a thing answers beside its middle.  The maps of several stages are multiplied: the early
ones are fine, the later ones see more of the thing.

    f_s(u, t)  channels of stage s at place u in frame t; in each mirror image
    space      geometric mean over stages of |f_s(u, t) - median_u f_s(u, t)|, mean 1 in each picture
    time       geometric mean over stages of |f_s(u, t) - median_t f_s(u, t)|, mean 1 in the clip
    map        their sum; each is averaged over the mirror images

No cluster is asked for.  What it is worth beside what needs no model, and before which backgrounds, is in
docs/results/contrast.md.

Axes: B windows in time of a batch, T frames, H, W height and width of what the encoder reads, h, w of a stage's map.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.localisation.evidence import (
    PICTURED,
    enlarge,
    explained_modalities,
    find_evidence,
    input_shape,
    maps_of_stages,
)
from selavi.model import SelaviModel

MIN_PLACES = 12
"""Along each side of a map: the stages that have as many are read, or else the first."""
AT_ONCE = 64
"""Frames that are encoded at once."""
MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes that a frame is turned about."""
MIN_FRAMES = 3
"""With fewer there is no median over time, and what stands out in space is the map."""
LEAST, LEAST_OVER_TIME = 1e-3, 0.1
"""Added to each distance, as a share of the length of the median's channels: what rounding alone may give in space, and
noise over time."""
TINY = torch.finfo().tiny


@torch.no_grad()
def find_contrast(
    model: SelaviModel, augment: Augment, batch: ClipBatch, clusters: Tensor, head: int, config: Config
) -> dict[str, Tensor]:
    """Compute the maps of windows in time, as `find_evidence` does; of pictures alone.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batch: B windows.
        clusters: changes nothing.
        head: changes nothing.
        config: of the run.

    Returns:
        (B, T, H, W) float32 on the CPU, on the pixels that the encoder reads; the mean over a clip is 1 / (H W).
        Zeros for a clip without a picture.
    """
    maps = torch.zeros(len(batch.index), *input_shape(config, PICTURED))
    rows = batch.present[PICTURED].cpu().nonzero()[:, 0]
    for some in rows.split(max(1, AT_ONCE // maps.shape[1])) if len(rows) else ():
        frames = batch.inputs[PICTURED][some].to(next(model.parameters()).device)
        pictures = augment.plain({PICTURED: frames})[PICTURED].transpose(1, 2)
        maps[some] = _of_clips(model.encoders[PICTURED], pictures)
    return {PICTURED: maps}


def find_contrast_and_sound(
    model: SelaviModel, augment: Augment, batch: ClipBatch, clusters: Tensor, head: int, config: Config
) -> dict[str, Tensor]:
    """Compute the maps of pictures as `find_contrast` does, and of what else the head reads as `find_evidence` does."""
    maps = find_evidence(model, augment, batch, clusters, head, config, without=(PICTURED,))
    if PICTURED in explained_modalities(config, head):
        maps |= find_contrast(model, augment, batch, clusters, head, config)
    return maps


def _of_clips(encoder: torch.nn.Module, clips: Tensor) -> Tensor:
    """(B, T, 3, H, W) -> (B, T, H, W), whose mean over a clip is 1 / (H W)."""
    num_frames, *size = clips.shape[1], *clips.shape[3:]
    in_space: dict[str, Tensor] = {}
    in_time: dict[str, Tensor] = {}
    for axes in MIRRORS:
        frames = clips.flatten(0, 1).flip(axes)[:, :, None]
        for name, places in maps_of_stages(PICTURED, encoder, frames, MIN_PLACES).items():
            of_clips = places[:, :, 0].float().unflatten(0, (-1, num_frames))
            typical = of_clips.flatten(3).median(3).values[..., None, None]
            _add(in_space, name, _distances(of_clips, typical, LEAST, size).flip(axes), (2, 3))
            if num_frames >= MIN_FRAMES:
                typical = of_clips.median(1, keepdim=True).values
                _add(in_time, name, _distances(of_clips, typical, LEAST_OVER_TIME, size).flip(axes), (1, 2, 3))
    maps = sum(_unit(_over_stages(of_stages), axes) for of_stages, axes in ((in_space, (2, 3)), (in_time, (1, 2, 3))))
    assert isinstance(maps, Tensor)
    return maps / maps.sum((2, 3), keepdim=True).mean(1, keepdim=True)


def _distances(places: Tensor, typical: Tensor, least: float, size: Sequence[int]) -> Tensor:
    """(B, T, C, h, w) and what it is compared with -> (B, T, *size) on the CPU: how far each place lies from it."""
    distances = (places - typical).norm(dim=2) + least * typical.norm(dim=2)
    smooth = F.avg_pool2d(distances, 3, 1, 1, count_include_pad=False)
    return torch.from_numpy(enlarge(smooth.flatten(0, 1).cpu().numpy(), size, size)).unflatten(0, smooth.shape[:2])


def _add(of_stages: dict[str, Tensor], name: str, maps: Tensor, axes: tuple[int, ...]) -> None:
    """Add to a stage's maps those of a mirror image, with a mean of 1 over some axes."""
    unit = _unit(maps, axes)
    of_stages[name] = of_stages[name] + unit if name in of_stages else unit


def _over_stages(of_stages: Mapping[str, Tensor]) -> Tensor:
    """The geometric mean over the stages; zero without any."""
    if not of_stages:
        return torch.zeros(1, 1, 1, 1)
    return torch.stack([*of_stages.values()]).clamp(min=TINY).log().mean(0).exp()


def _unit(maps: Tensor, axes: tuple[int, ...]) -> Tensor:
    return maps / maps.mean(axes, keepdim=True).clamp(min=TINY)
