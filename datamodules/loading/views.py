"""Loaders of views: rows of a manifest, where their clips come from, and which views of them are asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.index.manifest import select_split, usable
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.loader import Loader
from datamodules.loading.mapped import in_file
from datamodules.loading.sampling import AllSampler, ChosenWindow, Endless, TrainSampler, WindowSampler
from datamodules.loading.shared_memory import require_shared_memory
from datamodules.loading.vector_loader import VectorLoader
from datamodules.loading.workers import LoaderProcesses
from datamodules.stores.neighbours import NeighbourReader, has_pieces
from datamodules.stores.opening import Media
from datamodules.stores.reader import ClipReader
from datamodules.stores.shards import ShardReader
from datamodules.stores.vectors import open_files
from selavi.arrays import Selected
from selavi.config import Config
from selavi.distributed import rank, world_size
from selavi.modalities import num_bytes, reads_media, request_of

Batches = Loader | VectorLoader
"""Gives the batches of a pass."""


class ClipLoaders:
    """Loaders of ClipBatch over rows of one manifest.

    Args:
        config: settings of the run.
        manifest: its rows, usable or not.
        media: where their clips come from.
    """

    def __init__(self, config: Config, manifest: pa.Table, media: Media = None) -> None:
        self.config, self.manifest, self.media = config, manifest, media
        self.files = open_files(config)

    def processes(self) -> LoaderProcesses:
        """Loader processes, for one loader or several of the same rows."""
        data, pin_memory = self.config.data, self.config.trainer.accelerator != "cpu"
        return LoaderProcesses(data.num_workers, timeout_s=data.timeout_s, pin_memory=pin_memory)

    def training_loader(self, rows: pa.Table, processes: LoaderProcesses | None = None) -> Batches:
        """Random views in random order, whole batches only, as many on every rank.

        Args:
            rows: of the manifest, usable.
            processes: make the batches; None: the loader has some of its own.
        """
        batch_size = self.config.optim.batch_size
        reader = self._reader(rows)
        sampler = self._train_sampler(rows, reader, batch_size)
        return self._loader(self._dataset(rows, reader), sampler, batch_size, processes=processes)

    def endless_loader(self, rows: pa.Table, batch_size: int) -> Batches:
        """As training_loader, epoch after epoch without an end or a pause: for measuring.

        Raises:
            UsageError: the batches of the loader processes do not fit into shared memory.
        """
        self._require_shared_memory(batch_size)
        reader = self._reader(rows)
        sampler = Endless(self._train_sampler(rows, reader, 1))
        return self._loader(self._dataset(rows, reader), sampler, batch_size)

    def labelling_loader(self, rows: pa.Table, processes: LoaderProcesses | None = None) -> tuple[Batches, AllSampler]:
        """One random view of every row of this rank, in order, and the sampler, which is told the number of the pass.

        Another view comes for each number.

        Args:
            rows: of the manifest, usable.
            processes: make the batches; None: the loader has some of its own.
        """
        reader = self._pass_reader(rows)
        sampler = AllSampler(len(rows), rank(), world_size(), "label", shards=_order(reader))
        dataset = self._dataset(rows, reader)
        return self._loader(dataset, sampler, self.config.labelling.batch_size, processes=processes), sampler

    def evaluation_loader(self, split: str, num_views: int = 1, num_crops: int = 1) -> tuple[Batches, pa.Table]:
        """The usable rows of a split, and their views as view_loader gives them."""
        rows = usable(select_split(self.manifest, split))
        return self.view_loader(rows, num_views, num_crops), rows

    def view_loader(self, rows: pa.Table, num_views: int = 1, num_crops: int = 1, *, block: int = 0) -> Batches:
        """Evenly spaced, unaugmented views of every row, a clip's views in a row.

        Args:
            rows: of the manifest, usable.
            num_views: windows of each clip.
            num_crops: squares of each window, from one end of the long side to the other.
            block: no batch crosses a multiple of this number of rows, and the blocks come in order; 0: every batch
                is full.

        Raises:
            UsageError: the batches of the loader processes do not fit into shared memory.
        """
        reader = self._pass_reader(rows)
        dataset = self._dataset(rows, reader, num_views, num_crops)
        num_views *= num_crops
        sampler = AllSampler(len(rows), rank(), world_size(), "eval", num_views, _order(reader), block)
        batch_size = self.config.labelling.batch_size * num_views
        self._require_shared_memory(batch_size)
        return self._loader(dataset, sampler, batch_size, block)

    def window_loader(self, rows: pa.Table, windows: Sequence[Sequence[ChosenWindow]], batch_size: int) -> Batches:
        """Given windows of given rows, unaugmented, those of a clip in a row.

        Raises:
            UsageError: the batches of the loader processes do not fit into shared memory.
        """
        dataset = ClipDataset(rows, self.config, self._pass_reader(rows), windows=windows, vectors=self._vectors(rows))
        self._require_shared_memory(batch_size)
        return self._loader(dataset, WindowSampler([len(of_row) for of_row in windows]), batch_size)

    def _train_sampler(self, rows: pa.Table, reader: ClipReader | None, batch_size: int) -> TrainSampler:
        num_mixed = self.config.data.shuffle_shards
        seed = self.config.seed
        return TrainSampler(len(rows), batch_size, seed, rank(), world_size(), _order(reader), num_mixed)

    def _dataset(
        self, rows: pa.Table, reader: ClipReader | None, num_views: int = 1, num_crops: int = 1
    ) -> ClipDataset:
        return ClipDataset(rows, self.config, reader, num_views, num_crops, vectors=self._vectors(rows))

    def _vectors(self, rows: pa.Table) -> dict[str, Selected]:
        return {name: opened.select(rows["id"]) for name, opened in self.files.items()}

    def _reader(self, rows: pa.Table) -> ClipReader | None:
        if isinstance(self.media, ShardReader):
            return self.media.select(rows, request_of(self.config, self.config.kinds))
        return None if self.media is None else self.media.select(rows)

    def _pass_reader(self, rows: pa.Table) -> ClipReader | None:
        """As _reader, for a pass in the order of the rows."""
        if self.media is None and has_pieces(rows):
            return NeighbourReader(rows, self.config.data.timeout_s)
        return self._reader(rows)

    def _loader(
        self,
        dataset: ClipDataset,
        sampler: TrainSampler | Endless | AllSampler | WindowSampler,
        batch_size: int,
        block: int = 0,
        processes: LoaderProcesses | None = None,
    ) -> Batches:
        if not reads_media(self.config):
            ids = dataset.columns["id"]
            return VectorLoader(ids, dataset.vectors, self.config.seed, sampler, batch_size, block)
        data = self.config.data
        return Loader(
            in_file(dataset, Path(data.cache_dir)) if data.num_workers else dataset,
            sampler,
            batch_size,
            clip_bytes=num_bytes(self.config),
            processes=processes or self.processes(),
            block=block,
        )

    def _require_shared_memory(self, batch_size: int) -> None:
        require_shared_memory(batch_size * num_bytes(self.config), self.config.data.num_workers)


def _order(reader: ClipReader | None) -> np.ndarray | None:
    """The shard of each clip, or the number of its neighbours, where the order of reading should follow it."""
    if isinstance(reader, NeighbourReader):
        return reader.groups
    return reader.shards if isinstance(reader, ShardReader) and reader.remote else None
