"""What `selavi label` decides by itself: the recipe, how many clusters, how long.  Facts in, settings out."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selavi.config import Config
from selavi.scores.verdict import CLIPS_A_CLUSTER
from selavi.wording import about, duration

MANY_CLIPS = 5000
"""From so many clips on a GPU takes the recipe `medium`."""
SOUND_SHARE = 0.25
"""The sound is used where at least this share of the clips has some."""
SHORT_SHARE = 0.05
"""Share of the clips that may be shorter than the window that is cut from them, and so are left out."""
SHORTEST_S = 0.2
"""No window is shorter."""
LONG_S = 60.0
"""From here on a recording is long for one label."""
PIECE_S = 10.0
"""Seconds of the pieces that long ones are cut into: as long as the clips of the large sets."""
STEPS_AN_EPOCH = 3
"""A step takes no more clips than leave so many steps in an epoch."""
FEWEST_CLUSTERS = 4
"""Clusters of a set that is too small for more, but not tiny."""
LEAST_STEPS, LEAST_EPOCHS = 150, 5
"""Labels of a shorter training are not worth looking at."""
MOST_STEPS = 720
"""A small set is trained for so many steps, where the epochs of the recipe are fewer; more has not helped."""
FEWEST_LABELLINGS = 10
"""Times that labels are made anew, at least."""
MOST_CACHE_GB = 50.0
"""More decoded media are not kept on the disk."""


@dataclass(frozen=True)
class FolderFacts:
    """What a scan says of the clips to train on."""

    num_clips: int
    num_with_sound: int
    median_s: float
    """Half of the clips last longer."""
    clip_s: float
    """Seconds of the window that is cut from each; see choose_clip_s."""
    decoded_gb: float
    """What they take once they are decoded as the recipe does."""
    pictures: bool = False
    """Whether they are still pictures."""


@dataclass(frozen=True)
class MachineFacts:
    """What a training may use."""

    cores: int
    gpu: bool
    disk_gb: float
    """Free where decoded media are kept."""


@dataclass(frozen=True)
class Recipe:
    """Settings on top of one of selavi's own configuration files, and why they were chosen."""

    config: str
    settings: tuple[str, ...]
    reason: str
    remarks: tuple[str, ...]
    """What a person should know before the clusters are read."""


@dataclass(frozen=True)
class Cost:
    """Seconds that the parts of a run take on this machine."""

    epoch_s: float
    labelling_s: float


@dataclass(frozen=True)
class Rates:
    """Clips a second of one device and of the loader that feeds it."""

    training: float
    labelling: float
    """The encoders alone, without gradient."""
    loader: float
    at_once: bool
    """Whether clips are read while the model works; else both take turns."""

    def clip_s(self, model: float) -> float:
        """Seconds for a clip of which the model takes `model` a second, read and computed."""
        return max(1 / model, 1 / self.loader) if self.at_once else 1 / model + 1 / self.loader


@dataclass(frozen=True)
class Length:
    """How long a run is."""

    max_epochs: int
    num_labellings: int
    seconds: float
    """What the training takes, by the measured speed."""
    limit: Literal["time", "use", "need"]
    """What decided: the minutes; that more is not known to help; that less makes no labels worth looking at."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings that make a run this long."""
        return f"trainer.max_epochs={self.max_epochs}", f"labelling.num_labellings={self.num_labellings}"


def recipe_name(num_clips: int, gpu: bool, pictures: bool = False) -> str:
    """The configuration file to start from."""
    if pictures:
        return "images"
    return "medium" if gpu and num_clips >= MANY_CLIPS else "small"


def suggest_clusters(num_clips: int) -> int:
    """How many clusters to make of clips of which nothing else is known.

    The square root of half the number of clips grows slowly enough to be looked through; a cluster also needs clips to
    be learned from.  Names of folders take no part: they may be anything.
    """
    most = max(2, num_clips // 4)
    return min(most, max(FEWEST_CLUSTERS, min(num_clips // CLIPS_A_CLUSTER, round(math.sqrt(num_clips / 2)))))


def choose_batch(num_clips: int, most: int) -> int:
    """Clips a step: those of the recipe, or halved until an epoch has a few steps."""
    size = most
    while size > 2 and num_clips < STEPS_AN_EPOCH * size:
        size //= 2
    return max(2, size)


def choose_clip_s(durations_s: Sequence[float], usual_s: float) -> float:
    """Seconds of the window that is cut from each clip: the usual, or shorter where more than a few clips are."""
    ordered = sorted(durations_s)
    short_s = ordered[math.floor(SHORT_SHARE * len(ordered))] if ordered else usual_s
    return usual_s if short_s >= usual_s else min(usual_s, max(SHORTEST_S, math.floor(10 * short_s) / 10))


def choose_cut(durations_s: Sequence[float]) -> tuple[str, ...]:
    """Settings that cut recordings into pieces, where long ones hold most of the time; none where each stays whole."""
    long_s = sum(duration_s for duration_s in durations_s if duration_s > LONG_S)
    return ("data.cut=every", f"data.cut_s={PIECE_S:g}") if long_s > sum(durations_s) / 2 else ()


def choose_recipe(facts: FolderFacts, machine: MachineFacts, base: Config, num_clusters: int | None) -> Recipe:
    """Choose what to change about a recipe for the clips and the machine that there are.

    Args:
        facts: of the clips.
        machine: that trains.
        base: settings of the configuration file that `recipe_name` names.
        num_clusters: K as asked for; None: suggest one.
    """
    name = recipe_name(facts.num_clips, machine.gpu, facts.pictures)
    settings, reasons, remarks = list[str](), list[str](), list[str]()
    device = "on the GPU" if machine.gpu else "without a GPU"
    reasons.append(f"{name}.yaml, for {facts.num_clips:,} clips {device}")
    if machine.gpu:
        settings += ["trainer.accelerator=gpu", "trainer.devices=1"]

    if not facts.pictures:
        more_settings, more_reasons, more_remarks = _hearing(facts, base)
        settings, reasons, remarks = settings + more_settings, reasons + more_reasons, remarks + more_remarks

    clusters = num_clusters or suggest_clusters(facts.num_clips)
    settings.append(f"heads.num_clusters={clusters}")
    reasons.append(
        f"{clusters} clusters" + ("" if num_clusters else " (suggested by the number of clips; -k changes it)")
    )

    batch_size = choose_batch(facts.num_clips, base.optim.batch_size)
    if batch_size != base.optim.batch_size:
        settings.append(f"optim.batch_size={batch_size}")
        reasons.append(f"{batch_size} clips a step")

    settings += _reading(machine, base, facts.decoded_gb, remarks)
    return Recipe(name, tuple(settings), "; ".join(reasons), tuple(remarks))


def _hearing(facts: FolderFacts, base: Config) -> tuple[list[str], list[str], list[str]]:
    """Whether the sound of recordings is used, and how long their windows are: settings, reasons, remarks."""
    settings, reasons, remarks = list[str](), list[str](), list[str]()
    with_sound = f"{facts.num_with_sound:,} of {facts.num_clips:,} clips have sound"
    if facts.num_with_sound < max(1.0, SOUND_SHARE * facts.num_clips):
        settings.append("modalities=[video]")
        reasons.append("picture alone" + (f" (only {with_sound})" if facts.num_with_sound else " (no clip has sound)"))
    else:
        reasons.append("picture and sound" if facts.num_with_sound == facts.num_clips else f"both ({with_sound})")

    clip_s = facts.clip_s
    if clip_s != base.data.clip_s:
        settings.append(f"data.clip_s={clip_s:g}")
    reasons.append(f"windows of {clip_s:g} s")
    if facts.median_s >= LONG_S:
        remarks.append(
            f"half of the files last {duration(facts.median_s)} or more, and each gets one label, from windows of "
            f"{clip_s:g} s: at random places in training, at three even ones afterwards. Where the scene changes "
            "within a file, data.cut=every gives each piece of it a label"
        )
    return settings, reasons, remarks


def _reading(machine: MachineFacts, base: Config, decoded_gb: float, remarks: list[str]) -> list[str]:
    """How the clips are read: decoded once where that fits on the disk, else each time, by all cores."""
    if base.data.cache_gb == 0:
        return [f"data.num_workers={machine.cores}"] if machine.cores < base.data.num_workers else []
    if decoded_gb <= base.data.cache_gb:
        return []
    needed = math.ceil(decoded_gb)
    if needed <= min(MOST_CACHE_GB, machine.disk_gb / 2):
        return [f"data.cache_gb={needed}"]
    remarks.append(
        f"decoded, the files would take {decoded_gb:.0f} GB, so each window is decoded anew, which is slow; "
        "shorter files, or those that `prepare` writes, are read faster"
    )
    return ["data.cache_gb=0", f"data.num_workers={machine.cores}"]


def cost_of(rates: Rates, config: Config, num_clips: int, solving_s: float, num_devices: int = 1) -> Cost:
    """What an epoch and a labelling take; one from features that are kept reads and encodes no clip.

    Args:
        rates: as measured.
        config: of the run.
        num_clips: that are trained on.
        solving_s: seconds of a labelling beside the reading and encoding of its clips.
        num_devices: that share them.
    """
    per_step = config.optim.batch_size * num_devices
    of_an_epoch = num_clips // per_step * config.optim.batch_size
    num_passes = config.labelling.head_groups if config.labelling.features == "fresh" else 0
    of_a_labelling = num_passes * math.ceil(num_clips / num_devices)
    return Cost(
        epoch_s=of_an_epoch * rates.clip_s(rates.training),
        labelling_s=of_a_labelling * rates.clip_s(rates.labelling) + solving_s,
    )


def plan_length(minutes: float, cost: Cost, steps_per_epoch: int, base: Config) -> Length:
    """The longest training that fits into so many minutes, within the bounds of what helps and what labels need.

    Args:
        minutes: for training.
        cost: on this machine.
        steps_per_epoch: of the run.
        base: settings of the recipe, whose epochs are the most that a large set gets.
    """
    per_epoch = base.labelling.num_labellings / base.trainer.max_epochs
    least = max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps_per_epoch))
    most = max(least, base.trainer.max_epochs, math.ceil(MOST_STEPS / steps_per_epoch))

    def labellings(epochs: int) -> int:
        return min(max(FEWEST_LABELLINGS, round(per_epoch * epochs)), max(base.labelling.num_labellings, 2))

    def seconds(epochs: int) -> float:
        return epochs * cost.epoch_s + labellings(epochs) * cost.labelling_s

    fitting = bisect_right(range(least, most + 1), 60 * minutes, key=seconds)
    epochs = least + max(0, fitting - 1)
    limit: Literal["time", "use", "need"] = "need" if fitting == 0 else "use" if epochs == most else "time"
    return Length(epochs, labellings(epochs), seconds(epochs), limit)


def more_epochs(minutes: float, cost: Cost, base: Config) -> int:
    """How many more epochs fit into so many minutes; at least one."""
    per_epoch = base.labelling.num_labellings / base.trainer.max_epochs
    return max(1, math.floor(60 * minutes / (cost.epoch_s + per_epoch * cost.labelling_s)))


def describe_length(length: Length, minutes: float) -> str:
    """How long the training is and why, in a sentence."""
    what = f"{length.max_epochs} epochs with {length.num_labellings} labellings, {about(length.seconds)} as measured"
    if length.limit == "need":
        return f"{what}: more than the {minutes:g} min asked for, but labels of fewer epochs are not worth looking at"
    if length.limit == "use":
        return f"{what}: longer than that is not known to help" if length.seconds < 57 * minutes else what
    return f"{what}: what fits into {minutes:g} min"
