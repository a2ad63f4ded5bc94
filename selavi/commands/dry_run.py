"""What a training would need: memory, disk and time; imported late, for its imports are slow.

The settings, the run folder and the clips are looked at as `train` does, and what it would refuse is refused here. Then
one step, one batch of a labelling and one block of clips labelled really run.  Nothing is written but a few clips,
decoded into a temporary folder to time how fast they are read.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from datamodules.clips import (
    DEMO_CLIPS_PER_CLASS,
    bytes_of_batches,
    check_bad_fraction,
    require_room_for_batches,
    require_source,
    require_trainable,
    steps_per_epoch,
)
from datamodules.doctor.machine import Machine, read_machine
from datamodules.doctor.report import Outcome
from datamodules.doctor.throughput import (
    DataSpeed,
    SampledFiles,
    cache_gb,
    decoding_s,
    find_sample,
    make_flow,
    measure_data,
)
from datamodules.index.manifest import bad, describe_bad, probed, select_split, usable
from datamodules.loading.shared_memory import needed_bytes
from datamodules.stores.opening import are_decoded_ahead
from datamodules.synthetic import CLASSES
from selavi.commands.checks import output_folder
from selavi.commands.recipes import has_labellings_of_recipe
from selavi.config import Config
from selavi.errors import DataError, UsageError
from selavi.filesystem import free_disk, on_one_disk
from selavi.labelling.bank import LabelBank
from selavi.memory import memory_now
from selavi.meter import say
from selavi.runs.checkpoint import Saved
from selavi.runs.folder import RunFolder
from selavi.runs.launch import require_one_process
from selavi.runs.lifetime import require_free
from selavi.runs.resume import check_settings_of, resume_point
from selavi.training.first.give import check_first, crafted_for_first
from selavi.training.forecast import (
    Clips,
    Course,
    Line,
    Room,
    measured_cost,
    measured_rates,
    memory_lines,
    num_passes,
    run_bytes,
    time_lines,
    warn_of_labellings,
)
from selavi.training.rehearsal import Rehearsal, rehearse
from selavi.training.trainer import make_trainer
from selavi.wording import byte_size, command

_LOOK_S = 10.0
"""To probe files; where there are more, a sample stands for them."""
_READ_S = 8.0
"""To measure how fast clips are read, and as long at most to measure how fast files are decoded ahead."""
_DEMO_ID_BYTES = 25.0
"""Length of an id of the demo set, about."""
_NOT_COUNTED = "the scan of the files, checkpoints, evaluation"


@dataclass(frozen=True)
class DryRun:
    """What a training would need, and what to say of it."""

    lines: Sequence[Line]
    notes: Sequence[str]
    next_step: str
    """The command that trains; empty where there is nothing to train."""

    @property
    def missing(self) -> list[Line]:
        """What does not fit."""
        return [line for line in self.lines if not line.fits]

    def show(self) -> None:
        """Print everything.

        Raises:
            UsageError: something does not fit.
        """
        print("\n".join([*as_table(self.lines), *self.notes]))
        if self.missing:
            shortages = [
                f"{line.what} needs {line.in_words[0]} of {line.area}, {line.in_words[1]} are free: {line.advice}"
                for line in self.missing
            ]
            raise UsageError(f"this run does not fit here: {'; '.join(shortages)}")
        if self.next_step:
            print(f"Nothing was written. Next: {self.next_step}")


def as_table(lines: Sequence[Line]) -> list[str]:
    """Lines of text in columns: what, needs, free, how it is known."""
    rows = [(line.area, line.what, *line.in_words, line.how) for line in lines]
    if not rows:
        return []
    head = ("", "", "needs", "free", "how it is known")
    wide = [max(len(row[column]) for row in (head, *rows)) for column in range(5)]
    text, area = list[str](), None
    for row in (head, *rows):
        shown = row[0] if row[0] != area else ""
        area = row[0]
        text.append(
            f"{shown:<{wide[0]}}  {row[1]:<{wide[1]}}  {row[2]:>{wide[2]}}  {row[3]:>{wide[3]}}  {row[4]}".rstrip()
        )
    return text


def dry_run(config: Config, config_path: Path | None, words: Sequence[str]) -> DryRun:
    """Find out what a training would need.

    Args:
        config: of the run.
        config_path: the file that its settings come from, some of them.
        words: of the command that trains, behind `train`.

    Raises:
        UsageError: as `train`; or several processes were started.
        DataError: as `train`.
    """
    require_one_process("--dry-run", ", with trainer.devices and trainer.num_nodes as the training will have them")
    require_free(config.run_dir)
    point = resume_point(config)
    if point.finished:
        longer = command("train", config.run_dir, "--more", "10")
        return DryRun([], [f"{config.run_dir} is finished; nothing to train ({longer} trains it longer)."], "")
    output_folder("run_dir", Path(config.run_dir))
    output_folder("data.cache_dir", Path(config.data.cache_dir))
    world_size = make_trainer(config, []).world_size
    if point.saved is None:
        check_first(config)
    else:
        check_settings_of(point.saved.content, config)
    require_source(config)
    require_room_for_batches(config)
    with tempfile.TemporaryDirectory(prefix="selavi-dry-run-") as folder:
        return _measure(config, config_path, words, point.saved, world_size, Path(folder))


def _measure(
    config: Config, config_path: Path | None, words: Sequence[str], saved: Saved | None, world_size: int, folder: Path
) -> DryRun:
    say("dry run: looking at the files, then one step and one labelling block")
    # Shards of a URL are fetched to where the cache is; what an earlier scan knows is read from the run's own.
    beside = replace(config, data=replace(config.data, cache_dir=str(folder))) if "://" in config.data.root else config
    sample = find_sample(beside, _LOOK_S, recalls=True)
    clips, notes = _look(config, sample)
    course = _course(config, clips, world_size, saved)
    if saved is not None and sample is not None and sample.is_all:
        _require_same_clips(config, sample, saved)
    data = None if sample is None else measure_data(beside, sample, folder, _READ_S)
    rehearsal = rehearse(config, -(-clips.num_clips // world_size))
    machine = read_machine(config, _torch())
    needed_gb = 0.0 if sample is None or sample.media is not None else cache_gb(config, sample)
    decodes = sample is not None and 0 < needed_gb <= config.data.cache_gb and not _is_decoded(config, sample)
    decoding = decoding_s(config, sample, _READ_S) if sample is not None and decodes else None
    loader = _loader_rate(config, data, rehearsal, machine, course)
    lines = [
        *memory_lines(config, clips, rehearsal, _room(config, data, machine), world_size),
        *_disk_lines(config, clips, rehearsal, course, needed_gb if decodes else 0.0),
        *time_lines(config, clips, rehearsal, course, loader, decoding),
    ]
    notes += _notes(config, course, sample, needed_gb, decodes, decoding)
    cost = measured_cost(config, clips, rehearsal, loader, world_size)
    warning = warn_of_labellings(config, course.steps_per_epoch, cost)
    if warning and saved is None and not has_labellings_of_recipe(config, config_path):
        notes.append(warning)
    return DryRun(lines, notes, command("train", *words))


def _look(config: Config, sample: SampledFiles | None) -> tuple[Clips, list[str]]:
    """What the sampled files say of all, and what to say of them; refuses what training would refuse."""
    if sample is None:
        num_clips = len(CLASSES) * DEMO_CLIPS_PER_CLASS["train"]
        num_files = len(CLASSES) * sum(DEMO_CLIPS_PER_CLASS.values())
        note = f"clips: {num_clips:,} to train on, of the demo set, which training generates first"
        return Clips(num_clips, num_files, _DEMO_ID_BYTES), [note]
    manifest, num_looked = sample.manifest, len(sample.manifest)
    num_files = sample.num_files + sample.num_others
    notes = _judge(config, sample)
    rows = select_split(manifest, config.data.train_split)
    num_good = len(usable(rows))
    num_clips = num_good if sample.is_all else round(num_good * sample.num_files / num_looked)
    require_trainable(config, probed(rows), num_clips)
    ids = manifest["id"].to_pylist()
    id_bytes = sum(len(clip_id.encode()) for clip_id in ids) / num_looked
    looked = f"{num_looked:,} of {sample.num_files:,} files looked at"
    if sample.is_all:
        notes.insert(0, f"clips: {num_clips:,} to train on; {looked}")
    else:
        notes.insert(0, f"clips: about {num_clips:,} to train on; {looked}, the others are taken to be like them")
    return Clips(num_clips, num_files, id_bytes), notes


def _judge(config: Config, sample: SampledFiles) -> list[str]:
    """Refuse too many bad files, or say that there may be.

    Raises:
        DataError: more than data.max_bad_fraction of all files, or of a sample by more than chance explains.
    """
    manifest, allowed = sample.manifest, config.data.max_bad_fraction
    if sample.is_all:
        check_bad_fraction(manifest, allowed)
    broken = bad(manifest)
    share, num_looked = len(broken) / len(manifest), len(manifest)
    chance = 2 * (share * (1 - share) / num_looked) ** 0.5
    words = f"{len(broken)} of the {num_looked} files looked at cannot be used: {describe_bad(broken)}"
    if share - chance > allowed:
        raise DataError(f"{words}. A run stops above data.max_bad_fraction={allowed}")
    if share > allowed:
        return [f"warning: {words}. That may be chance; above data.max_bad_fraction={allowed} a run stops"]
    return [words] if len(broken) else []


def _course(config: Config, clips: Clips, world_size: int, saved: Saved | None) -> Course:
    steps = steps_per_epoch(config, clips.num_clips, world_size)
    if saved is None:
        return Course(steps, world_size)
    content = saved.content
    return Course(steps, world_size, content["global_step"], content["label_bank"]["num_labellings"])


def _require_same_clips(config: Config, sample: SampledFiles, saved: Saved) -> None:
    """Refuse clips that the run in the folder has not begun with."""
    ids = usable(select_split(sample.manifest, config.data.train_split)).sort_by("id")["id"].to_pylist()
    bank = LabelBank(ids, config.num_label_heads, config.heads.num_clusters)
    bank.check(saved.content["label_bank"])


def _torch() -> Outcome:
    """What doctor's probe of torch finds, asked of this process."""
    gpus = [{"name": torch.cuda.get_device_name(number)} for number in range(torch.cuda.device_count())]
    return Outcome(facts={"gpus": gpus, "cuda": torch.version.cuda, "said": []})


def _is_decoded(config: Config, sample: SampledFiles) -> bool:
    return sample.is_all and are_decoded_ahead(config, sample.manifest)


def _loader_rate(
    config: Config, data: DataSpeed | None, rehearsal: Rehearsal, machine: Machine, course: Course
) -> float:
    """Clips a second that one device gets; inf where there are none to measure."""
    if data is None:
        return float("inf")
    rates = measured_rates(config, rehearsal, data.loader)
    passes = num_passes(config, course.steps_per_epoch)
    return make_flow(config, data, rates.training, rates.labelling, machine, passes).loader


def _room(config: Config, data: DataSpeed | None, machine: Machine) -> Room:
    workers = config.data.num_workers
    return Room(
        memory=machine.memory_bytes + memory_now(),
        processes=machine.processes,
        process_bytes=0 if data is None else data.process_bytes,
        batch_bytes=needed_bytes(bytes_of_batches(config), workers) if workers else 0,
    )


def _disk_lines(config: Config, clips: Clips, rehearsal: Rehearsal, course: Course, decoded_gb: float) -> list[Line]:
    folder, cache_dir = RunFolder(config.run_dir), config.data.cache_dir
    kept = sum(os.path.getsize(path) for path in (folder.last_checkpoint, folder.previous_checkpoint) if path.exists())
    of_run = max(0.0, run_bytes(config, clips, rehearsal, course.steps_per_epoch) - kept)
    lines = []
    if decoded_gb:
        advice = "point data.cache_dir at a larger disk, or set data.cache_gb=0, with which each clip is decoded anew"
        how = f"estimated from the files looked at; {cache_dir}"
        lines.append(Line("disk", "decoded media", 1e9 * decoded_gb, how, free_disk(cache_dir), advice))
    if "://" in config.data.root:
        shards = 1e9 * config.data.shard_cache_gb
        how = f"at most, as data.shard_cache_gb says; {cache_dir}"
        advice = "lower data.shard_cache_gb, or point data.cache_dir at a larger disk"
        lines.append(Line("disk", "fetched shards", shards, how, free_disk(cache_dir), advice))
    advice = "say run_dir=... on a larger disk, or make room"
    how = f"three checkpoints measured, the rest estimated; {folder.path}"
    lines.append(Line("disk", "run folder", of_run, how, free_disk(folder.path), advice))
    if len(lines) > 1 and on_one_disk(cache_dir, folder.path):
        both = sum(line.needs for line in lines)
        lines.append(Line("disk", "all of it", both, "on one disk", free_disk(folder.path), lines[0].advice))
    return lines


def _notes(
    config: Config,
    course: Course,
    sample: SampledFiles | None,
    needed_gb: float,
    decodes: bool,
    decoding: float | None,
) -> list[str]:
    """What the table does not say."""
    notes, devices = [], course.world_size
    if course.step:
        notes.append(f"{config.run_dir} goes on from step {course.step:,}, after {course.num_labellings} labellings")
    if devices > 1:
        per_step = devices * config.optim.batch_size
        notes.append(f"measured on one device; {devices} take {per_step:,} clips a step, taken to be as fast as one")
    if needed_gb > config.data.cache_gb > 0:
        needed = f"decoded media would take {byte_size(1e9 * needed_gb)}, over data.cache_gb={config.data.cache_gb:g}"
        notes.append(f"{needed}: each clip is decoded anew")
    elif 0 < needed_gb <= config.data.cache_gb:
        needed = byte_size(1e9 * needed_gb)
        notes.append(
            f"data.cache_gb: up to {needed} more, mapped, show as memory in use, and are given back when needed"
        )
    not_counted = [_NOT_COUNTED]
    if config.labelling.first != "random" and not crafted_for_first(config):
        not_counted.insert(0, "first labels")
    if sample is None:
        not_counted.insert(0, "generating the demo set, decoding and reading it")
    if decodes and decoding is None:
        not_counted.insert(0, "decoding ahead, since every file looked at lasts over a minute")
    return [*notes, f"not counted: {', '.join(not_counted)}"]
