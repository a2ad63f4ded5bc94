"""The label bank before the first step: who makes its labels, what that cost, and how good they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.distributed import fail_together, world_size
from selavi.encoders.crafted import crafted_features
from selavi.encoders.encoder import Encoder
from selavi.errors import UsageError
from selavi.id_tables import TableBlocks
from selavi.labelling.bank import LabelBank
from selavi.labelling.methods import METHODS
from selavi.modalities import files_of, reads_media
from selavi.shared_tensor import share
from selavi.training.first.clusters import cluster_vectors, heads_agreement
from selavi.training.first.named import open_given
from selavi.training.first.table import TableNotes, open_clusters, put_table_labels
from selavi.training.first.teacher import Teacher
from selavi.training.first.views import NUM_VIEWS, affordable_views, craft_views, passes_to_read
from selavi.wording import duration

LEAST_AGREEMENT = 0.8
"""K-means from different starts agrees so far where its clusters are to be taken for those of the vectors."""


@dataclass(frozen=True)
class FirstLabels:
    """What was done before the first step."""

    text: str
    """A line for the user; empty where there is nothing to say."""
    given: bool
    """Whether the bank has labels now."""
    seconds: float = 0.0
    agreement: float = float("nan")
    """Mean NMI of the heads of a label set with each other."""
    names: Sequence[tuple[int, int, str]] = ()
    """Head, cluster and name, where the labels came with names and stay."""


@dataclass(frozen=True)
class MadeLabels:
    """Labels of all clips, (N, H)."""

    text: str
    """What they are."""
    labels: Tensor
    agreement: float = float("nan")
    """Mean NMI of one start with another."""


@dataclass(frozen=True)
class Source:
    """What first labels may be made of.

    Attributes:
        read: number of a pass, below 0 -> this rank's clips, each in a random view.
        augment: of the run.
        device: where the run trains.
        stop: called on every rank now and then; may raise.
    """

    read: Callable[[int], Iterable[ClipBatch]]
    augment: Augment
    device: torch.device
    stop: Callable[[], None]


def crafted_for_first(config: Config) -> Mapping[str, Encoder]:
    """The crafted features that heads make a run's first labels of; empty where these are made otherwise, or not."""
    if config.labelling.first != "crafted" or not config.labelling_method.relabels or not reads_media(config):
        return {}
    crafted = crafted_features(config)
    return {} if _why_random(config, crafted) else crafted


def views_and_passes(config: Config, crafted: Mapping[str, Encoder], clips_a_rank: int) -> tuple[int, int]:
    """Views of each clip that first labels are made of, and how often the clips are read for them."""
    num_views = affordable_views(clips_a_rank, crafted, config.labelling.memory_gb)
    passes_of_run = config.trainer.max_epochs + config.labelling.num_labellings * config.labelling.head_groups
    return num_views, passes_to_read(passes_of_run, num_views)


def check_first(config: Config, reads: bool = True) -> None:
    """Go through the table that labelling.table or labelling.first names, if one does: a run soon ends by a wrong one.

    Args:
        config: of the run.
        reads: whether to read it.

    Raises:
        UsageError: as open_given or open_clusters, or labelling.first is kmeans and there are no vectors.
    """
    if config.labelling_method.relabels and config.labelling.first == "kmeans" and not files_of(config):
        raise UsageError(
            "labelling.first=kmeans clusters vectors, and no modality is of kind features; "
            "write labelling.first=crafted"
        )
    table = _first_table(config) if reads else None
    if table is not None:
        for _ in table([]):
            pass


def labellings_before(steps: list[int], share: float, part_steps: int) -> int:
    """How many scheduled labellings the first labels stand for: those in a share of the first part, at least one."""
    return max(1, sum(step < share * part_steps for step in steps))


def give_first_labels(config: Config, bank: LabelBank, source: Source, num_given: int) -> FirstLabels:
    """Fill the bank as labelling.table or labelling.first says.

    With `random` it stays empty, and the first labelling fills it; so it does where the method is none.

    Args:
        config: of the run.
        bank: empty; the same on every rank afterwards.
        source: what labels are made of.
        num_given: scheduled labellings that the first labels stand for.

    Raises:
        UsageError: the table does not fit the run; see put_table_labels.
    """
    began, first = time.monotonic(), config.labelling.first
    if config.labelling.method == "given":
        return _give_for_good(config, bank)
    if not config.labelling_method.relabels:
        return FirstLabels("", given=False)
    if first == "random":
        return FirstLabels("", given=False)
    if first == "kmeans":
        made = _fill(config, bank, _from_vectors(config, bank, source))
    elif first == "crafted" and not reads_media(config) and not config.encoders.init:
        clusters = _from_vectors(config, bank, source)
        if clusters.agreement < LEAST_AGREEMENT:
            return _none_given(
                f"K-means on the vectors agrees from one start to another only to {clusters.agreement:.2f} (NMI; "
                f"{LEAST_AGREEMENT:g} and more is stable), which labelling.first=kmeans takes all the same"
            )
        made = _fill(config, bank, clusters)
    elif first == "crafted":
        crafted = crafted_features(config)
        reason = _why_random(config, crafted)
        if reason:
            return _none_given(reason)
        made = _from_teacher(config, bank, source, crafted)
    else:
        made = _fill(config, bank, _from_table(config, bank))
    bank.num_labellings = num_given
    bank.keeps_first = config.labelling.first_learned > 0
    seconds = time.monotonic() - began
    agreement = heads_agreement(config.label_sets, bank.labels)
    agree = "" if np.isnan(agreement) else f"; their heads agree to {agreement:.2f} (NMI)"
    return FirstLabels(f"first labels: {made} in {duration(seconds)}{agree}", True, seconds, agreement)


def _first_table(config: Config) -> TableBlocks | None:
    """The table that labelling.table or labelling.first names, if one does."""
    if config.labelling.method == "given":
        return open_given(Path(config.labelling.table))
    is_file = config.labelling_method.relabels and config.labelling.first not in ("crafted", "kmeans", "random")
    return open_clusters(Path(config.labelling.first)) if is_file else None


def _give_for_good(config: Config, bank: LabelBank) -> FirstLabels:
    path = Path(config.labelling.table)
    bank.labels, made = _table_labels(config, bank, f"labelling.table={path}")
    bank.given, bank.num_labellings = bank.labels, 1
    return FirstLabels("; ".join([f"labels: those of {path}", *made.notes]), given=True, names=made.names)


def _none_given(reason: str) -> FirstLabels:
    return FirstLabels(f"first labels: none are given, since {reason}; labelling begins with new heads", given=False)


def _why_random(config: Config, crafted: Mapping[str, Encoder]) -> str:
    """Why a run has no teacher; empty where it has one."""
    if config.encoders.init:
        return f"the encoders of {config.encoders.init} know more than crafted features"
    missing = " and ".join(name for name in config.kinds if name not in crafted)
    if missing and (not crafted or len(config.label_sets) > 1):
        return f"there are no crafted features of {missing}"
    return ""


def _from_teacher(config: Config, bank: LabelBank, source: Source, crafted: Mapping[str, Encoder]) -> str:
    num_views, num_passes = views_and_passes(config, crafted, -(-len(bank.ids) // world_size()))
    views = craft_views(crafted, len(bank.ids), num_views, num_passes, source.read, source.augment, source.device)
    teacher = Teacher(config, views, bank.ids, source.device, source.stop)
    learned = teacher.train()
    bank.labels, bank.weights = learned.labels, learned.weights
    bank.rule.potentials = learned.rule.potentials  # where the next labelling starts; how votes are scaled is its own
    sizes = ", ".join(f"{name} {encoder.num_features}" for name, encoder in crafted.items())
    without = " and ".join(name for name in config.kinds if name not in crafted)
    left_out = f", without {without}, of which there are none" if without else ""
    few = f" (more do not fit into labelling.memory_gb={config.labelling.memory_gb:g})" if num_views < NUM_VIEWS else ""
    counted = f"{num_views} view{'s' * (num_views > 1)}{few}"
    return f"heads on crafted features ({sizes} numbers, {counted}{left_out})"


def _from_vectors(config: Config, bank: LabelBank, source: Source) -> MadeLabels:
    names = list(files_of(config))
    made = cluster_vectors(config, names, len(bank.ids), source.read, source.device, source.stop)
    sampled = "" if made.num_sampled == len(bank.ids) else f", learned from {made.num_sampled:,} of them"
    return MadeLabels(f"K-means on the vectors ({' and '.join(names)}{sampled})", made.labels, made.agreement)


def _from_table(config: Config, bank: LabelBank) -> MadeLabels:
    path = Path(config.labelling.first)
    labels, made = _table_labels(config, bank, f"labelling.first={path}")
    return MadeLabels("; ".join([f"the clusters of {path}", *made.notes]), labels)


def _table_labels(config: Config, bank: LabelBank, name: str) -> tuple[Tensor, TableNotes]:
    """Labels of a table, that one process of each machine reads, and what the first of all has to say of them."""
    none = torch.tensor(-1, dtype=torch.int32).expand(len(bank.ids), config.num_label_heads)
    shared, made = share(none), TableNotes([], [])
    with fail_together():
        if shared.is_writer:
            table = _first_table(config)
            assert table is not None
            made = put_table_labels(table, name, bank.ids, config.heads.num_clusters, shared.values)
    return shared.values, made


def _fill(config: Config, bank: LabelBank, made: MadeLabels) -> str:
    bank.labels = made.labels
    weigh = METHODS[config.labelling.method].weigh
    if weigh is not None:
        bank.weights = weigh(made.labels, config.heads.num_clusters)
    return made.text
