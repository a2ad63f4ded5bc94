"""Small networks on crafted features that label and learn as the run does: their last labels are its first ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from selavi.config import Config
from selavi.distributed import all_sum, rank, world_size
from selavi.encoders.encoder import Encoder
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import FeatureTable, collect_features
from selavi.labelling.labeller import Labeller
from selavi.meter import Meter
from selavi.model import SelaviModel
from selavi.randomness import mix
from selavi.training.first.views import CachedViews
from selavi.training.objectives.cross_entropy import selavi_loss

HIDDEN, WIDTH = 128, 64
"""Widths of the two layers on a modality's crafted features."""
BATCH_CLIPS, STEPS_AN_EPOCH = 128, 8
"""Clips a step on all devices; halved until an epoch has so many steps."""
EPOCHS = 60
"""As many epochs, and labellings, as a set of some thousand clips gets."""
MOST_STEPS = 20_000
"""A million clips are seen two or three times, in many more views than a small set."""
MOST_LABELLED, FEWEST_LABELLINGS = 20_000_000, 12
"""Clips that a rank labels in all labellings together."""
LEARNING_RATE, MOMENTUM = 0.2, 0.9
BLOCK_ROWS = 8192
"""Clips that are encoded at once."""


class Perceptron(Encoder):
    """Crafted features (B, D) -> (B, 64): two layers with batch norm."""

    num_features = WIDTH

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_inputs, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, WIDTH),
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) -> (B, 64)."""
        features: Tensor = self.layers(inputs)
        return features


class Teacher:
    """Trains heads on crafted features as the run trains its own: source, method, heads, clusters and their sizes.

    Nothing is random but by the seed, and torch's own state is left as it was.

    Args:
        config: of the run.
        views: crafted features of this rank's clips, of all the run's modalities or some of them.
        ids: of all training clips.
        device: that trains.
        stop: called on every rank between labellings; may raise.
        make_encoder: (modality, D) -> what reads its features.
        what: is trained, in its progress; other words draw other random numbers.
    """

    def __init__(
        self,
        config: Config,
        views: CachedViews,
        ids: Sequence[str],
        device: torch.device,
        stop: Callable[[], None],
        make_encoder: Callable[[str, int], Encoder] = lambda name, size: Perceptron(size),
        what: str = "first labels",
    ) -> None:
        self.config = teacher_config(config, list(views.features))
        self.views, self.device, self.stop, self.what = views, device, stop, what
        sizes = {name: values.shape[2] for name, values in views.features.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(config.seed, what, "model"))
            self.model = SelaviModel(self.config, {name: make_encoder(name, size) for name, size in sizes.items()})
        self.model.to(device)
        self.bank = LabelBank(ids, self.config.num_label_heads, self.config.heads.num_clusters)
        self.labeller = Labeller(self.config)
        a_rank = len(ids) // world_size()  # as many clips as every rank has
        self.batch_size = max(2, batch_clips(len(ids)) // world_size())
        self.steps_an_epoch = max(1, a_rank // self.batch_size)
        self.num_steps = min(MOST_STEPS, EPOCHS * self.steps_an_epoch)
        self.num_labellings = min(EPOCHS, max(FEWEST_LABELLINGS, MOST_LABELLED // a_rank))
        self._order = self._chosen = torch.zeros(0, dtype=torch.int64)

    def train(self) -> LabelBank:
        """Train from the first step to the last; every rank has the same labels then."""
        optimiser = SGD(self.model.parameters(), LEARNING_RATE, momentum=MOMENTUM)
        schedule = CosineAnnealingLR(optimiser, self.num_steps)
        due = self.labelling_steps
        meter = Meter(self.what, self.num_steps, "steps") if rank() == 0 else None
        self._warm_up()
        for step in range(self.num_steps):
            if step in due:
                self._label(self._collect)
            rows, views = self._batch(step)
            self._step(self.views.take(views, rows, self.device), optimiser)
            schedule.step()
            if meter is not None:
                meter.advance()
        if meter is not None:
            meter.close()
        self._end()
        return self.bank

    @property
    def labelling_steps(self) -> set[int]:
        """Before which steps clips are labelled."""
        return {number * self.num_steps // self.num_labellings for number in range(self.num_labellings)}

    def _end(self) -> None:
        """Label once more, by all views."""
        self._label(self._collect_mean)

    def _step(self, clips: FeatureTable, optimiser: SGD) -> None:
        labels, weights = self.bank[clips.index], self.bank.clip_weights(clips.index)
        logits = self.model(clips.whole, clips.present)
        loss = selavi_loss(logits, labels, self.model.branch_present(clips.present), weights)
        optimiser.zero_grad()
        loss.backward()
        _average([parameter.grad for parameter in self.model.parameters() if parameter.grad is not None])
        optimiser.step()

    def _label(self, collect: Callable[[int], FeatureTable]) -> None:
        """Label every clip by its collected features; batch norm has seen the batches of all ranks then."""
        self.stop()
        _average([buffer for buffer in self.model.buffers() if buffer.is_floating_point()])
        self.model.eval()
        with torch.no_grad():
            self.labeller.relabel(self.bank, collect, self.model.logits, self.model.permute_clusters)
        self.model.train()

    def _collect(self, pass_number: int) -> FeatureTable:
        """Features of one random view of each clip: labels must not settle on what a view happens to show."""
        views = self._views("label", pass_number)
        encoded = (self._encode(rows, views[rows]) for rows in torch.arange(len(views)).split(BLOCK_ROWS))
        return collect_features(encoded, self.model.branch_features, self.device)

    def _encode(self, rows: Tensor, views: Tensor) -> tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]:
        clips = self.views.take(views, rows, self.device)
        return clips.index, *self.model.join(self.model.features(clips.whole), clips.present)

    def _collect_mean(self, _: int) -> FeatureTable:
        """Features of each clip, the mean over its views: for the last labels, which nothing renews."""
        blocks = torch.arange(len(self.views.index)).split(BLOCK_ROWS)
        return collect_features(map(self._encode_mean, blocks), self.model.branch_features, self.device)

    def _encode_mean(self, rows: Tensor) -> tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]:
        views = [self._encode(rows, torch.full_like(rows, view)) for view in range(self.views.num_views)]
        counts = {name: torch.stack([present[name] for _, _, present in views]).sum(0) for name in views[0][2]}
        sums = {
            name: torch.stack([features[name] * present[name][:, None] for _, features, present in views]).sum(0)
            for name in counts
        }
        means = {name: sums[name] / count.clamp(min=1)[:, None] for name, count in counts.items()}
        return views[0][0], means, {name: count > 0 for name, count in counts.items()}

    def _warm_up(self) -> None:
        """Let batch norm see an epoch before it is asked for features."""
        with torch.no_grad():
            for step in range(min(20, self.steps_an_epoch)):
                rows, views = self._batch(step)
                clips = self.views.take(views, rows, self.device)
                self.model(clips.whole, clips.present)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Rows of this rank's clips in a step, and which view of each: by (seed, epoch, clip) alone."""
        epoch, place = divmod(step, self.steps_an_epoch)
        if place == 0:
            generator = np.random.default_rng(mix(self.config.seed, self.what, "order", epoch, rank()))
            self._order = torch.from_numpy(generator.permutation(len(self.views.index)))
            self._chosen = self._views("train", epoch)
        rows = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        return rows, self._chosen[rows]

    def _views(self, stream: str, number: int) -> Tensor:
        """(n,) the view of each of this rank's clips in an epoch or a labelling."""
        generator = np.random.default_rng(mix(self.config.seed, self.what, stream, number))
        return torch.from_numpy(generator.integers(self.views.num_views, size=len(self.bank.ids)))[self.views.index]


def teacher_config(config: Config, names: list[str]) -> Config:
    """Settings of the teacher: the run's, but with equal votes, without dropout and partial labellings."""
    source = config.labelling.source
    if source not in ("joint", "own", "cross", *names) and (source != "concat" or len(names) == 1):
        source = "joint"  # who labels has no crafted features, or there is nothing to join
    method = config.labelling.method if config.labelling_method.relabels else "transport"
    return replace(
        config,
        modalities={name: config.kinds[name] for name in names},
        heads=replace(config.heads, dropout=0.0),
        labelling=replace(config.labelling, source=source, method=method, fraction=1.0, votes="equal"),
        loss=replace(config.loss, kind="cross_entropy"),
    )


def batch_clips(num_clips: int) -> int:
    """Clips a step on all devices: 128, or fewer where clips are few."""
    size = BATCH_CLIPS
    while size > 16 and num_clips < STEPS_AN_EPOCH * size:
        size //= 2
    return size


def _average(tensors: list[Tensor]) -> None:
    """Make tensors their mean over the ranks, in one message."""
    if world_size() > 1 and tensors:
        mean = all_sum(torch.cat([tensor.flatten() for tensor in tensors])) / world_size()
        for tensor, part in zip(tensors, mean.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
