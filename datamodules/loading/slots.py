"""Batches from loader processes through shared memory that is used again and again.

New shared memory for each batch has to be got from the kernel page by page, in the process that writes it and again in
the one that reads it, which takes many times as long as copying the clips.  Here a Loader has a few slots, each as
large as a batch.  With its keys a loader process is told which slot to fill; what it sends back is small.  A slot is
free again when nothing refers to its tensors any more, so a batch that is kept stays as it is; where no slot is free, a
batch goes the usual way of torch.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from datamodules.loading.mapped import by_pieces, from_pieces
from datamodules.loading.sampling import ViewKey
from selavi.batch import ClipBatch, DecodedClip, collate, lay_out

_PAGE = 4096


@dataclass(frozen=True)
class Order:
    """What a loader process shall make."""

    keys: Sequence[ViewKey]
    """Without any there is nothing to make."""
    source: int
    """Number of the dataset."""
    slot: int | None
    """Where to put it; None: in memory of its own."""


@dataclass(frozen=True)
class Filled:
    """A ClipBatch that a loader process has made, its inputs in a slot; nothing else of it needs shared memory."""

    pool: int
    slot: int
    inputs: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    index: np.ndarray
    present: dict[str, np.ndarray]
    draws: np.ndarray
    errors: list[tuple[int, str]]

    def open(self) -> ClipBatch:
        """The batch, in the process that has the slots."""
        return _POOLS[self.pool].open(self)

    def pin_memory(self) -> ClipBatch:
        """Copy the batch to memory from which a GPU reads faster, and give back the slot; torch's thread calls this."""
        return self.open().pin_memory()


class Slots:
    """Shared memory for batches, in the process that asks for them.

    Args:
        count: slots.
        batch_bytes: of the inputs of a batch at the most.
    """

    def __init__(self, count: int, batch_bytes: int) -> None:
        self.memory = torch.empty(count, -(-batch_bytes // _PAGE) * _PAGE, dtype=torch.uint8).share_memory_()
        self.free = list(range(count))
        self.in_flight: set[int] = set()
        _POOLS[id(self)] = self

    def take(self) -> int | None:
        """A slot for a batch; None where none is free."""
        if not self.free:
            return None
        slot = self.free.pop()
        self.in_flight.add(slot)
        return slot

    def give_back(self, slot: int | None) -> None:
        """A slot whose batch was not made; nothing happens where it has arrived, or there was none."""
        if slot in self.in_flight:
            self.in_flight.remove(slot)
            self.free.append(slot)

    def open(self, filled: Filled) -> ClipBatch:
        """Tensors that lie in a slot, which is free again when the last of them is gone."""
        array = self.memory[filled.slot].numpy()
        weakref.finalize(array, self.free.append, filled.slot).atexit = False
        self.in_flight.discard(filled.slot)
        inputs = lay_out(filled.inputs, torch.from_numpy(array))
        present = {name: torch.from_numpy(values) for name, values in filled.present.items()}
        index, draws = torch.from_numpy(filled.index), torch.from_numpy(filled.draws)
        return ClipBatch(index, inputs, present, draws, filled.errors)


def opened(batch: "ClipBatch | Filled") -> ClipBatch:
    """A batch that has arrived; one that nobody keeps frees its slot."""
    return batch.open() if isinstance(batch, Filled) else batch


_POOLS: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()


class ClipSource(Protocol):
    """What gives a clip for each key."""

    def __getitem__(self, key: ViewKey) -> DecodedClip: ...


class OrderedBatches:
    """Datasets as a loader process has them, with the slots of each."""

    def __init__(self, datasets: Sequence[ClipSource], slots: Sequence[Slots]) -> None:
        self.datasets = datasets
        self.pools, self.memories = [id(pool) for pool in slots], [pool.memory for pool in slots]

    def __getstate__(self) -> dict[str, Any]:
        stream, pieces = by_pieces(self.datasets)
        return {"datasets": stream, "pieces": pieces, "pools": self.pools, "memories": self.memories}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.datasets = from_pieces(state["datasets"], state["pieces"])
        self.pools, self.memories = state["pools"], state["memories"]

    def __getitems__(self, order: Order) -> ClipBatch | Filled | None:
        """Make a batch; torch calls this."""
        if not order.keys:
            return None
        dataset = self.datasets[order.source]
        clips = (dataset[key] for key in order.keys)
        if order.slot is None:
            return collate(clips, len(order.keys))
        batch = collate(clips, len(order.keys), self.memories[order.source][order.slot])
        inputs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.inputs.items()}
        present = {name: values.numpy() for name, values in batch.present.items()}
        index, draws = batch.index.numpy(), batch.draws.numpy()
        return Filled(self.pools[order.source], order.slot, inputs, index, present, draws, batch.errors)
