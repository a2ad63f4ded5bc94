"""Crafted features of several augmented views of each clip.

Axes: V views, n clips of this rank, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.distributed import all_sum, rank, world_size
from selavi.encoders.encoder import Encoder
from selavi.labelling.features import FeatureTable
from selavi.randomness import uniforms

BLOCK_ROWS = 8192
"""Clips whose numbers are standardised together."""
NUM_VIEWS = 8
"""Views of each clip, unless they take too much memory."""
SHARE_OF_PASSES, FEWEST_PASSES = 0.02, 2
"""Share of a run's passes over the clips that the views may cost, and the fewest that show more than one window."""


@dataclass(frozen=True)
class CachedViews:
    """Standardised features of views of this rank's clips, crafted or an encoder's; they stay in the main memory."""

    index: Tensor
    """(n,) rows in the label bank."""
    features: dict[str, Tensor]
    """(V, n, D) float16 a modality; 0 where a view lacks it."""
    present: dict[str, Tensor]
    """(V, n) bool a modality."""

    @property
    def num_views(self) -> int:
        """V."""
        return len(next(iter(self.present.values())))

    def take(self, views: Tensor, rows: Tensor, device: torch.device) -> FeatureTable:
        """One view (b,) of each of some of the clips (b,), on a device."""
        return FeatureTable(
            self.index[rows].to(device),
            {name: values[views, rows].to(device).float() for name, values in self.features.items()},
            {name: present[views, rows].to(device) for name, present in self.present.items()},
        )


def affordable_views(num_clips: int, crafted: Mapping[str, Encoder], memory_gb: float) -> int:
    """How many views of a rank's clips are kept: as many as fit, at least one."""
    bytes_a_view = num_clips * sum(2 * encoder.num_features + 1 for encoder in crafted.values())
    return max(1, min(NUM_VIEWS, int(memory_gb * 1e9 // max(1, bytes_a_view))))


def passes_to_read(passes_of_run: int, num_views: int) -> int:
    """How often clips are read for their views: a small share of a run's passes; the other views are made of these."""
    return min(num_views, max(FEWEST_PASSES, round(SHARE_OF_PASSES * passes_of_run)))


@torch.no_grad()
def craft_views(
    crafted: Mapping[str, Encoder],
    num_clips: int,
    num_views: int,
    num_passes: int,
    read: Callable[[int], Iterable[ClipBatch]],
    augment: Augment,
    device: torch.device,
) -> CachedViews:
    """Read the clips some times, augment what was read in several ways, and describe each view in numbers.

    View v is of pass v modulo the passes; those of one pass differ in the numbers that the augmentation reads, so every
    view is a function of (seed, pass, clip id) alone.

    Args:
        crafted: describes each of some modalities.
        num_clips: N, of all ranks.
        num_views: V.
        num_passes: times that clips are read.
        read: number of a pass, below 0 -> the clips of this rank, always in the same order.
        augment: of the run.
        device: where clips are augmented.
    """
    num_rows = len(range(rank(), num_clips, world_size()))
    index = torch.full((num_rows,), -1)
    features = {
        name: torch.zeros(num_views, num_rows, encoder.num_features, dtype=torch.float16)
        for name, encoder in crafted.items()
    }
    present = {name: torch.zeros(num_views, num_rows, dtype=torch.bool) for name in crafted}
    for number in range(num_passes):
        first = 0
        for batch in read(-1 - number):
            rows = slice(first, first + len(batch.index))
            index[rows] = batch.index
            batch = batch.to(device)
            for view in range(number, num_views, num_passes):
                inputs = augment(_turned(batch, view // num_passes), random=True)
                for name, encoder in crafted.items():
                    features[name][view, rows] = encoder(inputs[name]).to("cpu", torch.float16)
                    present[name][view, rows] = batch.present[name].cpu()
            first = rows.stop
        assert first == num_rows, f"a pass over {num_rows} clips gave {first}"
    for name in crafted:
        standardise(features[name], present[name], device)
    return CachedViews(index, features, present)


def standardise(features: Tensor, present: Tensor, device: torch.device) -> None:
    """Give each of D numbers mean 0 and variance 1 over the views of all ranks, in place.

    Args:
        features: (V, n, D); rows that are not present become 0, numbers that never change too.
        present: (V, n) bool.
        device: that sums over ranks take place on.
    """
    blocks = list(zip(features.flatten(0, 1).split(BLOCK_ROWS), present.flatten().split(BLOCK_ROWS), strict=True))
    sums = torch.zeros(2, features.shape[2], dtype=torch.float64)
    for values, kept in blocks:
        rows = values[kept].double()
        sums += torch.stack([rows.sum(0), rows.square().sum(0)])
    count = all_sum(present.sum().double().to(device)).clamp(min=1).cpu()
    mean, square = all_sum(sums.to(device)).cpu() / count
    variance = square - mean.square()
    scale = torch.where(variance > 1e-8 * (1 + mean.square()), variance.clamp(min=0).rsqrt(), 0.0)
    for values, kept in blocks:
        standard = (values.double() - mean) * scale
        values.copy_(torch.where(kept[:, None], standard, 0.0))


def _turned(batch: ClipBatch, number: int) -> ClipBatch:
    """The batch with other numbers for its augmentation: the same for each clip are added, modulo 1."""
    if number == 0:
        return batch
    turn = uniforms(0, "another view", number, [""], NUM_DRAWS)
    return replace(batch, draws=(batch.draws + torch.from_numpy(turn).to(batch.draws)) % 1)
