from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.loading.sampling import (
    AllSampler,
    Endless,
    TrainSampler,
    ViewKey,
    clip_starts,
    even_view,
    random_view,
)
from selavi.batch import NUM_DRAWS

lengths = st.floats(0.04, 600)


@given(lengths, lengths, st.integers(0, 2**31), st.integers(0, 50))
def test_a_random_clip_lies_inside_its_recording(duration_s: float, clip_s: float, seed: int, epoch: int) -> None:
    view = random_view(seed, ViewKey(0, "train", epoch), "train/ball/1.mp4", duration_s, clip_s)
    assert view.window.start_s >= 0
    assert view.window.start_s + clip_s <= max(duration_s, clip_s) + 1e-9
    assert 0 <= view.window.offset < 1
    assert view.draws.shape == (NUM_DRAWS,)


@given(lengths, lengths, st.integers(1, 12))
def test_even_clips_lie_inside_and_reach_both_ends(duration_s: float, clip_s: float, num_clips: int) -> None:
    starts = clip_starts(duration_s, clip_s, num_clips)
    assert len(starts) == num_clips
    assert starts == sorted(starts)
    room_s = max(0.0, duration_s - clip_s)
    assert all(0 <= start <= room_s + 1e-9 for start in starts)
    assert sum(starts) / num_clips == pytest.approx(room_s / 2)  # symmetric
    if num_clips > 1:
        assert (starts[0], starts[-1]) == (0, pytest.approx(room_s))
        assert np.diff(starts) == pytest.approx(room_s / (num_clips - 1))


def test_known_starts() -> None:
    assert clip_starts(10, 1, 4) == [0, 3, 6, 9]
    assert clip_starts(10, 1, 1) == [4.5]
    assert even_view(2, 4, 10, 1).window.start_s == 6
    assert even_view(0, 1, 0.5, 1).window.start_s == 0


def test_three_squares_of_each_window() -> None:
    windows = [even_view(number, 2, 11, 1, num_crops=3).window for number in range(6)]
    assert [(window.start_s, window.offset) for window in windows] == [
        (start_s, offset) for start_s in (0, 10) for offset in (0, 0.5, 1)
    ]
    assert even_view(1, 2, 11, 1).window.offset == 0.5


def test_a_view_is_a_function_of_seed_stream_epoch_and_id() -> None:
    def view(seed: int = 0, stream: str = "train", epoch: int = 0, clip_id: str = "a") -> tuple[float, float, float]:
        drawn = random_view(seed, ViewKey(3, stream, epoch), clip_id, 10.0, 1.0)  # type: ignore[arg-type]
        return drawn.window.start_s, drawn.window.offset, drawn.draws[0]

    assert view() == view()
    others = [view(seed=1), view(stream="label"), view(epoch=1), view(clip_id="b")]
    assert len({view(), *others}) == 5


def test_starts_are_uniform_over_the_recording() -> None:
    starts = [random_view(0, ViewKey(0, "train", 0), f"{n}", 5.0, 1.0).window.start_s for n in range(2000)]
    assert np.mean(starts) == pytest.approx(2.0, abs=0.1)
    assert np.std(starts) == pytest.approx(4 / 12**0.5, rel=0.05)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_clips", [24, 25, 31])
def test_ranks_train_on_different_clips_and_equally_many(num_clips: int, world_size: int) -> None:
    samplers = [TrainSampler(num_clips, 4, 7, rank, world_size) for rank in range(world_size)]
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [[key.row for key in sampler] for sampler in samplers]
        assert len({len(part) for part in parts}) == 1
        assert all(
            len(part) == len(sampler) and len(part) % 4 == 0 for part, sampler in zip(parts, samplers, strict=True)
        )
        rows = [row for part in parts for row in part]
        assert len(rows) == len(set(rows)) == num_clips // (4 * world_size) * 4 * world_size
        assert set(rows) <= set(range(num_clips))


def test_the_order_changes_with_the_epoch_and_the_seed_and_with_nothing_else() -> None:
    def order(seed: int = 0, epoch: int = 0) -> list[ViewKey]:
        sampler = TrainSampler(40, 4, seed, 0, 1)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order() == order()
    assert order() != order(epoch=1)
    assert order() != order(seed=1)
    assert {key.epoch for key in order(epoch=5)} == {5}
    assert {key.stream for key in order()} == {"train"}


def test_clips_left_out_of_one_epoch_come_in_another() -> None:
    sampler, seen = TrainSampler(30, 8, 0, 0, 1), Counter[int]()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen.update(key.row for key in sampler)
    assert len(seen) == 30


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_clips", [1, 2, 10, 11])
@pytest.mark.parametrize("num_views", [1, 3])
def test_every_clip_comes_once_whatever_the_number_of_ranks(num_clips: int, world_size: int, num_views: int) -> None:
    samplers = [AllSampler(num_clips, rank, world_size, "eval", num_views) for rank in range(world_size)]
    parts = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(part) for part in parts]
    keys = [key for part in parts for key in part]
    assert sorted(keys) == [ViewKey(row, "eval", view) for row in range(num_clips) for view in range(num_views)]
    for part in parts:  # the views of a clip in a row
        assert [key.epoch for key in part] == list(range(num_views)) * (len(part) // num_views)


def test_a_labelling_pass_has_views_of_its_own() -> None:
    sampler = AllSampler(3, 0, 1, "label")
    sampler.set_epoch(6)
    assert list(sampler) == [ViewKey(0, "label", 6), ViewKey(1, "label", 6), ViewKey(2, "label", 6)]


def walks(num_clips: int, world_size: int, num_mixed: int, epoch: int = 0) -> tuple[np.ndarray, list[list[int]]]:
    """Shard of each clip, and the rows that each rank sees."""
    shards = np.random.default_rng(1).permutation(np.repeat(np.arange(num_clips // 50), 50))
    samplers = [TrainSampler(num_clips, 4, 0, rank, world_size, shards, num_mixed) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    assert all(list(sampler) == list(sampler) for sampler in samplers)
    return shards, [[key.row for key in sampler] for sampler in samplers]


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_walk_reads_a_few_shards_at_a_time_and_each_clip_once(world_size: int) -> None:
    shards, parts = walks(3000, world_size, num_mixed=4)
    rows = [row for part in parts for row in part]
    assert len(rows) == len(set(rows)) == 3000
    assert len({len(part) for part in parts}) == 1
    for part in parts:
        visited = shards[part]
        first, last = {}, {}
        for place, shard in enumerate(visited.tolist()):
            first.setdefault(shard, place)
            last[shard] = place
        open_now = [sum(first[s] <= place <= last[s] for s in first) for place in range(0, len(part), 50)]
        assert max(open_now) <= 4 + 2
        assert len(first) <= 60 // world_size + 2  # of its own, but for those on the border of two ranks
    mixed = shards[parts[0]]
    assert np.mean([len(set(mixed[n : n + 20].tolist())) for n in range(200, 800)]) > 3


def test_a_walk_is_another_one_in_each_epoch() -> None:
    _, (first,) = walks(1000, 1, 3)
    _, (second,) = walks(1000, 1, 3, epoch=1)
    shards, (again,) = walks(1000, 1, 3)
    assert first == again != second
    order = [shard for n, shard in enumerate(shards[first]) if shard not in shards[first][:n]]
    assert order != [shard for n, shard in enumerate(shards[second]) if shard not in shards[second][:n]]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_all_clips_come_shard_by_shard(world_size: int) -> None:
    shards = np.array([2, 0, 1, 0, 2, 2, 1, 0])
    parts = [list(AllSampler(8, rank, world_size, "eval", 2, shards)) for rank in range(world_size)]
    assert sorted(key for part in parts for key in part) == [
        ViewKey(row, "eval", v) for row in range(8) for v in (0, 1)
    ]
    for part in parts:
        assert shards[[key.row for key in part]].tolist() == sorted(shards[[key.row for key in part]].tolist())


def test_an_endless_sampler_gives_every_clip_in_each_epoch() -> None:
    keys = list(islice(Endless(TrainSampler(5, 1, 0, 0, 1)), 15))
    assert [key.epoch for key in keys] == [0] * 5 + [1] * 5 + [2] * 5
    orders = [[key.row for key in keys[start : start + 5]] for start in (0, 5, 10)]
    assert all(sorted(order) == list(range(5)) for order in orders) and orders[0] != orders[1]


def test_blocks_come_in_order_and_shard_by_shard_inside() -> None:
    shards = np.array([1, 0, 1, 0, 2, 0])
    rows = [key.row for key in AllSampler(6, 0, 1, "eval", shards=shards, block=3)]
    assert rows == [1, 0, 2, 3, 5, 4]
    assert [key.row for key in AllSampler(6, 0, 1, "eval", shards=shards)] == [1, 3, 5, 0, 2, 4]


def test_views_of_a_still_picture_are_squares_of_it() -> None:
    windows = [even_view(number, 3, 0.0, 1.0).window for number in range(3)]
    assert [window.offset for window in windows] == [0.0, 0.5, 1.0] and {window.start_s for window in windows} == {0.0}
    assert even_view(0, 1, 0.0, 1.0).window.offset == 0.5
    assert [even_view(number, 2, 0.0, 1.0, num_crops=2).window.offset for number in range(4)] == [0, 1 / 3, 2 / 3, 1]
