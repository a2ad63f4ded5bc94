"""Which places of a picture differ from the rest of it, as an encoder's early maps have them.

A background is much the same all over a picture, and a thing that stands before it is not: a place counts by how far
the channels of the encoder there are from those of the picture's median place.  Each frame is looked at by itself,
without what comes before and after it, and in four mirror images, since a filter that answers to the left edge of a
thing answers beside its middle.  The maps of several stages are multiplied: the early ones are fine, the later ones see
more of the thing.

    f_s(u)  channels of stage s at place u, of one frame; in each mirror image
    map   = the geometric mean over stages of |f_s(u) - median_u f_s|, each averaged over the mirror images

No cluster is asked for.  Whether that finds things better than the colours of the picture alone, which need no model,
is another matter (docs/results/contrast.md).

Axes: B windows in time of a batch, T frames, H, W height and width of what the encoder reads, h, w of a stage's map.
"""

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
    maps_of_stages,
)
from selavi.model import SelaviModel

MIN_PLACES = 12
"""Along each side of a map: the stages that have as many are read, or else the first."""
AT_ONCE = 64
"""Frames that are encoded at once."""
MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes that a frame is turned about."""
LEAST = 1e-3
"""Added to each distance, as a share of the length of the median place's channels: what rounding alone may give."""
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
        config: changes nothing.

    Returns:
        (B, T, H, W) float32 on the CPU, on the pixels that the encoder reads; the mean over each frame is 1 / (H W).
        Zeros for a clip without a picture.
    """
    frames = batch.inputs[PICTURED].to(next(model.parameters()).device)
    pictures = augment.plain({PICTURED: frames})[PICTURED].transpose(1, 2)
    encoder, num_frames = model.encoders[PICTURED], pictures.shape[1]
    parts = [_of_pictures(encoder, part).cpu() for part in pictures.flatten(0, 1).split(AT_ONCE)]
    maps = torch.cat(parts).unflatten(0, (-1, num_frames))
    return {PICTURED: maps.where(batch.present[PICTURED].cpu()[:, None, None, None], 0.0)}


def find_contrast_and_sound(
    model: SelaviModel, augment: Augment, batch: ClipBatch, clusters: Tensor, head: int, config: Config
) -> dict[str, Tensor]:
    """Compute the maps of pictures as `find_contrast` does, and of what else the head reads as `find_evidence` does."""
    maps = find_evidence(model, augment, batch, clusters, head, config, without=(PICTURED,))
    if PICTURED in explained_modalities(config, head):
        maps |= find_contrast(model, augment, batch, clusters, head, config)
    return maps


def _of_pictures(encoder: torch.nn.Module, pictures: Tensor) -> Tensor:
    """(n, 3, H, W) -> (n, H, W), whose sum over a picture is 1."""
    of_stages: dict[str, Tensor] = {}
    for axes in MIRRORS:
        places = maps_of_stages(PICTURED, encoder, pictures.flip(axes)[:, :, None], MIN_PLACES)
        for name, values in places.items():
            fine = _distances(values[:, :, 0].float(), (pictures.shape[2], pictures.shape[3])).flip(axes)
            of_stages[name] = of_stages[name] + fine if name in of_stages else fine
    maps = torch.stack([*of_stages.values()]).clamp(min=TINY).log().mean(0).exp()
    return maps / maps.sum((1, 2), keepdim=True)


def _distances(places: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, C, h, w) -> (n, *size) on the CPU: how far each place lies from the median place; mean 1 in each picture."""
    typical = places.flatten(2).median(2).values[..., None, None]
    distances = (places - typical).norm(dim=1) + LEAST * typical.norm(dim=1)
    smooth = F.avg_pool2d(distances, 3, 1, 1, count_include_pad=False)
    fine = torch.from_numpy(enlarge(smooth.cpu().numpy(), size, size))
    return fine / fine.mean((1, 2), keepdim=True).clamp(min=TINY)
