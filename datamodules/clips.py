"""LightningDataModule of the training clips, and what comes before it: media folder -> scan -> judged manifest."""

import logging
import os
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytorch_lightning as pl
import torch

from datamodules.index.cut import cut_for
from datamodules.index.doubles import describe_doubles, find_doubles, without_doubles
from datamodules.index.layout import describe_layout
from datamodules.index.manifest import (
    bad,
    describe_bad,
    describe_missing,
    judge,
    mark_broken_sound,
    mark_unusable,
    probed,
    select_split,
    usable,
)
from datamodules.index.scan import other_suffixes, require_media, scan
from datamodules.index.sources import apply_list, describe_list, read_list
from datamodules.index.suffixes import suffixes_of
from datamodules.index.triage import advise
from datamodules.index.vectors import list_vectors
from datamodules.loading.mapped import in_file
from datamodules.loading.sampling import AllSampler
from datamodules.loading.shared_memory import processes_here, require_shared_memory
from datamodules.loading.views import Batches, ClipLoaders
from datamodules.stores.opening import Media, decode_ahead, open_prepared
from datamodules.stores.shards import is_prepared
from datamodules.stores.vectors import describe_files, fill_in_dims, open_files
from datamodules.synthetic import generate
from selavi.arrays import Vectors
from selavi.atomic import locked
from selavi.config import Config
from selavi.errors import DataError, UsageError
from selavi.filesystem import PASSING, why_gone
from selavi.ids import ClipIds
from selavi.modalities import clip_seconds, num_bytes, reads_media, reads_sound, reads_stills, source_of
from selavi.runs.manifest import media_root

DEMO_CLIPS_PER_CLASS = {"train": 100, "test": 30}

log = logging.getLogger("selavi")


class ClipDataModule(pl.LightningDataModule):
    """The training clips of a manifest as Lightning and the labeller ask for them.

    Raises:
        UsageError: the batches of the loader processes do not fit into shared memory.
    """

    def __init__(self, config: Config, manifest: pa.Table, media: Media = None) -> None:
        super().__init__()
        self.config, self.media = config, media
        self.manifest = self._mapped(manifest)
        self.loaders = ClipLoaders(config, self.manifest, media)
        self.train_rows = self._mapped(usable(select_split(self.manifest, config.data.train_split)))
        if reads_media(config):
            require_room_for_batches(config)

    def _mapped(self, rows: pa.Table) -> pa.Table:
        """Rows in a file that all ranks of a machine and their loader processes map; as they are where they are few."""
        return in_file(rows.combine_chunks(), Path(self.config.data.cache_dir))

    @cached_property
    def ids(self) -> ClipIds:
        """Ids of the training clips, in the order of the label bank."""
        return ClipIds(self.train_rows["id"])

    @property
    def labels(self) -> pa.ChunkedArray | None:
        """(N,) human labels of the training clips, for evaluation only; None unless every clip has one."""
        labels = self.train_rows["label"]
        return None if labels.null_count else labels

    def steps_per_epoch(self, world_size: int) -> int:
        """Whole batches of an epoch, the same on every rank.

        Raises:
            UsageError: a step takes more clips than there are.
        """
        return steps_per_epoch(self.config, len(self.train_rows), world_size)

    @cached_property
    def _both(self) -> tuple[Batches, Batches, AllSampler]:
        """For training and for labelling, which never read at the same time: they share loader processes."""
        processes = self.loaders.processes()
        training = self.loaders.training_loader(self.train_rows, processes)
        return training, *self.loaders.labelling_loader(self.train_rows, processes)

    def train_dataloader(self) -> Batches:
        """Random views in random order, whole batches only, as many on every rank."""
        return self._both[0]

    def labelling_loader(self, pass_number: int) -> Batches:
        """One random view of every training clip of this rank, in order; another view for each pass number."""
        _, loader, sampler = self._both
        sampler.set_epoch(pass_number)
        return loader


def steps_per_epoch(config: Config, num_clips: int, world_size: int) -> int:
    """Whole batches of an epoch over so many clips, the same on every rank.

    Raises:
        UsageError: a step takes more clips than there are.
    """
    per_step = config.optim.batch_size * world_size
    if num_clips < per_step:
        raise UsageError(
            f"a step takes {per_step} clips, but {source_of(config)} has only "
            f"{num_clips} usable training clips; lower optim.batch_size"
        )
    return num_clips // per_step


def require_room_for_batches(config: Config) -> None:
    """Check that shared memory holds what the loaders of a run have there.

    Raises:
        UsageError: it does not.
    """
    num_gpus = 0 if config.trainer.accelerator == "cpu" else torch.cuda.device_count()
    processes = processes_here(config.trainer, num_gpus)
    require_shared_memory(bytes_of_batches(config), config.data.num_workers, processes=processes)


def bytes_of_batches(config: Config) -> int:
    """Bytes of a batch of each loader: those of an epoch wait while a labelling comes in the middle of it."""
    return (config.optim.batch_size + config.labelling.batch_size) * num_bytes(config)


def require_source(config: Config) -> None:
    """Check, before anything is written or takes long, that there are media and that the list can be read.

    Raises:
        UsageError: there are none, or it cannot.
    """
    data = config.data
    if reads_media(config) and not data.demo and "://" not in data.root and not is_prepared(data.root):
        require_media(Path(data.root), data.allow_links, reads_stills(config))
    if data.list:
        read_list(data.list, data.source)


def prepare_data(config: Config) -> tuple[pa.Table, Media]:
    """Generate the demo set if it is asked for, then prepare_manifest; one process at a time, others find it done."""
    data = config.data
    require_source(config)
    if not reads_media(config):
        return prepare_manifest(config)
    with locked(Path(data.cache_dir) / "lock"):
        if data.demo:
            workers = data.scan_workers or os.cpu_count() or 1
            generate(Path(data.root), clips_per_class=DEMO_CLIPS_PER_CLASS, workers=workers)
        return prepare_manifest(config)


def prepare_manifest(config: Config) -> tuple[pa.Table, Media]:
    """Scan `data.root` or open its shards, join the list, refuse what cannot be trained on, decode small sets ahead.

    Returns:
        The manifest with every file, usable or not, and where its clips come from.

    Raises:
        UsageError: no folder, no file, no training clip, no sound in any of them though `audio` is asked for.
        DataError: more than data.max_bad_fraction of the files cannot be used.
    """
    data = config.data
    media: Media
    opened = open_files(config)
    fill_in_dims(config, opened)
    if not reads_media(config):
        return _prepare_vectors(config, opened), None
    prepared = open_prepared(config)
    if prepared is not None:
        for setting, value, usual, what in (
            ("layout", data.layout, "auto", "with its splits and labels"),
            ("cut", data.cut, "whole", "as the clips that it holds"),
            ("doubles", data.doubles, "keep", "as the clips that it holds"),
        ):
            if value != usual:
                log.warning(f"data.{setting}={value} changes nothing: {data.root} was prepared {what}")
    manifest, media = prepared or (_scan(config), None)
    manifest, list_warning = apply_list(manifest, data.list, data.source)
    manifest = judge_for(config, manifest)
    check_bad_fraction(manifest, data.max_bad_fraction)
    if data.doubles == "first" and prepared is None:
        manifest = _without_doubles(config, manifest)
    if data.cut != "whole" and prepared is None:
        manifest = judge_for(config, cut_for(config, manifest))
    if media is None:
        media, faults = decode_ahead(config, manifest)
        if media is not None and media.sound_faults:
            manifest = judge_for(config, mark_broken_sound(manifest, media.sound_faults))
        manifest = mark_unusable(manifest, faults)
        check_bad_fraction(manifest, data.max_bad_fraction)
    others = "" if data.demo else other_suffixes(manifest, suffixes_of(reads_stills(config)))
    files = describe_files(opened, usable(manifest))
    warnings = (*describe_layout(manifest), others, list_warning, describe_list(manifest), *files)
    missing = describe_missing(manifest, data.audio_policy, config.kinds)
    for warning in (*warnings, missing, _describe_broken_sound(config, manifest)):
        if warning:
            log.warning(warning)

    rows = probed(select_split(manifest, data.train_split))
    require_trainable(config, rows, len(usable(rows)))
    return manifest, media


def _without_doubles(config: Config, manifest: pa.Table) -> pa.Table:
    """The manifest with the first of several equal files alone, which a warning tells of."""
    data = config.data
    doubles = find_doubles(manifest, Path(data.cache_dir), near=data.near_doubles, workers=data.scan_workers)
    if description := describe_doubles(manifest, doubles):
        log.warning(f"{description}; of each the first is used")
    return without_doubles(manifest, doubles)


def require_trainable(config: Config, rows: pa.Table, num_clips: int) -> None:
    """Check that clips have what the modalities need, and that they are enough for the clusters.

    Args:
        config: of the run.
        rows: of the training split that could be probed, all or some of them.
        num_clips: usable ones of all of them.

    Raises:
        UsageError: none has sound though that is asked for, or there are more clusters than clips.
    """
    data = config.data
    if reads_sound(config, config.kinds) and not pc.any(pc.equal(rows["audio_state"], "ok")).as_py():
        raise UsageError(
            f"none of the {len(rows)} training files in {data.root} has sound; "
            "train on the picture alone with modalities=[video]"
        )
    if num_clips < config.heads.num_clusters:
        raise UsageError(
            f"heads.num_clusters={config.heads.num_clusters}, but there are only {num_clips} usable "
            f"training clips in {source_of(config)}; every cluster needs a clip: lower heads.num_clusters"
            + _advise_cutting(config, rows)
        )


def _advise_cutting(config: Config, rows: pa.Table) -> str:
    """How many clips there would be if recordings were cut; "" where that would not be enough."""
    cut_s = config.data.cut_s
    if config.data.cut != "whole" or not reads_media(config) or is_prepared(config.data.root):
        return ""
    num_pieces = int((usable(rows)["duration_s"].to_numpy() // cut_s).clip(1).sum())
    if num_pieces < config.heads.num_clusters:
        return ""
    return f", or cut the recordings: data.cut=every makes about {num_pieces:,} clips of {cut_s:g} s of them"


def _prepare_vectors(config: Config, opened: dict[str, Vectors]) -> pa.Table:
    """The manifest of a run that reads nothing but vectors: see prepare_manifest."""
    data = config.data
    manifest, list_warning = apply_list(list_vectors(opened, data.layout), data.list, data.source)
    warnings = (*describe_layout(manifest), list_warning, describe_list(manifest))
    for warning in (*warnings, *describe_files(opened, manifest)):
        if warning:
            log.warning(warning)
    rows = select_split(manifest, data.train_split)
    require_trainable(config, rows, len(rows))
    return manifest


def _scan(config: Config) -> pa.Table:
    data = config.data
    return scan(
        Path(data.root),
        Path(data.cache_dir),
        data.scan_workers,
        deadline_s=data.timeout_s,
        allow_links=data.allow_links,
        layout=data.layout,
        pictures=reads_stills(config),
    )


def judge_for(config: Config, manifest: pa.Table) -> pa.Table:
    """Turn facts into the statuses of this run; see datamodules.index.manifest.judge."""
    data = config.data
    return judge(
        manifest, clip_s=clip_seconds(config), audio_policy=data.audio_policy, modalities=config.kinds.values()
    )


def _describe_broken_sound(config: Config, manifest: pa.Table) -> str:
    """Count the files that are used without their sound because it cannot be decoded; "" for none."""
    rows = usable(manifest)
    rows = rows.filter(pc.equal(rows["audio_state"], "broken"))
    if not reads_sound(config, config.kinds) or not len(rows):
        return ""
    return (
        f"{len(rows)} files are used without their sound, which cannot be decoded "
        f"(such as {rows['path'][0]}: {rows['audio_reason'][0]})"
    )


def check_bad_fraction(manifest: pa.Table, allowed: float) -> None:
    """Raise DataError, with a summary by reason, where too large a share of the files is unusable.

    Files that data.audio_policy leaves out are no fault.
    """
    broken = bad(manifest)
    if len(broken) > allowed * len(manifest):
        raise DataError(
            f"{len(broken)} of {len(manifest)} files cannot be used, data.max_bad_fraction={allowed} allows "
            f"{int(allowed * len(manifest))}: {describe_bad(broken)}. {advise(broken)} "
            f"data.max_bad_fraction sets the limit{_describe_gone(broken)}"
        )


def _describe_gone(broken: pa.Table) -> str:
    """What to do where files are unusable because their folder has gone; empty where it is there."""
    root = media_root(broken)
    reason = why_gone(root) if pc.any(pc.is_in(broken["status"], pa.array(PASSING))).as_py() else ""
    if not reason:
        return ""
    return f". The media folder {root} is gone ({reason}): bring it back; the same command reads these files again"
