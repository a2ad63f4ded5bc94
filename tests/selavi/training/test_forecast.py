"""What a run needs follows from what was measured, in the measure of its clips, clusters and heads."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from selavi.config import Config
from selavi.labelling.schedule import labelling_steps_of_parts
from selavi.training import forecast
from selavi.training.forecast import Clips, Course, Line, Room
from selavi.training.rehearsal import Rehearsal

Tiny = Callable[..., Config]

REHEARSAL = Rehearsal(
    device="the processor",
    on_gpu=False,
    step_s=0.5,
    encode_s=0.25,
    encode_clips=16,
    solve_s=2.0,
    block_clips=8192,
    num_features=1024,
    peak_bytes=10**9,
    kept_bytes=4 * 10**8,
    gpu_peak_bytes=0,
    gpu_kept_bytes=0,
    gpu_bytes=0,
    checkpoint_bytes=10**7,
)
ON_GPU = replace(
    REHEARSAL, device="a GPU", on_gpu=True, gpu_peak_bytes=2 * 10**9, gpu_kept_bytes=10**8, gpu_bytes=8 * 10**10
)
CLIPS = Clips(num_clips=100_000, num_files=120_000, id_bytes=30.0)
TWICE = Clips(num_clips=200_000, num_files=240_000, id_bytes=30.0)
ROOM = Room(memory=2 * 10**10, processes=1, process_bytes=0, batch_bytes=0)


def by_name(lines: list[Line]) -> dict[str, Line]:
    return {line.what: line for line in lines}


def times(config: Config, clips: Clips, course: Course, loader: float = 100.0, decoding_s: float | None = None):
    return by_name(forecast.time_lines(config, clips, REHEARSAL, course, loader, decoding_s))


def test_twice_the_clips_take_twice_the_time_and_the_memory(tiny: Tiny) -> None:
    config = tiny()
    once, twice = (times(config, clips, Course(clips.num_clips // 8, 1)) for clips in (CLIPS, TWICE))
    assert twice["labelling"].needs == pytest.approx(2 * once["labelling"].needs)
    assert twice["epoch of 25,000 steps"].needs == pytest.approx(2 * once["epoch of 12,500 steps"].needs)
    assert forecast.bank_bytes(config, TWICE) == pytest.approx(2 * forecast.bank_bytes(config, CLIPS))
    of_labelling = [forecast.labelling_bytes(config, clips, REHEARSAL, 1) for clips in (CLIPS, TWICE)]
    assert of_labelling[1] == pytest.approx(2 * of_labelling[0])


def test_a_block_stands_for_all_clips_and_heads(tiny: Tiny) -> None:
    cost = forecast.measured_cost(tiny("heads.num_heads=5"), CLIPS, REHEARSAL, float("inf"), 1)
    solving_s = 2.0 * 100_000 / 8192 * 5
    encoding_s = 2 * 100_000 * 0.25 / 16  # two groups of heads
    assert cost.labelling_s == pytest.approx(solving_s + encoding_s)
    assert cost.epoch_s == pytest.approx(100_000 / 8 * 0.5)
    four = forecast.measured_cost(tiny("heads.num_heads=5"), CLIPS, REHEARSAL, float("inf"), 4)
    assert four.labelling_s == pytest.approx(cost.labelling_s / 4)
    assert four.epoch_s == pytest.approx(cost.epoch_s / 4)


def test_data_and_model_take_turns_but_beside_a_gpu_with_loader_processes(tiny: Tiny) -> None:
    reading_s, steps_s = 100_000 / 100.0, 100_000 / 8 * 0.5
    config = tiny("data.num_workers=2")
    assert forecast.measured_cost(config, CLIPS, REHEARSAL, 100.0, 1).epoch_s == pytest.approx(reading_s + steps_s)
    assert forecast.measured_cost(config, CLIPS, ON_GPU, 100.0, 1).epoch_s == pytest.approx(max(reading_s, steps_s))
    assert forecast.measured_cost(tiny(), CLIPS, ON_GPU, 100.0, 1).epoch_s == pytest.approx(reading_s + steps_s)


def test_all_of_it_is_what_the_schedule_says_and_less_is_left_of_a_run_that_goes_on(tiny: Tiny) -> None:
    config = tiny("trainer.max_epochs=10", "labelling.num_labellings=20")
    cost = forecast.measured_cost(config, CLIPS, REHEARSAL, 100.0, 1)
    num_labellings = len(labelling_steps_of_parts([10], 12_500, 20, 1.5))
    fresh = times(config, CLIPS, Course(12_500, 1), decoding_s=60.0)["all of it"]
    assert fresh.needs == pytest.approx(10 * cost.epoch_s + num_labellings * cost.labelling_s + 60.0)
    left = times(config, CLIPS, Course(12_500, 1, step=50_000, num_labellings=12))["what is left"]
    assert left.needs == pytest.approx(6 * cost.epoch_s + (num_labellings - 12) * cost.labelling_s)


def test_labellings_in_the_time_of_the_first_labels_are_left_out(tiny: Tiny) -> None:
    config = tiny("labelling.num_labellings=20", "labelling.first=crafted", "labelling.first_share=0.25")
    steps = labelling_steps_of_parts([2], 12_500, 20, 1.5)
    num_left = len(steps) - sum(step < 0.25 * 25_000 for step in steps)
    how = times(config, CLIPS, Course(12_500, 1))["all of it"].how
    assert f"{num_left} labellings" in how and num_left < len(steps)


@pytest.mark.parametrize("method", ["transport", "kmeans"])
def test_a_table_of_all_clips_is_counted_where_it_is_larger_than_a_step(tiny: Tiny, method: str) -> None:
    settings = [f"labelling.method={method}", "labelling.source=concat", "heads.num_clusters=3000"]
    lines = by_name(forecast.memory_lines(tiny(*settings), CLIPS, REHEARSAL, ROOM, 1))
    table = lines["labelling, by head"].needs
    if method == "transport":
        assert table > 100_000 * 3000 * 4  # scores in float32, and features
    else:
        assert table > 3 * 100_000 * 1024 * 4  # features, scaled and joined
    assert lines["all of it"].needs == pytest.approx(4e8 + table + lines["label bank"].needs)
    small = by_name(forecast.memory_lines(tiny(), replace(CLIPS, num_clips=100), REHEARSAL, ROOM, 1))
    assert small["all of it"].needs == pytest.approx(1e9 + small["label bank"].needs)


def test_the_budget_of_scores_bounds_a_labelling(tiny: Tiny) -> None:
    free, bound = (tiny("heads.num_clusters=3000", f"labelling.memory_gb={gb}") for gb in (8, 0.01))
    assert forecast.labelling_bytes(bound, CLIPS, REHEARSAL, 1) < forecast.labelling_bytes(free, CLIPS, REHEARSAL, 1)


def test_loaders_count_twice_and_for_every_process_of_this_machine(tiny: Tiny) -> None:
    config = tiny("data.num_workers=4")
    room = replace(ROOM, process_bytes=3 * 10**8, batch_bytes=10**8)
    one = by_name(forecast.memory_lines(config, CLIPS, ON_GPU, room, 4))
    assert one["8 loader processes"].needs == pytest.approx(8 * 3e8 + 1e8)
    two = by_name(forecast.memory_lines(config, CLIPS, ON_GPU, replace(room, processes=2), 4))
    assert two["all of 2 processes here"].needs == pytest.approx(2 * one["all of it"].needs)


def test_on_a_gpu_features_and_scores_are_there(tiny: Tiny) -> None:
    lines = by_name(forecast.memory_lines(tiny(), CLIPS, ON_GPU, ROOM, 1))
    assert lines["all of it"].needs == pytest.approx(1e9 + lines["label bank"].needs)
    assert lines["GPU"].needs == 2e9 and lines["GPU"].free == 8e10 and lines["GPU"].fits
    many = by_name(forecast.memory_lines(tiny(), replace(CLIPS, num_clips=10**7), ON_GPU, ROOM, 1))
    assert many["GPU"].needs == pytest.approx(1e8 + many["labelling, by head"].needs)
    assert not many["GPU"].fits and "labelling.memory_gb" in many["GPU"].advice


def test_what_is_not_compared_fits() -> None:
    assert Line("time", "step", 1e9, "measured").fits
    assert Line("disk", "run folder", 10.0, "measured", 10.0).fits
    assert not Line("disk", "run folder", 11.0, "measured", 10.0).fits
