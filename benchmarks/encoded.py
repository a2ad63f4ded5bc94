"""Finished runs whose clips are encoded once, for the benchmarks that try other rules on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.index.manifest import select_split, usable
from datamodules.loading.views import ClipLoaders
from selavi.augment import Augment
from selavi.commands.opening import open_clips
from selavi.config import Config
from selavi.errors import UsageError
from selavi.inference.load import load_model
from selavi.inference.predict import score_views
from selavi.labelling.features import FeatureTable
from selavi.model import SelaviModel
from selavi.runs.record import Run
from selavi.scores.metrics import contingency_matrix, normalised_mutual_information

EVEN_VIEWS = 3


@dataclass(frozen=True)
class Views:
    """Features of views of N clips; axes V views, N clips, D features."""

    features: Mapping[str, Tensor]
    """(V, N, D) a branch."""
    present: Mapping[str, Tensor]
    """(V, N) bool a branch."""

    def table(self, view: int) -> FeatureTable:
        """One view of every clip."""
        features = {name: values[view] for name, values in self.features.items()}
        present = {name: values[view] for name, values in self.present.items()}
        return FeatureTable(torch.arange(len(next(iter(present.values())))), features, present)

    def clip_by_clip(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(N x V, D) features and (N x V,) presence a branch, a clip's views in a row."""
        features = {name: values.transpose(0, 1).flatten(0, 1) for name, values in self.features.items()}
        return features, {name: values.T.flatten() for name, values in self.present.items()}


@dataclass(frozen=True)
class Encoded:
    """What one run's frozen encoders say of its clips, and what people say of them."""

    config: Config
    augmented: Views
    """Of the training clips."""
    even: Mapping[str, Views]
    """By split: `train` and the unseen one."""
    labels: Mapping[str, Sequence[str]]


@torch.no_grad()
def encode_run(folder: Path, root: str, unseen: str, num_cached: int) -> tuple[Run, SelaviModel, Encoded]:
    """Encode the views of one run.

    Raises:
        UsageError: its modalities do not vote together, or clips have no label.
    """
    run, loaders = open_clips(folder, root)
    if len(run.config.label_sets) > 1:
        raise UsageError(f"{folder}: its modalities have labels of their own; only joint or concatenated ones compare")
    model, augment = load_model(run)
    splits = {"train": run.config.data.train_split, unseen: unseen}
    rows = {name: usable(select_split(run.manifest, split)) for name, split in splits.items()}
    labels = {name: of_split["label"].to_pylist() for name, of_split in rows.items()}
    if not all(labels.values()) or any(None in of_split for of_split in labels.values()):
        raise UsageError(f"{folder}: some clips of {', '.join(splits.values())} have no label to score with")
    assert rows["train"]["id"].to_pylist() == run.checkpoint["label_bank"]["ids"]
    loader, sampler = loaders.labelling_loader(rows["train"])
    passes = []
    for number in range(num_cached):
        sampler.set_epoch(100_000 + number)  # views that the training has not seen
        passes.append(_encode(model, augment, loader, len(rows["train"]), 1, random=True))
    augmented = Views(
        {name: torch.cat([views.features[name] for views in passes]) for name in model.branch_features if passes},
        {name: torch.cat([views.present[name] for views in passes]) for name in model.branch_features if passes},
    )
    even = {name: _even_views(model, augment, loaders, of_split) for name, of_split in rows.items()}
    return run, model, Encoded(run.config, augmented, even, labels)


def _even_views(model: SelaviModel, augment: Augment, loaders: ClipLoaders, rows: Any) -> Views:
    return _encode(model, augment, loaders.view_loader(rows, EVEN_VIEWS), len(rows), EVEN_VIEWS, random=False)


def _encode(model: SelaviModel, augment: Augment, loader: Any, num_clips: int, num_views: int, random: bool) -> Views:
    """Views of every clip, `num_views` of a clip in a row of the loader."""
    shape = (num_clips, num_views)
    features = {name: torch.zeros(*shape, size) for name, size in model.branch_features.items()}
    present = {name: torch.zeros(shape, dtype=torch.bool) for name in features}
    for batch in loader:
        joined, of_views = model.join(model.features(augment(batch, random)), batch.present)
        rows = batch.index[::num_views]
        for name, values in joined.items():
            features[name][rows] = values.unflatten(0, (-1, num_views))
            present[name][rows] = of_views[name].unflatten(0, (-1, num_views))
    return Views(
        {name: values.transpose(0, 1).contiguous() for name, values in features.items()},
        {name: values.T.contiguous() for name, values in present.items()},
    )


@torch.no_grad()
def head_clusters(heads: Any, views: Views, potentials: Tensor, config: Config) -> np.ndarray:
    """(N, H) clusters of clips, from the mean log-probabilities of their views."""
    features, present = views.clip_by_clip()
    logits = heads(features)
    num_views = next(iter(views.present.values())).shape[0]
    columns = []
    for column in range(config.heads.num_heads):
        _, _, scores = score_views(logits, present, num_views, column, config)
        columns.append((config.plan_sharpness * scores + potentials[column]).argmax(1))
    return torch.stack(columns, 1).numpy()


def nmi(labels: Sequence[str], clusters: np.ndarray) -> float:
    return normalised_mutual_information(contingency_matrix(labels, clusters))
