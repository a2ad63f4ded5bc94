"""LightningDataModule: media folder -> scan -> loaders of training, labelling and evaluation clips."""

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytorch_lightning as pl

from datamodules.index.layout import describe_layout
from datamodules.index.manifest import (
    bad,
    describe_bad,
    judge,
    mark_broken_sound,
    mark_unusable,
    probed,
    select_split,
    usable,
)
from datamodules.index.moved import require_clips
from datamodules.index.scan import other_suffixes, require_media, scan
from datamodules.index.sources import apply_list, describe_list, read_list
from datamodules.index.triage import advise
from datamodules.loading.dataset import ClipDataset, ClipReader
from datamodules.loading.loader import Loader
from datamodules.loading.sampling import AllSampler, ChosenWindow, TrainSampler, WindowSampler
from datamodules.loading.shared_memory import require_shared_memory
from datamodules.stores.cache import DecodedCache, build_cache, estimate_gb, is_decoded
from datamodules.stores.shards import ShardReader, is_prepared, open_shards
from datamodules.synthetic import generate
from selavi.atomic import locked
from selavi.config import Config
from selavi.distributed import rank, world_size
from selavi.errors import DataError, UsageError
from selavi.modalities import MODALITIES, num_bytes, request_of

DEMO_CLIPS_PER_CLASS = {"train": 100, "test": 30}

log = logging.getLogger("selavi")

Media = DecodedCache | ShardReader | None
"""Where clips come from: decoded ahead, shards, or (None) the files themselves."""


class ClipDataModule(pl.LightningDataModule):
    """Loaders of ClipBatch over the clips of one manifest.

    Raises:
        UsageError: the batches of the loader processes do not fit into shared memory.
    """

    def __init__(self, config: Config, manifest: pa.Table, media: Media = None) -> None:
        super().__init__()
        self.config, self.manifest, self.media = config, manifest, media
        self.train_rows = usable(select_split(manifest, config.data.train_split))
        self._labelling: tuple[Loader, AllSampler] | None = None
        # Both loaders have batches in flight when a labelling comes in the middle of an epoch.
        self._require_shared_memory(config.optim.batch_size + config.labelling.batch_size)

    @property
    def cache(self) -> DecodedCache | None:
        """The recordings that were decoded ahead."""
        return self.media if isinstance(self.media, DecodedCache) else None

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the training clips, in the order of the label bank."""
        return list(self.train_rows["id"].to_pylist())

    @property
    def labels(self) -> list[str] | None:
        """Human labels of the training clips, for evaluation only; None unless every clip has one."""
        labels = self.train_rows["label"]
        return None if labels.null_count else labels.to_pylist()

    def steps_per_epoch(self, world_size: int) -> int:
        """Whole batches of an epoch, the same on every rank.

        Raises:
            UsageError: there are fewer clips than a step takes.
        """
        per_step = self.config.optim.batch_size * world_size
        if len(self.train_rows) < per_step:
            raise UsageError(
                f"a step takes {per_step} clips, but {self.config.data.root} has only "
                f"{len(self.train_rows)} usable training clips; lower optim.batch_size"
            )
        return len(self.train_rows) // per_step

    def train_dataloader(self) -> Loader:
        """Random views in random order, whole batches only, as many on every rank."""
        optim, seed = self.config.optim, self.config.seed
        reader = self._reader(self.train_rows)
        shards = _order(reader)
        num_mixed = self.config.data.shuffle_shards
        sampler = TrainSampler(len(self.train_rows), optim.batch_size, seed, rank(), world_size(), shards, num_mixed)
        return self._loader(ClipDataset(self.train_rows, self.config, reader), sampler, optim.batch_size)

    def labelling_loader(self, pass_number: int) -> Loader:
        """One random view of every training clip of this rank, in order; another view for each pass number."""
        if self._labelling is None:
            reader = self._reader(self.train_rows)
            sampler = AllSampler(len(self.train_rows), rank(), world_size(), "label", shards=_order(reader))
            dataset = ClipDataset(self.train_rows, self.config, reader)
            self._labelling = self._loader(dataset, sampler, self.config.labelling.batch_size), sampler
        loader, sampler = self._labelling
        sampler.set_epoch(pass_number)
        return loader

    def evaluation_loader(self, split: str, num_views: int = 1, num_crops: int = 1) -> tuple[Loader, pa.Table]:
        """Evenly spaced, unaugmented views of every clip of a split, a clip's views in a row; and the rows.

        With `num_crops` above 1 each window comes so many times, as squares from one end of the long side to the other.
        """
        rows = usable(select_split(self.manifest, split))
        reader = self._reader(rows)
        dataset = ClipDataset(rows, self.config, reader, num_views, num_crops)
        num_views *= num_crops
        sampler = AllSampler(len(rows), rank(), world_size(), "eval", num_views, _order(reader))
        batch_size = self.config.labelling.batch_size * num_views
        self._require_shared_memory(batch_size)
        return self._loader(dataset, sampler, batch_size), rows

    def window_loader(self, rows: pa.Table, windows: Sequence[Sequence[ChosenWindow]], batch_size: int) -> Loader:
        """Given windows of given rows of the manifest, unaugmented, those of a clip in a row."""
        dataset = ClipDataset(rows, self.config, self._reader(rows), windows=windows)
        self._require_shared_memory(batch_size)
        return self._loader(dataset, WindowSampler([len(each) for each in windows]), batch_size)

    def _reader(self, rows: pa.Table) -> ClipReader | None:
        if isinstance(self.media, ShardReader):
            return self.media.select(rows, request_of(self.config, self.config.modalities))
        return None if self.media is None else self.media.select(rows)

    def _loader(
        self, dataset: ClipDataset, sampler: TrainSampler | AllSampler | WindowSampler, batch_size: int
    ) -> Loader:
        return Loader(
            dataset,
            sampler,
            batch_size,
            clip_bytes=num_bytes(self.config),
            num_workers=self.config.data.num_workers,
            timeout_s=self.config.data.timeout_s,
            pin_memory=self.config.trainer.accelerator != "cpu",
        )

    def _require_shared_memory(self, batch_size: int) -> None:
        require_shared_memory(batch_size * num_bytes(self.config), self.config.data.num_workers)


def _order(reader: ClipReader | None) -> np.ndarray | None:
    """The shard of each clip where the order of reading should follow it."""
    return reader.shards if isinstance(reader, ShardReader) and reader.remote else None


def cached(config: Config, manifest: pa.Table) -> Media:
    """Where the clips of a finished run's manifest come from, nothing decoded twice.

    Raises:
        UsageError: the media are not there any more.
    """
    shards = _open_shards(config)
    if shards is not None:
        return shards
    if not is_decoded(probed(manifest), Path(config.data.cache_dir), *_decoded_as(config)):
        require_clips(config, manifest)
    return _decode_ahead(config, manifest)[0]


def opened(config: Config, manifest: pa.Table) -> Media:
    """As `cached`, for few clips: none is decoded ahead."""
    shards = _open_shards(config)
    if shards is None:
        require_clips(config, manifest)
    return shards


def _open_shards(config: Config) -> ShardReader | None:
    prepared = open_prepared(config)
    return None if prepared is None else prepared[1]


def prepare_data(config: Config) -> tuple[pa.Table, Media]:
    """Generate the demo set if it is asked for, then prepare_manifest; one process at a time, others find it done."""
    data = config.data
    if not data.demo and "://" not in data.root and not is_prepared(data.root):
        require_media(Path(data.root), data.allow_links)  # before the lock: a wrong path leaves nothing behind
    if data.list:
        read_list(data.list, data.source)  # before the scan, which may take hours
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
    prepared = open_prepared(config)
    if prepared is not None and data.layout != "auto":
        log.warning(f"data.layout={data.layout} changes nothing: {data.root} was prepared with its splits and labels")
    manifest, media = prepared or (_scan(config), None)
    manifest, told = apply_list(manifest, data.list, data.source)
    manifest = judge_for(config, manifest)
    check_bad_fraction(manifest, data.max_bad_fraction)
    if media is None:
        media, faults = _decode_ahead(config, manifest)
        if media is not None and media.sound_faults:
            manifest = judge_for(config, mark_broken_sound(manifest, media.sound_faults))
        manifest = mark_unusable(manifest, faults)
        check_bad_fraction(manifest, data.max_bad_fraction)
    others = "" if data.demo else other_suffixes(manifest)
    lines = (*describe_layout(manifest), others, told, describe_list(manifest))
    for line in (*lines, _describe_broken_sound(config, manifest)):
        if line:
            log.warning(line)

    found = probed(select_split(manifest, data.train_split))
    if "audio" in config.modalities and not pc.any(pc.equal(found["audio_state"], "ok")).as_py():
        raise UsageError(
            f"none of the {len(found)} training files in {data.root} has sound; "
            "train on the picture alone with modalities=[video]"
        )
    num_clips = len(usable(found))
    if num_clips < config.heads.num_clusters:
        raise UsageError(
            f"heads.num_clusters={config.heads.num_clusters}, but there are only {num_clips} usable "
            f"training clips in {data.root}; every cluster needs a clip: lower heads.num_clusters"
        )
    return manifest, media


def open_prepared(config: Config) -> tuple[pa.Table, ShardReader | None] | None:
    """The manifest and the reader (None: of files) of prepared clips; None where `data.root` is a folder of media."""
    data = config.data
    if not is_prepared(data.root) and "://" not in data.root:
        return None
    return open_shards(data.root, Path(data.cache_dir), data.shard_cache_gb)


def _scan(config: Config) -> pa.Table:
    data = config.data
    return scan(
        Path(data.root),
        Path(data.cache_dir),
        data.scan_workers,
        deadline_s=data.timeout_s,
        allow_links=data.allow_links,
        layout=data.layout,
    )


def judge_for(config: Config, manifest: pa.Table) -> pa.Table:
    """Turn facts into the statuses of this run; see datamodules.index.manifest.judge."""
    data = config.data
    return judge(manifest, clip_s=data.clip_s, audio_policy=data.audio_policy, modalities=config.modalities)


def _describe_broken_sound(config: Config, manifest: pa.Table) -> str:
    """Count the files that are used without their sound because it cannot be decoded; "" for none."""
    rows = usable(manifest)
    rows = rows.filter(pc.equal(rows["audio_state"], "broken"))
    if "audio" not in config.modalities or not len(rows):
        return ""
    return (
        f"{len(rows)} files are used without their sound, which cannot be decoded "
        f"(such as {rows['path'][0]}: {rows['audio_reason'][0]})"
    )


def _decode_ahead(config: Config, manifest: pa.Table) -> tuple[DecodedCache | None, dict[str, tuple[str, str]]]:
    """Decode every file that could be probed, where that fits; return also the ids that failed, (status, reason).

    Which of them a run uses does not matter: the same files are found decoded under any clip_s and audio_policy, and
    by a run's manifest that has the failures marked.
    """
    data, rows = config.data, probed(manifest)
    size, sample_rate = _decoded_as(config)
    needed_gb = estimate_gb(rows, size, sample_rate)
    if data.cache_gb and needed_gb <= data.cache_gb:
        return build_cache(rows, Path(data.cache_dir), size, sample_rate, data.scan_workers)
    if data.cache_gb:
        log.warning(
            f"decoded media would need {needed_gb:.1f} GB, data.cache_gb={data.cache_gb}: decoding each clip anew"
        )
    return None, {}


def _decoded_as(config: Config) -> tuple[int, int]:
    """Pixels and samples a second of media that are decoded ahead."""
    request = request_of(config, MODALITIES)
    return request.size, request.sample_rate


def check_bad_fraction(manifest: pa.Table, allowed: float) -> None:
    """Raise DataError, with a summary by reason, where too large a share of the files is unusable.

    Files that data.audio_policy leaves out are no fault.
    """
    broken = bad(manifest)
    if len(broken) > allowed * len(manifest):
        raise DataError(
            f"{len(broken)} of {len(manifest)} files cannot be used, data.max_bad_fraction={allowed} allows "
            f"{int(allowed * len(manifest))}: {describe_bad(broken)}. {advise(broken)} "
            "data.max_bad_fraction sets the limit"
        )
