from collections.abc import Callable, Iterator

import pytest
import torch

from datamodules.clips import ClipDataModule, prepare_data
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.loader import Loader
from datamodules.loading.sampling import AllSampler, ViewKey
from datamodules.loading.shared_memory import IN_USE, PREFETCH
from datamodules.loading.slots import Filled, Order, OrderedBatches, Slots
from datamodules.loading.workers import LoaderProcesses
from datamodules.stores.cache import DecodedCache
from selavi.batch import NUM_DRAWS, ClipBatch, DecodedClip
from selavi.config import Config
from selavi.modalities import num_bytes

Tiny = Callable[..., Config]
CLIP_BYTES = 3 * 5 * 5 * 3 + 2 * 7


class Numbered:
    """Clips of odd sizes, each filled with its row."""

    def __getitem__(self, key: ViewKey) -> DecodedClip:
        video = torch.full((3, 5, 5, 3), key.row, dtype=torch.uint8)
        audio = torch.full((7,), -1000 * key.row, dtype=torch.int16)
        error = "corrupt: no frame" if key.row == 4 else None
        inputs, present = {"video": video, "audio": audio}, {"video": error is None, "audio": True}
        return DecodedClip(key.row, inputs, present, torch.full((NUM_DRAWS,), 0.5), error)


def keys(*rows: int) -> list[ViewKey]:
    return [ViewKey(row, "label", 0) for row in rows]


def fill(slots: Slots, *batches: list[ViewKey]) -> Iterator[ClipBatch | Filled]:
    dataset = OrderedBatches([Numbered()], [slots])
    return (dataset.__getitems__(Order(batch, 0, slots.take())) for batch in batches)  # type: ignore[misc]


def assert_rows(batch: ClipBatch, *rows: int) -> None:
    assert batch.index.tolist() == list(rows)
    assert batch.inputs["video"].shape == (len(rows), 3, 5, 5, 3) and batch.inputs["audio"].shape == (len(rows), 7)
    for number, row in enumerate(rows):
        assert (batch.inputs["video"][number] == row).all()
        assert (batch.inputs["audio"][number] == -1000 * row).all()
    assert batch.present["video"].tolist() == [row != 4 for row in rows]
    assert batch.errors == [(4, "corrupt: no frame")] * (4 in rows)
    assert (batch.draws == 0.5).all() and batch.draws.shape == (len(rows), NUM_DRAWS)


def test_a_batch_lies_in_its_slot_until_its_last_tensor_is_gone() -> None:
    slots = Slots(1, 3 * CLIP_BYTES)
    (filled,) = fill(slots, keys(1, 4, 3))
    assert isinstance(filled, Filled) and not slots.free
    batch = filled.open()
    assert_rows(batch, 1, 4, 3)
    assert batch.inputs["audio"].data_ptr() == slots.memory.data_ptr()
    kept = batch.inputs["video"][2, 0]
    del batch
    assert not slots.free
    assert (kept == 3).all()
    del kept
    assert slots.free == [0]


def test_without_a_free_slot_a_batch_has_memory_of_its_own() -> None:
    slots = Slots(2, 2 * CLIP_BYTES)
    batches = [
        made.open() if isinstance(made, Filled) else made for made in fill(slots, keys(0, 1), keys(2), keys(5, 6))
    ]
    for batch, rows in zip(batches, ((0, 1), (2,), (5, 6)), strict=True):
        assert_rows(batch, *rows)


def test_a_pinned_batch_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    slots = Slots(1, 2 * CLIP_BYTES)
    (filled,) = fill(slots, keys(4, 2))
    assert isinstance(filled, Filled)
    batch = filled.pin_memory()
    assert slots.free == [0]
    assert_rows(batch, 4, 2)


@pytest.fixture
def loader(tiny: Tiny) -> Loader:
    """Two clips a batch, sixteen batches, two processes."""
    config = tiny()
    data = ClipDataModule(config, *prepare_data(config))
    assert isinstance(data.media, DecodedCache)
    dataset = ClipDataset(data.train_rows, config, data.media.select(data.train_rows))
    sampler = AllSampler(32, 0, 1, "label")
    clip_bytes = num_bytes(config)
    return Loader(
        dataset, sampler, 2, clip_bytes=clip_bytes, processes=LoaderProcesses(2, timeout_s=30, pin_memory=False)
    )


def test_a_pass_needs_no_more_slots_than_there_are(loader: Loader) -> None:
    low = []
    for batch in loader:
        (slots,) = loader.processes._book.slots
        begin, end = slots.memory.data_ptr(), slots.memory.data_ptr() + slots.memory.nbytes
        assert all(begin <= tensor.data_ptr() < end for tensor in batch.inputs.values())
        low.append(len(slots.free))
    assert len(slots.memory) == 2 * PREFETCH + IN_USE
    assert min(low) == 1  # what is worked on, and all that are on their way; the next has arrived when it is asked for
    del batch
    assert len(slots.free) == len(slots.memory)


def test_two_loaders_share_processes_in_the_middle_of_a_pass(tiny: Tiny) -> None:
    """As in a run, whose labellings come in the middle of an epoch: every clip is as it is without processes."""
    alone, shared = (ClipDataModule(config, *prepare_data(config)) for config in (tiny(), tiny("data.num_workers=2")))
    state = torch.get_rng_state()
    training, due = iter(shared.train_dataloader()), list(alone.train_dataloader())
    seen = [next(training)]
    labelling = list(shared.labelling_loader(3))
    processes = shared.train_dataloader().processes  # type: ignore[union-attr]
    assert processes is shared.labelling_loader(3).processes and len(processes._processes()) == 2  # type: ignore[union-attr]
    seen += training
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in ((seen, due), (labelling, list(alone.labelling_loader(3)))):
        assert len(ours) == len(theirs) > 1
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.index, other.index) and torch.equal(one.draws, other.draws)
            assert all(torch.equal(one.inputs[name], tensor) for name, tensor in other.inputs.items())


def test_batches_that_are_kept_stay_as_they_are(loader: Loader) -> None:
    for batch in loader:
        first = batch.inputs["video"].clone()
        break
    del batch
    kept = list(loader)  # more than there are slots; the pass before was left in the middle
    again = [batch.inputs["video"].clone() for batch in loader]
    assert len(kept) == 16
    assert torch.equal(kept[0].inputs["video"], first)
    assert all(torch.equal(batch.inputs["video"], other) for batch, other in zip(kept, again, strict=True))
