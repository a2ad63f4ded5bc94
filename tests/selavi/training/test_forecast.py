"""What a run needs follows from what was measured, in the measure of its clips, clusters and heads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.clips import ClipDataModule
from selavi.config import Config, load_config
from selavi.labelling.schedule import labelling_steps_of_parts
from selavi.planning import Cost
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


def test_first_labels_of_crafted_features_are_counted_until_the_first_step(tiny: Tiny) -> None:
    rehearsal = replace(REHEARSAL, craft_s=0.1)
    config = tiny("labelling.first=crafted")
    fresh, begun = (
        by_name(forecast.time_lines(config, CLIPS, rehearsal, Course(12_500, 1, step=step), 100.0, None))
        for step in (0, 1)
    )
    needs = 100_000 * (2 / 100.0 + 8 * 0.1 / 16)  # two passes over the clips, eight views of each
    assert fresh["first labels"].needs == pytest.approx(needs)
    parts = times(config, CLIPS, Course(12_500, 1))["all of it"].needs
    assert fresh["all of it"].needs == pytest.approx(parts + needs)
    assert "first labels" not in begun


def test_the_passes_that_are_counted_are_those_that_a_run_makes(
    tiny: Tiny, fit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first labels have numbers below 0."""
    passes: list[int] = []
    labelling_loader = ClipDataModule.labelling_loader

    def note(self: ClipDataModule, number: int) -> object:
        passes.append(number)
        return labelling_loader(self, number)

    monkeypatch.setattr(ClipDataModule, "labelling_loader", note)
    words = ("labelling.first=crafted", "labelling.num_labellings=6")
    assert fit(tmp_path / "run", *words) == 0
    assert len(passes) == forecast.num_passes(tiny(*words), 4)
    assert sum(number < 0 for number in passes) == 2


@pytest.mark.parametrize(
    ("settings", "share", "number"),
    [
        (["labelling.first=random"], 0.77, 15),  # 200 passes, a third of an epoch each, beside 20 epochs
        (["labelling.first=crafted"], 0.67, 24),
        (["labelling.first=random", "labelling.head_groups=1"], 0.625, 30),
    ],
)
def test_labellings_that_do_not_follow_the_epochs_are_named_with_the_setting_that_helps(
    settings: list[str], share: float, number: int
) -> None:
    config = load_config(None, ["trainer.max_epochs=20", *settings])
    warning = forecast.warn_of_labellings(config, 1000)
    assert forecast.labelling_share(config, 1000) == pytest.approx(share, abs=0.005)
    assert "labelling.num_labellings=100 does not follow them" in warning
    assert f"labelling.num_labellings={number} makes it 3" in warning
    for count, fits in ((number, True), (number + 1, False)):
        fewer = replace(config, labelling=replace(config.labelling, num_labellings=count))
        assert (forecast.labelling_share(fewer, 1000) <= 1 / 3) == fits


def test_labellings_that_follow_the_epochs_or_cannot_be_fewer_are_not_named() -> None:
    short = ["trainer.max_epochs=20", "labelling.first=random"]
    assert not forecast.warn_of_labellings(load_config(None, []), 1000)
    few = load_config(None, ["trainer.max_epochs=2", "labelling.num_labellings=10"])
    assert forecast.labelling_share(few, 1000) > 1 / 3 and not forecast.warn_of_labellings(few, 1000)
    never = load_config(None, [*short, "labelling.method=none", "loss.kind=mutual_information"])
    assert not forecast.warn_of_labellings(never, 1000)
    assert not forecast.warn_of_labellings(load_config(None, short), 1000, Cost(epoch_s=1.0, labelling_s=1e-3))
    measured = forecast.warn_of_labellings(load_config(None, short), 1000, Cost(epoch_s=10.0, labelling_s=10.0))
    assert "83% of this training goes into labels (as measured), 200 passes" in measured


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


def test_loaders_count_for_every_process_of_this_machine(tiny: Tiny) -> None:
    config = tiny("data.num_workers=4")
    room = replace(ROOM, process_bytes=3 * 10**8, batch_bytes=10**8)
    one = by_name(forecast.memory_lines(config, CLIPS, ON_GPU, room, 4))
    assert one["4 loader processes"].needs == pytest.approx(4 * 3e8 + 1e8)
    two = by_name(forecast.memory_lines(config, CLIPS, ON_GPU, replace(room, processes=2), 4))
    needed, bank = two["all of 2 processes here"].needs, one["label bank"].needs
    assert needed == pytest.approx(2 * one["all of it"].needs - bank)  # which they hold together


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
