"""Batches of clips that are nothing but vectors: whole blocks of rows at once, in this process."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Sampler

from datamodules.loading.loader import BatchSampler
from datamodules.loading.sampling import WHICH_ROW, AllSampler, ViewKey
from selavi.arrays import Selected
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.randomness import uniforms


class VectorLoader:
    """A pass over clips in batches, as Loader gives them.

    A view has the numbers that ClipDataset would give it, so a run is the same with or without other modalities.

    Attributes:
        begin_at: batches of the next pass that are left out, because an interrupted run has seen them; 0 afterwards.

    Args:
        ids: (N,) of the clips.
        vectors: of the clips, for each modality.
        seed: of the run.
        sampler: keys of a pass, in order.
        batch_size: clips a batch.
        block: no batch crosses a multiple of this number of rows; 0: every batch but the last is full.
        absent: modalities that shall not count, and how many numbers their vectors have.
    """

    def __init__(
        self,
        ids: pa.Array,
        vectors: Mapping[str, Selected],
        seed: int,
        sampler: Sampler[ViewKey],
        batch_size: int,
        block: int = 0,
        absent: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.ids, self.vectors, self.seed, self.absent = ids, vectors, seed, absent
        self.sampler = sampler
        self.batches = BatchSampler(sampler, batch_size, block)
        self.begin_at = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ClipBatch]:
        begin_at, self.begin_at = self.begin_at, 0
        return (self._read(keys) for keys in islice(self.batches, begin_at, None))

    def all_rows(self) -> torch.Tensor:
        """Rows of the clips of a pass, in its order, (n,) int64."""
        if isinstance(self.sampler, AllSampler):
            return torch.from_numpy(self.sampler.indices)
        return torch.tensor([key.row for key in self.sampler])

    def present(self) -> dict[str, torch.Tensor]:
        """Which clips of a pass have a vector, in its order, (n,) bool a modality."""
        rows = self.all_rows().numpy()
        return {name: torch.from_numpy(vectors.present[rows]) for name, vectors in self.vectors.items()}

    def read_rows(self, rows: torch.Tensor, draws: torch.Tensor | None = None) -> ClipBatch:
        """Any clips, (b,) by their rows, as the pass gives them, or with other numbers, (b, NUM_DRAWS)."""
        key = next(iter(self.sampler))
        return self._read([key._replace(row=row) for row in rows.tolist()], None if draws is None else draws.numpy())

    def process_bytes(self) -> int:
        """Memory of loader processes: there are none."""
        return 0

    def _read(self, keys: Sequence[ViewKey], draws: np.ndarray | None = None) -> ClipBatch:
        rows = np.array([key.row for key in keys])
        draws = self._draws(keys, rows) if draws is None else draws
        inputs, present = {}, {}
        for name, vectors in self.vectors.items():
            view = draws[:, WHICH_ROW] if draws is not None else np.array([key.epoch for key in keys])
            values, has_vector = vectors.read(rows, view)
            inputs[name], present[name] = torch.from_numpy(values), torch.from_numpy(has_vector)
        for name, num_dims in self.absent.items():
            inputs[name], present[name] = torch.zeros(len(keys), num_dims), torch.zeros(len(keys), dtype=torch.bool)
        plain = torch.full((len(keys), NUM_DRAWS), 0.5)
        numbers = plain if draws is None else torch.from_numpy(draws.astype(np.float32))
        return ClipBatch(torch.from_numpy(rows), inputs, present, numbers, [])

    def _draws(self, keys: Sequence[ViewKey], rows: np.ndarray) -> np.ndarray | None:
        """The numbers of random views, (B, NUM_DRAWS); None where nothing is random."""
        key = keys[0]
        if key.stream in ("eval", "window"):
            return None
        ids = self.ids.take(pa.array(rows)).to_pylist()
        return uniforms(self.seed, key.stream, key.epoch, ids, 2 + NUM_DRAWS)[:, 2:]
