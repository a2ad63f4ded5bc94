"""How fast the data of a run come, whether the run waits for them, and what would make them come faster."""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.clips import judge_for
from datamodules.doctor.machine import Machine
from datamodules.doctor.report import Advice, Check, Mark
from datamodules.index.layout import describe_layout
from datamodules.index.manifest import bad, describe_bad, mark_unusable, probed, select_split, usable
from datamodules.index.probing import probe_file
from datamodules.index.scan import list_media, recall, require_media
from datamodules.index.sources import apply_list
from datamodules.index.suffixes import suffixes_of
from datamodules.index.vectors import list_vectors
from datamodules.loading.views import ClipLoaders
from datamodules.processes import Failure, run_jobs
from datamodules.stores.cache import build_cache, decoding_rate, estimate_gb, seconds_of
from datamodules.stores.opening import Media, open_prepared
from datamodules.stores.prepare import PrepareSettings, prepare
from datamodules.stores.shards import open_shards
from datamodules.stores.vectors import fill_in_dims, open_files
from selavi.config import Config
from selavi.filesystem import real_path
from selavi.modalities import reads_media, reads_sound, reads_stills, request_of_media
from selavi.planning import Rates
from selavi.randomness import mix
from selavi.runs.manifest import SCHEMA
from selavi.wording import command

log = logging.getLogger("selavi")

_SAMPLED = 512
"""Files that are probed at most."""
_MEMORY_BYTES = 2 * 2**30
"""Memory for one of them."""
_TRIAL_S = 2.5
_LONGEST_TRIAL_S = 60.0
"""Longer recordings are not decoded for a measurement."""


@dataclass(frozen=True)
class SampledFiles:
    """Some of a run's files, judged as the run would, and where their clips come from."""

    manifest: pa.Table
    media: Media
    num_files: int
    """All of the split to train on, or of all splits where the sample is of all."""
    layout: list[str] = field(default_factory=list)
    """What the folders were taken for, and what is doubtful about it; see datamodules.index.layout.describe_layout."""
    num_others: int = 0
    """Files of other splits, which the run scans and decodes, too."""

    @property
    def is_all(self) -> bool:
        """Whether nothing is extrapolated."""
        return len(self.manifest) == self.num_files


@dataclass(frozen=True)
class DataSpeed:
    """Clips a second of the run's own loader."""

    one: float
    """Decoded in this process, by one core."""
    loader: float
    """With data.num_workers processes."""
    faults: int
    """Clips of the measured ones that could not be decoded."""
    clips: int
    process_bytes: int = 0
    """Memory of its own that a loader process took; 0: there was none."""


def find_sample(config: Config, budget_s: float, *, recalls: bool = False) -> SampledFiles | None:
    """Probe some of the run's files, spread over all, for `budget_s` seconds; of prepared shards take everything.

    Nothing is generated and nothing is written where a run would look.  None where the demo set is not there yet.

    Args:
        config: of the run.
        budget_s: seconds for probing, roughly.
        recalls: where an earlier scan has seen every file as it is now, take all from there.

    Raises:
        UsageError: there is no folder, no media file, no file of the list, or none of the split to train on.
    """
    if not reads_media(config):
        opened = open_files(config)
        fill_in_dims(config, opened)
        manifest = apply_list(list_vectors(opened, config.data.layout), config.data.list, config.data.source)[0]
        return SampledFiles(judge_for(config, manifest), None, len(manifest))
    data = config.data
    prepared = open_prepared(config)
    if prepared is not None:
        manifest = judge_for(config, apply_list(prepared[0], data.list, data.source)[0])
        return SampledFiles(manifest, prepared[1], len(manifest))
    if data.demo and not os.path.isdir(data.root):
        return None
    pictures = reads_stills(config)
    require_media(Path(data.root), data.allow_links, pictures)
    root = real_path(data.root)
    listing = list_media(root, data.allow_links, suffixes_of(pictures), data.layout)
    if recalls and (manifest := recall(root, listing, Path(data.cache_dir), pictures)) is not None:
        manifest = judge_for(config, apply_list(manifest, data.list, data.source)[0])
        return SampledFiles(manifest, None, len(manifest), describe_layout(manifest))
    listing = _as_manifest(listing, root)
    listing, _ = apply_list(listing, data.list, data.source)
    layout, num_all = describe_layout(listing), len(listing)
    listing = select_split(listing, data.train_split)
    order = np.random.default_rng(mix(config.seed, "doctor")).permutation(len(listing))[:_SAMPLED]
    manifest = _probe(root, listing.take(order), data.timeout_s, budget_s, pictures)
    return SampledFiles(judge_for(config, manifest), None, len(listing), layout, num_all - len(listing))


def check_sample(sample: SampledFiles | None, config: Config) -> list[Check]:
    """What the sampled files say about the others, and what the folders were taken for."""
    lines = list(sample.layout) if sample is not None else []
    checks = [Check("data", "layout", "ok", line) for line in lines[:1]]
    checks += [Check("data", "layout", "warning", line, "docs/data.md, Layouts") for line in lines[1:]]
    return [*checks, _check_files(sample, config)]


def _check_files(sample: SampledFiles | None, config: Config) -> Check:
    if sample is None:
        text = f"the demo set is not there yet ({config.data.root})"
        advice = "training generates it; or name your own: data.root=FOLDER data.demo=false"
        return Check("data", "files", "ok", text, advice)
    manifest, broken = sample.manifest, bad(sample.manifest)
    looked = f"{len(manifest)} of {sample.num_files} files looked at"
    if not len(usable(manifest)):
        text = f"{looked}, none can be used: {describe_bad(manifest)}"
        return Check("data", "files", "problem", text, f"{command('scan', config.data.root)} tells of all")
    if reads_sound(config, config.kinds) and not pc.any(pc.equal(manifest["audio_state"], "ok")).as_py():
        return Check("data", "files", "problem", f"{looked}, none has sound", "modalities=[video]")
    if len(broken) > config.data.max_bad_fraction * len(manifest):
        text = f"{looked}, {len(broken)} cannot be used: {describe_bad(broken)}"
        advice = f"{command('scan', config.data.root)} tells of all; above data.max_bad_fraction a run stops"
        return Check("data", "files", "warning", text, advice)
    few = f", {len(broken)} cannot be used: {describe_bad(broken)}" if len(broken) else ""
    return Check("data", "files", "ok", looked + few)


def measure_data(config: Config, sample: SampledFiles, folder: Path, budget_s: float) -> DataSpeed:
    """Time the run's loader on the sample: one process, then data.num_workers of them.

    Args:
        config: of the run.
        sample: of find_sample.
        folder: for what is decoded ahead, where the run would do that; temporary.
        budget_s: seconds to spend, start-up of the processes included.
    """
    began_s = time.monotonic()
    media = sample.media
    if media is None and 0 < cache_gb(config, sample) <= config.data.cache_gb:
        decoded = _decoded(config, sample, folder)
        if decoded is None:
            log.warning("every recording lasts over a minute: their speed is measured without data.cache_gb")
        else:
            sample, media = decoded, decoded.media
    workers = config.data.num_workers
    left_s = budget_s - (time.monotonic() - began_s)
    speed = _clips_per_second(config, sample.manifest, media, 0, 2, left_s * (0.3 if workers else 1))
    if not workers:
        return speed
    batch_size = max(2, min(config.optim.batch_size, int(speed.one / 4)))  # about four batches a second
    left_s = budget_s - (time.monotonic() - began_s)
    several = _clips_per_second(config, sample.manifest, media, workers, batch_size, left_s)
    faults, clips = speed.faults + several.faults, speed.clips + several.clips
    return DataSpeed(speed.one, several.loader, faults, clips, several.process_bytes)


def cache_gb(config: Config, sample: SampledFiles) -> float:
    """Gigabytes that data.cache_gb would have to allow, by the sampled files."""
    rows = probed(sample.manifest)
    request = request_of_media(config)
    sampled = estimate_gb(rows, request.size, request.sample_rate)
    return sampled * (sample.num_files + sample.num_others) / max(1, len(sample.manifest))


def decoding_s(config: Config, sample: SampledFiles, budget_s: float) -> float | None:
    """Seconds that decoding ahead (data.cache_gb) will take, by some of the sampled files.

    None where all of these last over a minute, which takes too long to try.
    """
    workers = config.data.scan_workers or len(os.sched_getaffinity(0))
    rows = probed(sample.manifest)
    seconds = seconds_of(rows).sum() * (sample.num_files + sample.num_others) / len(sample.manifest)
    short = usable(sample.manifest).filter(pc.less_equal(usable(sample.manifest)["duration_s"], _LONGEST_TRIAL_S))
    if not len(short):
        return None
    request = request_of_media(config)
    rate = decoding_rate(short.slice(0, 64 * workers), request.size, request.sample_rate, workers, budget_s)
    return float(seconds / rate)


def faster_data(
    config: Config, sample: SampledFiles, machine: Machine, folder: Path, deadline_s: float
) -> dict[str, float]:
    """Try what may make the data come faster on a few of the sampled files.

    Args:
        config: of the run.
        sample: of find_sample.
        machine: of read_machine.
        folder: for what is written; temporary.
        deadline_s: by time.monotonic(): nothing new is begun after it.

    Returns:
        What to change -> clips a second of one process with it.
    """
    request, rates = request_of_media(config), dict[str, float]()

    def measure(changed: Config, manifest: pa.Table, media: Media) -> float:
        return _clips_per_second(changed, manifest, media, 0, 2, _TRIAL_S).one

    smaller = replace(config, video=replace(config.video, decode_size=config.video.size))
    crop = request_of_media(smaller).size
    if 0 < crop < request.size and time.monotonic() < deadline_s:
        rates[f"video.decode_size={crop} (less detail)"] = measure(smaller, sample.manifest, sample.media)
    if sample.media is not None:
        return rates
    few = replace(sample, manifest=_few(_training_files(config, sample)))
    if not len(few.manifest):  # recordings of an hour take too long to try
        return rates
    needed = cache_gb(config, sample)
    if time.monotonic() < deadline_s and config.data.cache_gb < needed < machine.disk_bytes / 1e9:
        decoded = _decoded(config, few, folder)
        if decoded is not None:
            rates[f"data.cache_gb={-(-needed // 1):.0f}"] = measure(config, decoded.manifest, decoded.media)
    size = request.size + request.size % 2
    forms: tuple[Literal["shards", "files"], ...] = ("shards",) if reads_stills(config) else ("shards", "files")
    for form in forms:
        if time.monotonic() > deadline_s:
            return rates
        out = folder / form
        settings = PrepareSettings(form, size, sample_rate=request.sample_rate)
        prepare(few.manifest, out, settings, workers=machine.cores, deadline_s=20.0)
        manifest, media = open_shards(str(out), folder, 0.0)
        judged = judge_for(config, manifest)
        if len(usable(judged)):
            first = command("prepare", config.data.root, "OUT", "--format", form, "--size", str(size))
            rates[f"{first}, then data.root=OUT"] = measure(config, judged, media)
    return rates


def _as_manifest(listing: pa.Table, root: Path) -> pa.Table:
    """A listing as the manifest of files that nobody has looked into."""
    unknown = {field.name: pa.nulls(len(listing), field.type) for field in SCHEMA}
    columns = unknown | {name: listing[name] for name in listing.column_names}
    return pa.table(columns, SCHEMA.with_metadata({**listing.schema.metadata, b"root": str(root).encode()}))


def _probe(root: Path, listing: pa.Table, timeout_s: float, budget_s: float, pictures: bool) -> pa.Table:
    """The manifest of as many files of a listing as can be probed in time, at least one."""
    rows = listing.to_pylist()
    todo = [row for row in rows if row["status"] is None]
    done = [row for row in rows if row["status"] is not None]
    jobs = [(row["path"], row["bytes"], row["mtime_ns"]) for row in todo]
    probe, until_s = partial(probe_file, str(root), pictures=pictures), None
    for number, outcome in run_jobs(probe, jobs, workers=0, deadline_s=timeout_s, memory_bytes=_MEMORY_BYTES):
        facts = {"status": outcome.reason, "reason": outcome.detail} if isinstance(outcome, Failure) else outcome
        done.append(todo[number] | facts)
        until_s = until_s or time.monotonic() + budget_s  # from the first answer: processes need time to start
        if time.monotonic() > until_s:
            break
    return pa.Table.from_pylist(done, SCHEMA.with_metadata({"root": str(root)}))


def _training_files(config: Config, sample: SampledFiles) -> pa.Table:
    """Those of a sample, which may be of all splits, that are trained on."""
    return usable(select_split(sample.manifest, config.data.train_split))


def _few(rows: pa.Table, seconds: float = 60.0, most: int = 12) -> pa.Table:
    """The first few recordings that together last no longer than `seconds`."""
    chosen, total_s = list[int](), 0.0
    for row, duration_s in enumerate(rows["duration_s"].to_pylist()):
        if len(chosen) < most and total_s + duration_s <= seconds:
            chosen.append(row)
            total_s += duration_s
    return rows.take(pa.array(chosen, pa.int64()))


def _decoded(config: Config, sample: SampledFiles, folder: Path) -> SampledFiles | None:
    """A few files of a sample, decoded ahead below `folder`; None where all are too long for that or none decodes."""
    rows = _few(_training_files(config, sample))
    if not len(rows):
        return None
    request = request_of_media(config)
    cache, faults = build_cache(rows, folder / "cache", request.size, request.sample_rate)
    manifest = mark_unusable(rows, faults)
    return replace(sample, manifest=manifest, media=cache) if len(usable(manifest)) else None


def _clips_per_second(
    config: Config, manifest: pa.Table, media: Media, workers: int, batch_size: int, budget_s: float
) -> DataSpeed:
    """Clips a second of a training loader, as both of its rates.

    The first batch of every process does not count: it holds the start.
    """
    rows = usable(select_split(manifest, config.data.train_split))
    config = replace(
        config,
        data=replace(config.data, num_workers=workers),
        trainer=replace(config.trainer, accelerator="cpu"),  # no page-locked memory: nothing goes to a device
    )
    until_s = time.monotonic() + budget_s
    count, faults, ahead = 0, 0, max(1, workers)
    loader = ClipLoaders(config, rows, media).endless_loader(rows, batch_size)
    for batch in loader:
        count += 1
        faults += len(batch.errors)
        if count == ahead:
            first_s = time.monotonic()
        elif count > ahead and count % ahead == 0 and time.monotonic() > until_s:  # processes answer in rounds
            break
    rate = (count - ahead) * batch_size / (time.monotonic() - first_s)
    return DataSpeed(rate, rate, faults, count * batch_size, loader.process_bytes())


@dataclass(frozen=True)
class Flow:
    """How fast the parts of a run are, in clips a second."""

    loader: float
    training: float
    labelling: float
    share: float
    """Labelling's part of the clips that a run reads."""
    gpu: bool
    """Whether the model leaves the cores alone."""
    workers: int
    """Loader processes of one process of the run."""
    cores: int
    """For each process of the run."""

    @property
    def overlap(self) -> bool:
        """Whether data come while the model works; else both take turns on the same cores."""
        return self.gpu and self.workers > 0

    def model_s(self) -> float:
        """Seconds of the model for a clip, over a run."""
        return (1 - self.share) / self.training + self.share / self.labelling

    @property
    def rates(self) -> Rates:
        """What the seconds of epochs and labellings follow from."""
        return Rates(self.training, self.labelling, self.loader, self.overlap)

    def clip_s(self) -> float:
        """Seconds for a clip, over a run."""
        clip_s = self.rates.clip_s
        return (1 - self.share) * clip_s(self.training) + self.share * clip_s(self.labelling)

    def trained_clip_s(self) -> float:
        """Seconds for a clip that is trained on, with what goes into labels meanwhile."""
        return self.clip_s() / (1 - self.share)

    def waits(self) -> bool:
        """Whether the data take more of the time than the model."""
        return 1 / self.loader > self.model_s()

    @property
    def bottleneck(self) -> Literal["data", "model"]:
        """What holds the run back."""
        return "data" if self.waits() else "model"


def check_model(training: float, labelling: float, batch_size: int, device: str) -> Check:
    """Say how many clips a second the model takes, and the batch and device that it was timed on."""
    text = f"training {training:.1f}, labelling {labelling:.1f} clips/s, {batch_size} clips a batch, on {device}"
    return Check("speed", "model", "ok", text)


def check_flow(flow: Flow, data: DataSpeed) -> list[Check]:
    """Say how many clips a second the data give, and whether the data or the model holds a run back."""
    source = f"{flow.workers} loader processes" if flow.workers else "the training process (data.num_workers=0)"
    mark: Mark = "warning" if flow.waits() else "ok"
    share = max(0.0, 1 - flow.model_s() / flow.clip_s())
    if flow.waits():
        verdict = f"the data: {share:.0%} of a run's time is waiting for them"
    else:
        verdict = f"the model: the data take {share:.0%} of a run's time"
    checks = [
        Check("speed", "data, one process", "ok", f"{data.one:.1f} clips/s"),
        Check("speed", "data, as configured", mark, f"{flow.loader:.1f} clips/s from {source}"),
        Check("speed", "bottleneck", mark, verdict),
    ]
    if data.faults:
        text = f"{data.faults} of {data.clips} clips could not be decoded"
        advice = f"{command('scan')} names the files; docs/data.md the reasons"
        checks.append(Check("speed", "faults", "warning", text, advice))
    return checks


def make_flow(
    config: Config, data: DataSpeed, training: float, labelling: float, machine: Machine, num_passes: int
) -> Flow:
    """Put the measurements together.

    Args:
        config: of the run.
        data: of measure_data, taken while no other process of the run worked.
        training: clips a second of one device.
        labelling: the same without gradient.
        machine: its devices share the cores.
        num_passes: over the clips, to label them.
    """
    share = share_of_labels(config, num_passes)
    cores = max(1, machine.cores // machine.processes)
    loader = min(data.loader, data.one * cores) if machine.processes > 1 else data.loader
    return Flow(loader, training, labelling, share, machine.on_gpu, config.data.num_workers, cores)


def share_of_labels(config: Config, num_passes: int) -> float:
    """Part of the clips that a run reads which is read for labels, in so many passes."""
    return num_passes / (num_passes + config.trainer.all_epochs)


def faster_flows(
    flow: Flow,
    data: DataSpeed,
    trials: Mapping[str, float],
    models: Mapping[str, tuple[float, float]],
    kept_share: float | None = None,
) -> dict[str, Flow]:
    """What the run would be like with more loader processes, fewer passes, and with what was tried.

    Args:
        flow: as it is.
        data: of measure_data.
        trials: change -> clips a second of one process; as many work as now, as well together as now.
        models: change -> clips a second of training and of labelling.
        kept_share: labelling's part of the clips with labelling.features=kept; None where that is no change.
    """
    flows = {change: replace(flow, loader=flow.loader * rate / data.one) for change, rate in trials.items()}
    flows |= {change: replace(flow, training=one, labelling=two) for change, (one, two) in models.items()}
    if kept_share is not None:
        flows["labelling.features=kept"] = replace(flow, share=kept_share)
    if flow.workers < flow.cores:
        of_one = flow.loader / flow.workers if flow.workers else data.one
        flows[f"data.num_workers={flow.cores}"] = replace(flow, loader=of_one * flow.cores, workers=flow.cores)
    return flows


def rank_advice(flow: Flow, changed: Mapping[str, Flow]) -> list[Advice]:
    """Changes that make a run at least 5 % faster, the best first."""
    advice = [
        Advice(change, flow.trained_clip_s() / new.trained_clip_s(), 1 / new.clip_s())
        for change, new in changed.items()
    ]
    return sorted((change for change in advice if change.gain >= 1.05), key=lambda change: -change.gain)
