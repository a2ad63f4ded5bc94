"""LightningDataModule: media folder -> scan -> loaders of training, labelling and evaluation clips."""

import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.cache import DecodedCache, build_cache, estimate_gb
from datamodules.dataset import ClipDataset
from datamodules.manifest import describe_bad, mark_unusable, select_split, usable
from datamodules.sampling import AllSampler, TrainSampler
from datamodules.scan import require_media, scan
from datamodules.synthetic import generate
from selavi.atomic import locked
from selavi.batch import DecodedClip, collate
from selavi.config import Config
from selavi.distributed import rank, world_size
from selavi.errors import DataError, UsageError

DEMO_CLIPS_PER_CLASS = {"train": 100, "test": 30}

log = logging.getLogger("selavi")


class ClipDataModule(pl.LightningDataModule):
    """Loaders of ClipBatch over the clips of one manifest."""

    def __init__(self, config: Config, manifest: pa.Table, cache: DecodedCache | None = None) -> None:
        super().__init__()
        self.config, self.manifest, self.cache = config, manifest, cache
        self.train_rows = usable(select_split(manifest, config.data.train_split))
        self._labelling: tuple[DataLoader[DecodedClip], AllSampler] | None = None

    @property
    def ids(self) -> list[str]:
        """Ids of the training clips, in the order of the label bank."""
        return list(self.train_rows["id"].to_pylist())

    @property
    def labels(self) -> list[str] | None:
        """Human labels of the training clips, for evaluation only; None unless every clip has one."""
        labels = self.train_rows["label"].to_pylist()
        return None if None in labels else labels

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

    def train_dataloader(self) -> DataLoader[DecodedClip]:
        """Random views in random order, whole batches only, as many on every rank."""
        optim, seed = self.config.optim, self.config.seed
        sampler = TrainSampler(len(self.train_rows), optim.batch_size, seed, rank(), world_size())
        return self._loader(ClipDataset(self.train_rows, self.config, self.cache), sampler, optim.batch_size)

    def labelling_loader(self, pass_number: int) -> DataLoader[DecodedClip]:
        """One random view of every training clip of this rank, in order; another view for each pass number."""
        if self._labelling is None:
            sampler = AllSampler(len(self.train_rows), rank(), world_size(), "label")
            dataset = ClipDataset(self.train_rows, self.config, self.cache)
            self._labelling = self._loader(dataset, sampler, self.config.labelling.batch_size), sampler
        loader, sampler = self._labelling
        sampler.set_epoch(pass_number)
        return loader

    def evaluation_loader(self, split: str, num_views: int = 1) -> tuple[DataLoader[DecodedClip], pa.Table]:
        """Evenly spaced, unaugmented views of every clip of a split, a clip's views in a row; and the rows."""
        rows = usable(select_split(self.manifest, split))
        dataset = ClipDataset(rows, self.config, self.cache, num_views)
        sampler = AllSampler(len(rows), rank(), world_size(), "eval", num_views)
        return self._loader(dataset, sampler, self.config.labelling.batch_size * num_views), rows

    def _loader(self, dataset: ClipDataset, sampler: TrainSampler | AllSampler, batch_size: int) -> DataLoader:
        workers = self.config.data.num_workers
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=self.config.trainer.accelerator != "cpu",
            persistent_workers=workers > 0,
            multiprocessing_context="forkserver" if workers else None,  # forked FFmpeg may hang
        )


def cached(config: Config, manifest: pa.Table) -> DecodedCache | None:
    """The decoded recordings of a run's manifest, where they are wanted and fit."""
    rows = usable(manifest)
    size, sample_rate = config.video.decode_size, config.audio.sample_rate
    if estimate_gb(rows, size, sample_rate) > config.data.cache_gb:
        return None
    return build_cache(rows, Path(config.data.cache_dir), size, sample_rate, config.data.scan_workers)[0]


def prepare_data(config: Config) -> tuple[pa.Table, DecodedCache | None]:
    """Generate the demo set if it is asked for, then prepare_manifest; one process at a time, others find it done."""
    if not config.data.demo:
        require_media(Path(config.data.root))  # before the lock, so that a wrong path leaves nothing behind
    with locked(Path(config.data.cache_dir) / "lock"):
        if config.data.demo:
            workers = config.data.scan_workers or os.cpu_count() or 1
            generate(Path(config.data.root), clips_per_class=DEMO_CLIPS_PER_CLASS, workers=workers)
        return prepare_manifest(config)


def prepare_manifest(config: Config) -> tuple[pa.Table, DecodedCache | None]:
    """Scan `data.root`, refuse what cannot be trained on, and decode small sets ahead.

    Returns:
        The manifest with every file, usable or not, and the decoded recordings if they fit in data.cache_gb.

    Raises:
        UsageError: no folder, no file, no training clip, no sound in any of them though `audio` is asked for.
        DataError: more than data.max_bad_fraction of the files cannot be used.
    """
    data = config.data
    manifest = scan(Path(data.root), Path(data.cache_dir), data.scan_workers)
    durations = manifest["duration_s"].to_pylist()
    short = {
        clip_id: ("too_short", f"{duration:.2f} s, data.clip_s={data.clip_s}")
        for clip_id, duration, status in zip(
            manifest["id"].to_pylist(), durations, manifest["status"].to_pylist(), strict=True
        )
        if status == "ok" and duration < data.clip_s - 1e-3
    }
    manifest = mark_unusable(manifest, short)
    check_bad_fraction(manifest, data.max_bad_fraction)
    cache = None
    good = usable(manifest)
    size, sample_rate = config.video.decode_size, config.audio.sample_rate
    needed_gb = estimate_gb(good, size, sample_rate)
    if needed_gb <= data.cache_gb:
        cache, faults = build_cache(good, Path(data.cache_dir), size, sample_rate, data.scan_workers)
        manifest = mark_unusable(manifest, faults)
        check_bad_fraction(manifest, data.max_bad_fraction)
    elif data.cache_gb:
        log.warning(
            f"decoded media would need {needed_gb:.1f} GB, data.cache_gb={data.cache_gb}: decoding each clip anew"
        )

    rows = usable(select_split(manifest, data.train_split))
    if "audio" in config.modalities and "ok" not in rows["audio_state"].to_pylist():
        raise UsageError(
            f"none of the {len(rows)} training files in {data.root} has sound; "
            "train on the picture alone with modalities=[video]"
        )
    if len(rows) < config.heads.num_clusters:
        raise UsageError(
            f"heads.num_clusters={config.heads.num_clusters}, but there are only {len(rows)} usable "
            f"training clips in {data.root}; every cluster needs a clip: lower heads.num_clusters"
        )
    return manifest, cache


def check_bad_fraction(manifest: pa.Table, allowed: float) -> None:
    """Raise DataError, with a summary by reason, where too large a share of the files is unusable."""
    bad = manifest.filter(np.array([status != "ok" for status in manifest["status"].to_pylist()], dtype=bool))
    if len(bad) > allowed * len(manifest):
        raise DataError(
            f"{len(bad)} of {len(manifest)} files cannot be used, data.max_bad_fraction={allowed} allows "
            f"{int(allowed * len(manifest))}: {describe_bad(bad)}. Repair or remove them, or raise the limit"
        )
