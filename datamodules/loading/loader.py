"""Batches of a pass over clips."""

from collections.abc import Iterator, Sized
from itertools import islice
from typing import cast

from torch.utils.data import Sampler

from datamodules.loading.sampling import ViewKey
from datamodules.loading.workers import LoaderProcesses, ReadSource
from selavi.batch import ClipBatch


class Loader:
    """Passes over a dataset in batches, as a DataLoader gives them, that outlive the processes which make them.

    Attributes:
        begin_at: batches of the next pass that are left out, because an interrupted run has seen them; 0 afterwards.

    Args:
        dataset: its reader is replaced by a WatchedReader.
        sampler: keys of a pass, in order; Lightning calls its set_epoch.
        batch_size: clips a batch.
        clip_bytes: of the inputs of a clip; see selavi.modalities.num_bytes.
        processes: make the batches; other loaders of the same rows may have them, too.
        block: no batch crosses a multiple of this number of rows; 0: every batch but the last is full.
    """

    def __init__(
        self,
        dataset: ReadSource,
        sampler: Sampler[ViewKey],
        batch_size: int,
        *,
        clip_bytes: int,
        processes: LoaderProcesses,
        block: int = 0,
    ) -> None:
        self.dataset, self.sampler, self.processes = dataset, sampler, processes
        self.batches = BatchSampler(sampler, batch_size, block)
        self.begin_at = 0
        self._source = processes.add(dataset, batch_size * clip_bytes)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yield the batches of a pass; one that was begun before ends.

        Raises:
            RuntimeError: see LoaderProcesses.batches.
        """
        begin_at, self.begin_at = self.begin_at, 0
        yield from self.processes.batches(self._source, islice(self.batches, begin_at, None), begin_at)

    def process_bytes(self) -> int:
        """Most memory of its own that one of the loader processes has had; 0: there is none."""
        return self.processes.process_bytes()


class BatchSampler(Sampler[list[ViewKey]]):
    """Batches of a sampler's keys; see Loader."""

    def __init__(self, sampler: Sampler[ViewKey], batch_size: int, block: int) -> None:
        self.sampler, self.batch_size, self.block = sampler, batch_size, block

    def __iter__(self) -> Iterator[list[ViewKey]]:
        batch: list[ViewKey] = []
        for key in self.sampler:
            crosses = batch and self.block and key.row // self.block != batch[0].row // self.block
            if crosses or len(batch) == self.batch_size:
                yield batch
                batch = []
            batch.append(key)
        if batch:
            yield batch

    def __len__(self) -> int:
        if self.block:
            return sum(1 for _ in self)
        return -(-len(cast(Sized, self.sampler)) // self.batch_size)
