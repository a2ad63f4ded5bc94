"""Which clip of which recording, in which order: arithmetic on (seed, epoch, clip id), without a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from selavi.batch import NUM_DRAWS
from selavi.modalities import Window
from selavi.randomness import mix, uniforms

WHICH_ROW = 21
"""Place among a clip's numbers of that which says which of its vectors in a file is taken."""


class ViewKey(NamedTuple):
    """Asks the dataset for one view of one clip."""

    row: int
    """Row of the dataset: the clip's index in the label bank, in training."""
    stream: Literal["train", "label", "eval", "window"]
    epoch: int
    """Pass over the data; for the stream `eval` the number of the view, for `window` that of the window."""


class ChosenWindow(NamedTuple):
    """A window of a recording, and which modalities are read there."""

    start_s: float
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A window of a recording, and what else is random when it is looked at."""

    window: Window
    draws: np.ndarray = field(default_factory=lambda: np.full(NUM_DRAWS, 0.5))
    """(NUM_DRAWS,) numbers for the augmentation on the device; without them nothing is random."""


def random_view(seed: int, key: ViewKey, clip_id: str, duration_s: float, clip_s: float) -> View:
    """Draw a window uniformly: the same for the same (seed, stream, epoch, clip id)."""
    u = uniforms(seed, key.stream, key.epoch, [clip_id], 2 + NUM_DRAWS)[0]
    return View(Window(u[0] * max(0.0, duration_s - clip_s), clip_s, u[1]), u[2:])


def even_view(number: int, num_views: int, duration_s: float, clip_s: float, num_crops: int = 1) -> View:
    """One of `num_views` windows with `num_crops` squares each: the middle square, or from end to end.

    A recording of 0 seconds, a still picture, has one window: all its views are squares of that.
    """
    if duration_s == 0:
        num_views, num_crops = 1, num_views * num_crops
    window, crop = divmod(number, num_crops)
    start_s = clip_starts(duration_s, clip_s, num_views)[window]
    offset = crop / (num_crops - 1) if num_crops > 1 else 0.5
    return View(Window(start_s, clip_s, offset))


def clip_starts(duration_s: float, clip_s: float, num_clips: int) -> list[float]:
    """Evenly spaced start times in seconds; every [start, start + clip_s) stays inside; one clip is the middle one."""
    room_s = max(0.0, duration_s - clip_s)
    if num_clips == 1:
        return [room_s / 2]
    return [room_s * i / (num_clips - 1) for i in range(num_clips)]


class TrainSampler(Sampler[ViewKey]):
    """A new order each epoch, the same number of clips for every rank; what does not fill a batch waits.

    The order is a function of (seed, epoch) alone, so a run goes on at any clip of it, in any number of workers.

    Args:
        num_clips: N.
        batch_size: of one rank.
        seed: of the run.
        rank: of this process.
        world_size: number of ranks.
        shards: (N,) the shard of each clip, where shards are remote: each rank then walks through shards of its own,
            in random order, and reads each of them once an epoch.  None: the order is random over all clips.
        num_mixed: shards over which clips are shuffled on such a walk.
    """

    def __init__(
        self,
        num_clips: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        shards: np.ndarray | None = None,
        num_mixed: int = 16,
    ) -> None:
        self.num_clips, self.seed, self.rank, self.world_size = num_clips, seed, rank, world_size
        self.per_rank = num_clips // (batch_size * world_size) * batch_size
        self.shards, self.num_mixed = shards, num_mixed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[ViewKey]:
        rng = np.random.default_rng(mix(self.seed, "order", self.epoch))
        if self.shards is None:
            mine = rng.permutation(self.num_clips)[self.rank :: self.world_size][: self.per_rank]
        else:
            mine = self._walk(rng, self.shards)
        return (ViewKey(int(index), "train", self.epoch) for index in mine)

    def _walk(self, rng: np.random.Generator, shards: np.ndarray) -> np.ndarray:
        _, shards = np.unique(shards, return_inverse=True)
        num_shards = int(shards.max()) + 1
        order = np.lexsort((rng.random(self.num_clips), rng.permutation(num_shards)[shards]))
        mine = order[self.rank * self.per_rank : (self.rank + 1) * self.per_rank]
        # A clip is put off by up to num_mixed shards: shards then come and go one by one, not in blocks.
        clips_mixed = self.num_mixed * self.num_clips / num_shards
        return mine[np.argsort(np.arange(len(mine)) + rng.random(self.num_clips)[: len(mine)] * clips_mixed)]

    def __len__(self) -> int:
        return self.per_rank


class Endless(Sampler[ViewKey]):
    """Epoch after epoch of a TrainSampler, without an end."""

    def __init__(self, sampler: TrainSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[ViewKey]:
        for epoch in count():
            self.sampler.set_epoch(epoch)
            yield from self.sampler


class AllSampler(Sampler[ViewKey]):
    """Every clip once, each on one rank, none twice: `num_views` views of a clip in a row.

    With `shards`, (N,) the shard of each clip, they come shard by shard, and a rank shares at most its first and its
    last shard with others.  With `block`, the rows are cut into blocks of that
    length, and all clips of one block come before those of the next.
    """

    def __init__(
        self,
        num_clips: int,
        rank: int,
        world_size: int,
        stream: Literal["label", "eval"],
        num_views: int = 1,
        shards: np.ndarray | None = None,
        block: int = 0,
    ) -> None:
        if shards is None:
            self.indices = np.arange(rank, num_clips, world_size)
        else:
            order = np.lexsort((shards, np.arange(num_clips) // (block or num_clips or 1)))
            self.indices = np.array_split(order, world_size)[rank]
        self.stream, self.num_views = stream, num_views
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Number the pass over the data: another number gives other augmented views."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[ViewKey]:
        for index in map(int, self.indices):
            for view in range(self.num_views):
                yield ViewKey(index, self.stream, view if self.stream == "eval" else self.epoch)

    def __len__(self) -> int:
        return len(self.indices) * self.num_views


class WindowSampler(Sampler[ViewKey]):
    """Given windows of every clip, those of a clip in a row; `num_windows`: how many each clip has."""

    def __init__(self, num_windows: Sequence[int]) -> None:
        self.num_windows = num_windows

    def __iter__(self) -> Iterator[ViewKey]:
        for row, num_windows in enumerate(self.num_windows):
            for number in range(num_windows):
                yield ViewKey(row, "window", number)

    def __len__(self) -> int:
        return sum(self.num_windows)


class RowSampler(Sampler[ViewKey]):
    """Given rows in the order given, `num_views` evenly spaced views of each in a row."""

    def __init__(self, rows: np.ndarray, num_views: int) -> None:
        self.rows, self.num_views = rows, num_views

    def __iter__(self) -> Iterator[ViewKey]:
        return (ViewKey(row, "eval", view) for row in map(int, self.rows) for view in range(self.num_views))

    def __len__(self) -> int:
        return len(self.rows) * self.num_views
