"""What a run will need, from what a rehearsal measured: memory, disk and time.  Numbers in, numbers out."""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from selavi.config import Config
from selavi.labelling.methods import METHODS
from selavi.labelling.schedule import labelling_steps_of_run
from selavi.planning import FEWEST_LABELLINGS, Cost, Rates, cost_of
from selavi.training.first.give import crafted_for_first, labellings_before, views_and_passes
from selavi.training.rehearsal import Rehearsal
from selavi.wording import byte_size, duration, speed

MOST_FOR_LABELS = 1 / 3
"""Share of a run's work above which labels are said to take much of it."""
PASS_WORK = 1 / 3
"""Epochs that a pass over the clips without gradient counts as, where nothing is measured: a backward pass computes
twice as much as a forward one."""
MANIFEST_BYTES = 250
"""Memory for a row of a manifest, the id among it."""
_SAVED_ID_BYTES = 4
"""An id in a checkpoint beside its text."""
_LABEL_BYTES, _STATISTICS_BYTES = 4, 16
"""For each clip and column of the label bank; statistics come with the last labelling of a part."""
_ROW_BYTES = 24
"""A clip and head in labels/SPLIT.parquet."""
_LOGGED_BYTES, _LOGGED_LABELLING_BYTES = 150, 3000
"""A line of metrics.csv with its twin in tensorboard/."""


@dataclass(frozen=True)
class Line:
    """Something that a run needs: bytes of memory or disk, or seconds."""

    area: Literal["memory", "disk", "time"]
    what: str
    needs: float
    how: str
    """measured or estimated, and on what."""
    free: float | None = None
    """Bytes that there are; None where that is not to be compared."""
    advice: str = ""
    """What to change where it does not fit."""

    @property
    def fits(self) -> bool:
        """Whether there is as much as is needed."""
        return self.free is None or self.needs <= self.free

    @property
    def in_words(self) -> tuple[str, str]:
        """What is needed and what is free."""
        words: Callable[[float], str] = duration if self.area == "time" else byte_size
        return words(self.needs), "" if self.free is None else words(self.free)


@dataclass(frozen=True)
class Clips:
    """The clips of a run, as far as they were looked at."""

    num_clips: int
    """To train on."""
    num_files: int
    """Files of all splits, usable or not."""
    id_bytes: float
    """Length of an id, on average."""


@dataclass(frozen=True)
class Room:
    """What this machine has for a run, in bytes."""

    memory: int
    """Free, or this process's own."""
    processes: int
    """Processes of the run on this machine."""
    process_bytes: int
    """Memory of a loader process."""
    batch_bytes: int
    """What a process of the run has in shared memory: batches of both loaders."""


@dataclass(frozen=True)
class Course:
    """How long a run is, on how many devices, and how much of it is done."""

    steps_per_epoch: int
    world_size: int
    step: int = 0
    num_labellings: int = 0


def memory_lines(config: Config, clips: Clips, rehearsal: Rehearsal, room: Room, world_size: int) -> list[Line]:
    """Memory of a run on this machine, and of its GPU.

    Args:
        config: of the run.
        clips: of the run.
        rehearsal: of the run, in this process.
        room: of this machine.
        world_size: processes of the run on all machines.
    """
    of_labelling, bank = labelling_bytes(config, clips, rehearsal, world_size), bank_bytes(config, clips)
    num_loaders = config.data.num_workers
    loaders = num_loaders * room.process_bytes + room.batch_bytes
    kept = step_features_bytes(config, clips, rehearsal, world_size)
    in_memory = 0.0 if rehearsal.on_gpu else of_labelling
    own = max(rehearsal.peak_bytes, rehearsal.kept_bytes + in_memory) + (0.0 if rehearsal.on_gpu else kept)
    at_a_time = f", {config.optim.micro_batch} at a time" if config.optim.micro_batch else ""
    step = f"a step of {config.optim.batch_size} clips{at_a_time} on {rehearsal.device}"
    lines = [Line("memory", "training process", rehearsal.peak_bytes, f"measured: peak, {step}")]
    if num_loaders:
        how = f"measured: {byte_size(room.process_bytes)} a process; and batches in shared memory"
        several = "es" if num_loaders > 1 else ""
        lines.append(Line("memory", f"{num_loaders} loader process{several}", loaders, how))
    columns = f"{clips.num_clips:,} clips x {config.num_label_heads} heads"
    lines.append(Line("memory", "label bank", bank, f"estimated: {columns}, and the manifest"))
    table = f"{_share(clips, world_size):,} clips x {config.heads.num_clusters} clusters, and features"
    lines.append(Line("memory", "labelling, by head", of_labelling, f"estimated: {table}"))
    if kept:
        how = f"estimated: two epochs of {_share(clips, world_size):,} clips"
        lines.append(Line("memory", "features of the steps", kept, how))
    advice = "set or lower optim.micro_batch, lower labelling.batch_size, labelling.memory_gb or data.num_workers"
    together = room.processes * (own + loaders) + bank
    named = "all of it" if room.processes == 1 else f"all of {room.processes} processes here"
    lines.append(Line("memory", named, together, "at its peak: not all of it at a time", room.memory, advice))
    if rehearsal.on_gpu:
        peak = max(rehearsal.gpu_peak_bytes, rehearsal.gpu_kept_bytes + of_labelling) + kept
        advice = "set optim.micro_batch (fewer clips of a step at a time) or trainer.precision=bf16-mixed, or lower "
        advice += "labelling.batch_size or labelling.memory_gb"
        lines.append(Line("memory", "GPU", peak, f"measured: peak, {step}", rehearsal.gpu_bytes, advice))
    return lines


def labelling_bytes(config: Config, clips: Clips, rehearsal: Rehearsal, world_size: int) -> float:
    """Most that a process holds to label one head: features, twice while they are joined, or the method's tables."""
    num_rows = _share(clips, world_size)
    features = 4.0 * num_rows * rehearsal.num_features
    tables = METHODS[config.labelling.method].memory_bytes(config, num_rows, rehearsal.num_features)
    return features + max(features, tables)


def step_features_bytes(config: Config, clips: Clips, rehearsal: Rehearsal, world_size: int) -> float:
    """What a process keeps of its steps for the labellings: the features of two epochs."""
    if config.labelling.features == "fresh":
        return 0.0
    return 2 * 4.0 * _share(clips, world_size) * rehearsal.num_features


def bank_bytes(config: Config, clips: Clips) -> float:
    """The label bank, a draft of the next one and its statistics, and the manifest with the ids, on one machine.

    Its processes have them together.  Pages of the manifest, and of many statistics, lie in files and may leave memory.
    """
    columns = config.num_label_heads * (2 * _LABEL_BYTES + _STATISTICS_BYTES)
    return clips.num_clips * columns + clips.num_files * MANIFEST_BYTES


def checkpoint_bytes(config: Config, clips: Clips, rehearsal: Rehearsal) -> float:
    """A checkpoint: weights, optimiser, label bank and the statistics of the last labelling."""
    columns = config.num_label_heads * (_LABEL_BYTES + _STATISTICS_BYTES)
    return rehearsal.checkpoint_bytes + clips.num_clips * (columns + clips.id_bytes + _SAVED_ID_BYTES)


def run_bytes(config: Config, clips: Clips, rehearsal: Rehearsal, steps_per_epoch: int) -> float:
    """The run folder: three checkpoints while one is written, labels, their statistics, manifest and metrics."""
    statistics = clips.num_clips * config.num_label_heads * _STATISTICS_BYTES
    labels = clips.num_clips * (config.num_label_heads * _ROW_BYTES + clips.id_bytes)
    num_lines = config.trainer.all_epochs * steps_per_epoch / max(1, config.trainer.log_every_n_steps)
    metrics = num_lines * _LOGGED_BYTES + len(labelling_steps_of_run(config, steps_per_epoch)) * _LOGGED_LABELLING_BYTES
    manifest = clips.num_files * MANIFEST_BYTES
    return 3 * checkpoint_bytes(config, clips, rehearsal) + labels + statistics + metrics + manifest


def measured_cost(config: Config, clips: Clips, rehearsal: Rehearsal, loader: float, world_size: int) -> Cost:
    """Seconds of an epoch and of a labelling; `loader` as in measured_rates.

    A block that was labelled under one head stands for all clips of a process and all heads.
    """
    solving_s = rehearsal.solve_s * _share(clips, world_size) / rehearsal.block_clips * config.heads.num_heads
    return cost_of(measured_rates(config, rehearsal, loader), config, clips.num_clips, solving_s, world_size)


def fresh_cost(config: Config, clips: Clips, rehearsal: Rehearsal, loader: float, world_size: int) -> Cost:
    """Seconds of an epoch, and of a labelling that reads all clips."""
    fresh = replace(config, labelling=replace(config.labelling, features="fresh"))
    return measured_cost(fresh, clips, rehearsal, loader, world_size)


def measured_rates(config: Config, rehearsal: Rehearsal, loader: float) -> Rates:
    """Clips a second of one device, and of its loader (inf: not known)."""
    training = config.optim.batch_size / rehearsal.step_s
    labelling = rehearsal.encode_clips / rehearsal.encode_s
    return Rates(training, labelling, loader, rehearsal.on_gpu and config.data.num_workers > 0)


def time_lines(
    config: Config,
    clips: Clips,
    rehearsal: Rehearsal,
    course: Course,
    loader: float,
    decoding_s: float | None,
) -> list[Line]:
    """How long the parts of a run take, and what is left of it.

    Args:
        config: of the run.
        clips: of the run.
        rehearsal: on one device.
        course: of the run.
        loader: clips a second that one device gets; inf where that is not known.
        decoding_s: seconds of decoding media ahead; None where that is not done, or not known.
    """
    steps, cost = course.steps_per_epoch, measured_cost(config, clips, rehearsal, loader, course.world_size)
    epochs = config.trainer.all_epochs - course.step / steps
    num_left = num_relabellings(config, steps, course.num_labellings)
    num_fresh = num_fresh_labellings(config, steps, course.num_labellings)
    reading_s = fresh_cost(config, clips, rehearsal, loader, course.world_size).labelling_s - cost.labelling_s
    rates = measured_rates(config, rehearsal, loader)
    turns = "while the model works" if rates.at_once else "taking turns with the model"
    reading = "reading clips not counted" if math.isinf(loader) else f"{speed(loader)} clips/s are read, {turns}"
    block = f"{clips.num_clips:,} clips x {config.heads.num_heads} heads, from {rehearsal.block_clips:,} x 1"
    step = f"measured: on {rehearsal.device}, without reading"
    and_reading = ", and reading" if config.labelling.features == "fresh" else ""
    lines = [
        Line("time", f"step of {config.optim.batch_size} clips", rehearsal.step_s, step),
        Line("time", f"epoch of {steps:,} steps", cost.epoch_s, f"estimated: {reading}"),
        Line("time", "labelling", cost.labelling_s, f"estimated: {block}{and_reading}"),
    ]
    if decoding_s is not None:
        lines.append(Line("time", "decoding ahead", decoding_s, "estimated from a few files"))
    total_s = epochs * cost.epoch_s + num_left * cost.labelling_s + num_fresh * reading_s + (decoding_s or 0.0)
    if rehearsal.craft_s and not course.step:
        first = _first_labels(config, clips, rehearsal, course.world_size, loader)
        lines.append(first)
        total_s += first.needs
    what = "what is left" if course.step else "all of it"
    length = f"{epochs:.4g} {'epoch' if epochs == 1 else 'epochs'}, {num_left} labellings"
    lines.append(Line("time", what, total_s, f"estimated: {length}"))
    return lines


def _first_labels(config: Config, clips: Clips, rehearsal: Rehearsal, world_size: int, loader: float) -> Line:
    """The crafted features that first labels are made of."""
    num_rows = _share(clips, world_size)
    num_views, num_passes = views_and_passes(config, crafted_for_first(config), num_rows)
    seconds = num_rows * (num_passes / loader + num_views * rehearsal.craft_s / rehearsal.encode_clips)
    how = f"estimated: {num_passes} passes over the clips for {num_views} views of each; the heads on them not counted"
    return Line("time", "first labels", seconds, how)


def num_relabellings(config: Config, steps_per_epoch: int, num_done: int = 0) -> int:
    """Labellings that a run makes itself, without those in whose place the first labels are learned.

    Args:
        config: of the run.
        steps_per_epoch: optimiser steps.
        num_done: labellings that it has behind it.
    """
    return len(_relabelling_steps(config, steps_per_epoch, num_done))


def num_fresh_labellings(config: Config, steps_per_epoch: int, num_done: int = 0) -> int:
    """Those of num_relabellings that read all clips, and not the features that the training steps have made."""
    steps = _relabelling_steps(config, steps_per_epoch, num_done)
    if config.labelling.features == "fresh":
        return len(steps)
    ends = {steps_per_epoch * epochs for epochs in accumulate(config.trainer.parts)}
    return sum(step < steps_per_epoch or step in ends for step in steps)


def _relabelling_steps(config: Config, steps_per_epoch: int, num_done: int) -> list[int]:
    steps, labelling = labelling_steps_of_run(config, steps_per_epoch), config.labelling
    num_given = 0
    if labelling.method == "given":
        num_given = 1
    elif labelling.first != "random" and config.labelling_method.relabels:
        num_given = labellings_before(steps, labelling.first_share, config.trainer.max_epochs * steps_per_epoch)
    return steps[max(num_done, num_given) :]


def num_passes(config: Config, steps_per_epoch: int) -> int:
    """How often a run reads all clips to label them, the crafted features of first labels included."""
    crafted = crafted_for_first(config)
    first = views_and_passes(config, crafted, 1)[1] if crafted else 0
    return first + config.labelling.head_groups * num_fresh_labellings(config, steps_per_epoch)


def labelling_share(config: Config, steps_per_epoch: int, cost: Cost | None = None) -> float:
    """Share of a run's work that goes into labels.

    Args:
        config: of the run.
        steps_per_epoch: optimiser steps.
        cost: as measured; None: a pass over the clips counts as PASS_WORK epochs.
    """
    a_pass = PASS_WORK if cost is None else cost.labelling_s / config.labelling.head_groups / cost.epoch_s
    labels = a_pass * num_passes(config, steps_per_epoch)
    return labels / (labels + config.trainer.all_epochs)


def warn_of_labellings(config: Config, steps_per_epoch: int, cost: Cost | None = None) -> str:
    """What to say where labels take more than MOST_FOR_LABELS of a run's work, with the setting that helps.

    Empty where they do not or read nothing, where fewer labellings are not worth a training, or none follow from the
    settings.  For the arguments see labelling_share.
    """
    settings, epochs = config.labelling, config.trainer.all_epochs
    share = labelling_share(config, steps_per_epoch, cost)
    fewest = FEWEST_LABELLINGS
    is_cheap = share <= MOST_FOR_LABELS or settings.features == "kept"
    if is_cheap or settings.num_labellings <= fewest or not config.labelling_method.relabels:
        return ""

    def share_with(num_labellings: int) -> float:
        fewer = replace(config, labelling=replace(settings, num_labellings=num_labellings))
        return labelling_share(fewer, steps_per_epoch, cost)

    fitting = bisect_right(range(fewest, settings.num_labellings), MOST_FOR_LABELS, key=share_with)
    number = fewest + max(0, fitting - 1)
    how = "as measured" if cost else "by count: a pass without gradient as a third of an epoch"
    return (
        f"warning: {share:.0%} of this training goes into labels ({how}), {num_passes(config, steps_per_epoch)} passes "
        f"over the clips beside {epochs} epochs; labelling.num_labellings={settings.num_labellings} does not follow "
        f"them. labelling.num_labellings={number} makes it {share_with(number):.0%}; "
        "labelling.features=kept labels from what the training steps make, with hardly a pass"
    )


def _share(clips: Clips, world_size: int) -> int:
    """Clips that a process labels."""
    return math.ceil(clips.num_clips / world_size)
