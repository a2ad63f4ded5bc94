"""Batches of the shards that a process has to do, and the count of what came of them."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable

import torch

from datamodules.loading.new_clips import ClipList
from selavi.batch import ClipBatch
from selavi.inference.assigned import check_bad, count_statuses
from selavi.meter import follow


def do_shards(
    clips: ClipList,
    todo: list[int],
    work: Callable[[Iterable[ClipBatch]], Iterable[Counter[str]]],
    *,
    views: int,
    workers: int | None,
    device: torch.device,
    limit: float,
    doing: str,
    done: str,
    random: bool = False,
) -> None:
    """Go through shards, with a bar, until too many clips are bad.

    Args:
        clips: the whole list.
        todo: which of its shards.
        work: batches -> after each shard that is written, its clips by status.
        views: of each clip.
        workers: see ClipList.loader.
        device: that the batches will be put on.
        limit: see check_bad.
        doing: what happens to the clips, for the bar.
        done: what has happened to them, for messages.
        random: see ClipList.loader.
    """
    print(f"{clips.out}: {clips.num_clips} clips; {len(todo)} of {clips.num_shards} shards to do here", file=sys.stderr)
    loader = clips.loader(todo, views, workers, pin_memory=device.type == "cuda", random=random)
    batches = follow(loader, doing, sum(map(clips.count, todo)), "clips", lambda batch: len(batch.index) // views)
    counts = count_statuses(clips.done())
    try:
        for of_shard in work(batches):
            counts += of_shard
            check_bad(counts, clips, limit, done)
    except KeyboardInterrupt:
        print(f"the finished shards in {clips.out} are kept: the same command goes on", file=sys.stderr)
        raise
