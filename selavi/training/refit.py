"""Fresh heads on the frozen encoders of a finished run, fitted over features of several views that are kept in memory.

Axes: V views, N clips, D features, H heads, K clusters.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config, as_dict
from selavi.encoders.encoder import Encoder
from selavi.heads import LinearHeads, MLPHeads
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import FeatureTable, collect_features
from selavi.labelling.statistics import ClipStatistics
from selavi.model import SelaviModel
from selavi.runs.checkpoint import REFITTED
from selavi.runs.record import Run
from selavi.training.first.teacher import Teacher
from selavi.training.first.views import CachedViews

NUM_VIEWS = 8
"""Augmented views of each clip, unless they take too much memory."""


@dataclass(frozen=True)
class Refit:
    """New heads, and the labels that they and a last labelling of unaugmented clips give."""

    model: SelaviModel
    """The run's encoders with the new heads, in evaluation mode."""
    bank: LabelBank
    statistics: ClipStatistics


class Scaled(Encoder):
    """Features (B, D) of an encoder that is frozen, each divided by its root mean square over all views."""

    gain: Tensor

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.num_features = len(gain)
        self.register_buffer("gain", gain, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return inputs * self.gain


def affordable_views(model: SelaviModel, num_clips: int, memory_gb: float) -> int:
    """How many views of N clips are kept: as many as fit, at least one."""
    bytes_a_view = num_clips * sum(2 * size + 1 for size in model.num_features.values())
    return max(1, min(NUM_VIEWS, int(memory_gb * 1e9 // bytes_a_view)))


@torch.no_grad()
def encode_views(
    model: SelaviModel, augment: Augment, read: Callable[[int], Iterable[ClipBatch]], num_clips: int, num_views: int
) -> CachedViews:
    """Encode augmented views of all clips; they stay in the main memory, as float16.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same settings and device.
        read: number of a pass, below 0 -> every clip once, in a random view.
        num_clips: N.
        num_views: V.
    """
    device = next(model.parameters()).device
    sizes = model.num_features
    features = {name: torch.zeros(num_views, num_clips, size, dtype=torch.float16) for name, size in sizes.items()}
    present = {name: torch.zeros(num_views, num_clips, dtype=torch.bool) for name in sizes}
    encode = model.fused_encoders()
    for view in range(num_views):
        for batch in read(-1 - view):
            batch = batch.to(device)
            rows = batch.index.cpu()
            for name, values in encode(augment(batch, random=True)).items():
                features[name][view, rows] = values.cpu().half()
                present[name][view, rows] = batch.present[name].cpu()
    return CachedViews(torch.arange(num_clips), features, present)


@torch.no_grad()
def encode_plainly(
    model: SelaviModel, augment: Augment, batches: Iterable[ClipBatch]
) -> Iterator[tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]]:
    """Yield rows, features and presence of batches of unaugmented clips, a modality each."""
    device, encode = next(model.parameters()).device, model.fused_encoders()
    for batch in batches:
        batch = batch.to(device)
        yield batch.index, encode(augment(batch, random=False)), batch.present


def refit(
    config: Config,
    model: SelaviModel,
    views: CachedViews,
    ids: Sequence[str],
    plain: Iterable[tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]],
) -> Refit:
    """Label and learn by turns, as a run does, with the encoders as they are.

    Args:
        config: of the run, with the number of clusters that the new heads shall have.
        model: of the run; its encoders become part of the result.
        views: of encode_views.
        ids: of the training clips, in the order of the views.
        plain: of encode_plainly, all clips once; what the last labelling reads.
    """
    device = next(model.parameters()).device
    teacher = Teacher(config, views, ids, device, lambda: None, scaled_encoders(views), "new heads")
    teacher.train()
    own = teacher.model.eval()

    def collect(_: int) -> FeatureTable:
        joined = ((rows, *own.join(own.features(features), present)) for rows, features, present in plain)
        return collect_features(joined, own.branch_features, device)

    with torch.no_grad():
        table = collect(0)
        _, statistics = teacher.labeller.relabel(
            teacher.bank, lambda _: table, own.logits, own.permute_clusters, statistics=True
        )
    assert statistics is not None
    return Refit(with_heads(config, model, teacher), teacher.bank, statistics)


def scaled_encoders(views: CachedViews) -> Callable[[str, int], Scaled]:
    """What makes the encoder of a modality of a Teacher on frozen features: it scales them, and learns nothing."""
    gains = {name: _gain(values, views.present[name]) for name, values in views.features.items()}
    return lambda name, size: Scaled(gains[name])


def with_heads(config: Config, model: SelaviModel, teacher: Teacher) -> SelaviModel:
    """The encoders of a run with the heads of a teacher on their scaled features, in evaluation mode."""
    result = SelaviModel(config, {name: cast(Encoder, encoder) for name, encoder in model.encoders.items()})
    result.heads.load_state_dict(teacher.model.heads.state_dict())
    device = next(model.parameters()).device
    gains = {name: cast(Scaled, encoder).gain for name, encoder in teacher.model.encoders.items()}
    together = torch.cat([gains[name] for name in model.encoders])
    for name, heads in result.heads.items():
        _take_in(cast(LinearHeads | MLPHeads, heads), gains.get(name, together).to(device))
    return result.to(device).eval()


def new_checkpoint(run: Run, config: Config, model: SelaviModel, bank: LabelBank) -> dict[str, Any]:
    """A checkpoint of the run's encoders with new heads and their labels; no training goes on from it."""
    weights = {f"model.{name}": value.detach().cpu() for name, value in model.state_dict().items()}
    kept = {key: run.checkpoint[key] for key in ("epoch", "global_step", "pytorch-lightning_version")}
    made = {"state_dict": weights, "label_bank": bank.state_dict(), "config": as_dict(config)}
    whose = run.checkpoint.get(REFITTED, str(run.folder))  # encoders they are: of the run that was trained
    return kept | made | {REFITTED: whose}


def _gain(features: Tensor, present: Tensor) -> Tensor:
    """(D,) one over the root mean square of features (V, N, D) over the views that are present; 0 of those always 0."""
    total = torch.zeros(features.shape[2], dtype=torch.float64)
    for values, kept in zip(features, present, strict=True):
        total += values[kept].double().square().sum(0)
    mean = total / present.sum().clamp(min=1)
    return torch.where(mean > 0, mean.rsqrt(), 0.0).float()


@torch.no_grad()
def _take_in(heads: LinearHeads | MLPHeads, gain: Tensor) -> None:
    """Let heads read features as the encoder gives them: what scaled them becomes part of the first layer."""
    weights = heads.weight if isinstance(heads, LinearHeads) else heads.hidden
    weights.mul_(gain)
