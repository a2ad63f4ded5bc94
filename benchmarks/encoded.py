"""Finished runs whose clips are encoded once, for the benchmarks that try other rules on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.index.manifest import select_split, usable
from datamodules.loading.loader import Loader
from datamodules.loading.views import ClipLoaders
from selavi.augment import Augment
from selavi.commands.opening import open_clips
from selavi.config import Config
from selavi.errors import UsageError
from selavi.evaluation import degradation
from selavi.inference.load import load_model
from selavi.labelling.bank import ids_of_bank
from selavi.labelling.rule import LabelRule
from selavi.model import SelaviModel
from selavi.runs.record import Run
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information
from selavi.training.first.views import CachedViews
from selavi.training.refit import encode_views

EVEN_VIEWS = 3


@dataclass(frozen=True)
class Views:
    """Features of views of N clips; axes V views, N clips, D features."""

    features: Mapping[str, Tensor]
    """(V, N, D) a modality."""
    present: Mapping[str, Tensor]
    """(V, N) bool a modality."""

    def clip_by_clip(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(N x V, D) features and (N x V,) presence a modality, a clip's views in a row."""
        features = {name: values.transpose(0, 1).flatten(0, 1) for name, values in self.features.items()}
        return features, {name: values.T.flatten() for name, values in self.present.items()}


@dataclass(frozen=True)
class Encoded:
    """What one run's frozen encoders say of its clips, and what people say of them."""

    config: Config
    augmented: CachedViews
    """Of the training clips."""
    even: Mapping[str, Views]
    """By split: `train` and the unseen one."""
    labels: Mapping[str, Sequence[str]]

    def plain(self) -> list[tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]]:
        """The middle view of every training clip, as one batch."""
        views = self.even["train"]
        features = {name: values[EVEN_VIEWS // 2] for name, values in views.features.items()}
        present = {name: values[EVEN_VIEWS // 2] for name, values in views.present.items()}
        return [(torch.arange(len(next(iter(present.values())))), features, present)]


@torch.no_grad()
def encode_run(folder: Path, root: str, unseen: str, num_cached: int) -> tuple[Run, SelaviModel, Encoded]:
    """Encode the views of one run.

    Raises:
        UsageError: clips have no label.
    """
    run, loaders = open_clips(folder, root)
    model, augment = load_model(run)
    splits = {"train": run.config.data.train_split, unseen: unseen}
    rows = {name: usable(select_split(run.manifest, split)) for name, split in splits.items()}
    labels = {name: of_split["label"].to_pylist() for name, of_split in rows.items()}
    if not all(labels.values()) or any(None in of_split for of_split in labels.values()):
        raise UsageError(f"{folder}: some clips of {', '.join(splits.values())} have no label to score with")
    assert rows["train"]["id"].to_pylist() == [*ids_of_bank(run.checkpoint["label_bank"])]
    loader, sampler = loaders.labelling_loader(rows["train"])

    def read(number: int) -> Loader:
        sampler.set_epoch(number)
        return loader

    augmented = encode_views(model, augment, read, len(rows["train"]), num_cached)
    even = {name: _even_views(model, augment, loaders, of_split) for name, of_split in rows.items()}
    return run, model, Encoded(run.config, augmented, even, labels)


def _even_views(model: SelaviModel, augment: Augment, loaders: ClipLoaders, rows: Any) -> Views:
    shape = (len(rows), EVEN_VIEWS)
    features = {name: torch.zeros(*shape, size) for name, size in model.num_features.items()}
    present = {name: torch.zeros(shape, dtype=torch.bool) for name in features}
    for batch in loaders.view_loader(rows, EVEN_VIEWS):
        places = batch.index[::EVEN_VIEWS]
        for name, values in model.features(augment(batch, random=False)).items():
            features[name][places] = values.unflatten(0, (-1, EVEN_VIEWS))
            present[name][places] = batch.present[name].unflatten(0, (-1, EVEN_VIEWS))
    return Views(
        {name: values.transpose(0, 1).contiguous() for name, values in features.items()},
        {name: values.T.contiguous() for name, values in present.items()},
    )


def head_clusters(model: SelaviModel, views: Views, rule: LabelRule, config: Config) -> np.ndarray:
    """(N, columns of the label bank) clusters of clips, from the mean log-probabilities of their views."""
    features, present = views.clip_by_clip()
    num_views = len(next(iter(views.present.values())))
    return degradation.head_clusters(features, present, num_views, model=model, rule=rule, config=config)


def nmi(labels: Sequence[str], clusters: np.ndarray) -> float:
    """NMI of clusters with labels."""
    return normalised_mutual_information(contingency_matrix(labels, clusters))
