"""Batches from loader processes through shared memory that is used again and again.

New shared memory for each batch has to be got from the kernel page by page, in the process that writes it and again in
the one that reads it, which takes many times as long as copying the clips.  Here a Loader has a few slots, each as
large as a batch.  With its keys a loader process is told which slot to fill; what it sends back is small.  A slot is
free again when nothing refers to its tensors any more, so a batch that is kept stays as it is; where no slot is free, a
batch goes the usual way of torch.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Sampler

from datamodules.loading.mapped import by_pieces, from_pieces
from datamodules.loading.sampling import ViewKey
from selavi.batch import ClipBatch, DecodedClip, collate, lay_out

_PAGE = 4096


@dataclass(frozen=True)
class Order:
    """What a loader process shall make."""

    keys: Sequence[ViewKey]
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

    def orders(self, batches: Iterable[Sequence[ViewKey]]) -> Iterator[Order]:
        """Give each batch of a pass a slot as far as there are any; no batch of an earlier pass is on its way then."""
        self.free += self.in_flight  # of a pass that was left in the middle
        self.in_flight.clear()
        for keys in batches:
            slot = self.free.pop() if self.free else None
            if slot is not None:
                self.in_flight.add(slot)
            yield Order(keys, slot)

    def open(self, filled: Filled) -> ClipBatch:
        """Tensors that lie in a slot, which is free again when the last of them is gone."""
        array = self.memory[filled.slot].numpy()
        weakref.finalize(array, self.free.append, filled.slot).atexit = False
        self.in_flight.discard(filled.slot)
        inputs = lay_out(filled.inputs, torch.from_numpy(array))
        present = {name: torch.from_numpy(values) for name, values in filled.present.items()}
        index, draws = torch.from_numpy(filled.index), torch.from_numpy(filled.draws)
        return ClipBatch(index, inputs, present, draws, filled.errors)


_POOLS: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()


class ClipSource(Protocol):
    """What gives a clip for each key."""

    def __getitem__(self, key: ViewKey) -> DecodedClip: ...


class OrderedBatches:
    """A dataset as a loader process has it, with the slots.

    Args:
        dataset: gives clips.
        slots: None: every batch has memory of its own.
    """

    def __init__(self, dataset: ClipSource, slots: Slots | None) -> None:
        self.dataset = dataset
        self.pool, self.memory = id(slots), slots.memory if slots is not None else None

    def __getstate__(self) -> dict[str, Any]:
        stream, pieces = by_pieces(self.dataset)
        return {"dataset": stream, "pieces": pieces, "pool": self.pool, "memory": self.memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.dataset = from_pieces(state["dataset"], state["pieces"])
        self.pool, self.memory = state["pool"], state["memory"]

    def __getitems__(self, order: Order) -> ClipBatch | Filled:
        """Make a batch; torch calls this."""
        clips = (self.dataset[key] for key in order.keys)
        if order.slot is None:
            return collate(clips, len(order.keys))
        assert self.memory is not None
        batch = collate(clips, len(order.keys), self.memory[order.slot])
        inputs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.inputs.items()}
        present = {name: values.numpy() for name, values in batch.present.items()}
        return Filled(self.pool, order.slot, inputs, batch.index.numpy(), present, batch.draws.numpy(), batch.errors)


class Orders(Sampler[Order]):
    """Orders of a pass for OrderedBatches."""

    def __init__(self, batches: Iterable[Sequence[ViewKey]], slots: Slots | None) -> None:
        self.batches, self.slots = batches, slots

    def __iter__(self) -> Iterator[Order]:
        if self.slots is None:
            return (Order(keys, None) for keys in self.batches)
        return self.slots.orders(self.batches)
