"""What `selavi label` decides: within its bounds for any folder, and never longer than was asked for without a word."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavi import planning
from selavi.commands.recipes import RECIPES
from selavi.config import Config, load_config
from selavi.planning import Cost, FolderFacts, MachineFacts, Rates, choose_recipe, cost_of, more_epochs, plan_length

LAPTOP = MachineFacts(cores=2, gpu=False, disk_gb=100.0)
SERVER = MachineFacts(cores=16, gpu=True, disk_gb=1000.0)

costs = st.builds(Cost, epoch_s=st.floats(1e-3, 1e4), labelling_s=st.floats(1e-3, 1e4))


def recipe(name: str) -> Config:
    return load_config(RECIPES / f"{name}.yaml")


SMALL, MEDIUM = recipe("small"), recipe("medium")


def facts(num_clips: int = 576, with_sound: int | None = None, duration_s: float = 2.0) -> FolderFacts:
    clip_s = planning.choose_clip_s([duration_s], 1.0)
    return FolderFacts(num_clips, num_clips if with_sound is None else with_sound, duration_s, clip_s, decoded_gb=0.1)


def chosen(
    clips: FolderFacts, machine: MachineFacts = LAPTOP, clusters: int | None = None
) -> tuple[planning.Recipe, Config]:
    """The recipe and the settings that it comes to, which load_config checks."""
    name = planning.recipe_name(clips.num_clips, machine.gpu, clips.pictures)
    result = choose_recipe(clips, machine, recipe(name), clusters)
    return result, load_config(RECIPES / f"{result.config}.yaml", result.settings)


# ---- how long ----


@given(minutes=st.floats(0.01, 1e4), cost=costs, steps=st.integers(1, 1000))
def test_the_budget_holds_or_it_is_said_that_labels_need_more(minutes: float, cost: Cost, steps: int) -> None:
    length = plan_length(minutes, cost, steps, SMALL)
    assert length.seconds == pytest.approx(
        length.max_epochs * cost.epoch_s + length.num_labellings * cost.labelling_s, rel=1e-9
    )
    if length.limit == "need":
        assert length.max_epochs == max(planning.LEAST_EPOCHS, -(-planning.LEAST_STEPS // steps))
        assert "not worth looking at" in planning.describe_length(length, minutes)
    else:
        assert length.seconds <= 60 * minutes


@given(minutes=st.floats(0.01, 1e4), cost=costs, steps=st.integers(1, 1000))
def test_no_longer_training_would_fit_unless_more_does_not_help(minutes: float, cost: Cost, steps: int) -> None:
    length = plan_length(minutes, cost, steps, SMALL)
    if length.limit == "time":
        a_second_longer = plan_length(minutes + 1e6, cost, steps, SMALL)
        assert a_second_longer.max_epochs > length.max_epochs
        per_epoch = cost.epoch_s + cost.labelling_s  # at most one labelling more
        assert length.seconds + per_epoch > 60 * minutes * (1 - 1e-9)


@given(a=st.floats(0.01, 1e4), b=st.floats(0.01, 1e4), cost=costs, steps=st.integers(1, 1000))
def test_more_minutes_never_train_shorter(a: float, b: float, cost: Cost, steps: int) -> None:
    short, long = (plan_length(minutes, cost, steps, SMALL) for minutes in sorted((a, b)))
    assert short.max_epochs <= long.max_epochs
    assert short.num_labellings <= long.num_labellings


@given(minutes=st.floats(0.01, 1e4), cost=costs, steps=st.integers(1, 1000), factor=st.floats(1, 100))
def test_a_slower_machine_never_trains_longer(minutes: float, cost: Cost, steps: int, factor: float) -> None:
    slower = Cost(cost.epoch_s * factor, cost.labelling_s * factor)
    assert plan_length(minutes, slower, steps, SMALL).max_epochs <= plan_length(minutes, cost, steps, SMALL).max_epochs


@given(minutes=st.floats(0.01, 1e4), cost=costs, steps=st.integers(1, 1000))
@pytest.mark.parametrize("base", [SMALL, MEDIUM], ids=["small", "medium"])
def test_the_settings_of_a_length_are_settings(base: Config, minutes: float, cost: Cost, steps: int) -> None:
    length = plan_length(minutes, cost, steps, base)
    assert 2 <= length.num_labellings <= base.labelling.num_labellings
    assert length.max_epochs * steps >= planning.LEAST_STEPS
    assert length.max_epochs <= max(base.trainer.max_epochs, planning.MOST_STEPS)


def test_a_large_set_with_time_gets_the_epochs_of_its_recipe() -> None:
    length = plan_length(1e6, Cost(1.0, 1.0), 100, SMALL)
    assert (length.max_epochs, length.num_labellings, length.limit) == (120, 80, "use")


@given(minutes=st.floats(0.01, 1e4), cost=costs)
def test_more_epochs_fit_into_the_minutes_unless_one_does_not(minutes: float, cost: Cost) -> None:
    epochs = more_epochs(minutes, cost, SMALL)
    assert epochs >= 1
    seconds = epochs * (cost.epoch_s + cost.labelling_s * 80 / 120)
    assert epochs == 1 or seconds <= 60 * minutes * (1 + 1e-9)


# ---- the recipe ----


@given(num_clips=st.integers(2, 2_000_000))
def test_suggested_clusters_can_be_learned_and_looked_through(num_clips: int) -> None:
    clusters = planning.suggest_clusters(num_clips)
    assert 2 <= clusters <= max(2, num_clips)
    assert clusters <= planning.suggest_clusters(num_clips + 1)
    assert clusters <= 1001
    if num_clips >= 96:
        assert num_clips / clusters >= 24  # no more than a cluster needs


@given(num_clips=st.integers(1, 100_000), most=st.sampled_from([64, 128]))
def test_an_epoch_has_a_step(num_clips: int, most: int) -> None:
    batch_size = planning.choose_batch(num_clips, most)
    assert 2 <= batch_size <= most
    assert num_clips < 6 or num_clips >= planning.STEPS_AN_EPOCH * batch_size


@settings(max_examples=40)
@given(
    num_clips=st.integers(2, 100_000),
    share=st.floats(0, 1),
    duration_s=st.floats(0.3, 10_000),
    machine=st.sampled_from([LAPTOP, SERVER, replace(LAPTOP, disk_gb=1.0)]),
    clusters=st.one_of(st.none(), st.integers(2, 500)),
    decoded_gb=st.floats(0, 1e4),
)
def test_every_recipe_is_made_of_settings_that_exist(
    num_clips: int, share: float, duration_s: float, machine: MachineFacts, clusters: int | None, decoded_gb: float
) -> None:
    clips = replace(facts(num_clips, round(share * num_clips), duration_s), decoded_gb=decoded_gb)
    result, config = chosen(clips, machine, clusters)
    assert config.heads.num_clusters == (clusters or planning.suggest_clusters(num_clips))
    assert config.data.clip_s <= duration_s
    assert "\n" not in result.reason


def test_what_is_there_decides_on_the_recipe() -> None:
    assert chosen(facts(60))[1].optim.batch_size == 16
    assert chosen(facts(576))[1] == load_config(RECIPES / "small.yaml", ["heads.num_clusters=17"])
    assert chosen(facts(50_000))[0].config == "small"
    result, config = chosen(facts(50_000), SERVER)
    assert result.config == "medium" and config.trainer.accelerator == "gpu" and config.trainer.devices == 1


@pytest.mark.parametrize(("with_sound", "modalities"), [(0, ["video"]), (100, ["video"]), (300, ["video", "audio"])])
def test_the_sound_is_used_where_enough_clips_have_some(with_sound: int, modalities: list[str]) -> None:
    result, config = chosen(facts(576, with_sound))
    assert config.modalities == modalities
    assert ("picture alone" in result.reason) == (modalities == ["video"])


def test_short_clips_get_a_shorter_window_and_a_few_shorter_ones_do_not_decide() -> None:
    assert chosen(facts(duration_s=0.75))[1].data.clip_s == 0.7
    assert planning.choose_clip_s([2.0] * 97 + [0.3] * 3, 1.0) == 1.0
    assert planning.choose_clip_s([0.05], 1.0) == 0.2
    assert planning.choose_clip_s([], 1.0) == 1.0


def test_long_files_are_told_to_have_one_label() -> None:
    assert not chosen(facts())[0].remarks
    assert "each gets one label" in chosen(facts(duration_s=200.0))[0].remarks[0]


def test_media_are_decoded_ahead_where_they_fit_on_the_disk() -> None:
    assert chosen(replace(facts(), decoded_gb=3.9))[1].data.cache_gb == 4
    assert chosen(replace(facts(), decoded_gb=9.5))[1].data.cache_gb == 10
    result, config = chosen(replace(facts(), decoded_gb=9.5), replace(LAPTOP, disk_gb=10.0))
    assert config.data.cache_gb == 0 and config.data.num_workers == 2
    assert "decoded anew" in result.remarks[0]


# ---- what epochs and labellings take ----


def test_whole_steps_count_in_an_epoch_and_all_clips_in_a_labelling() -> None:
    config = replace(SMALL, labelling=replace(SMALL.labelling, head_groups=2))
    turns = Rates(training=10.0, labelling=20.0, loader=40.0, at_once=False)
    cost = cost_of(turns, config, 200, solving_s=3.0)  # three steps of 64 clips
    assert cost.epoch_s == pytest.approx(192 * (1 / 10 + 1 / 40))
    assert cost.labelling_s == pytest.approx(2 * 200 * (1 / 20 + 1 / 40) + 3)
    together = cost_of(replace(turns, at_once=True), config, 200, solving_s=3.0)
    assert together == Cost(pytest.approx(192 / 10), pytest.approx(2 * 200 / 20 + 3))
    slow = cost_of(replace(turns, at_once=True, loader=5.0), config, 200, solving_s=3.0)
    assert slow == Cost(pytest.approx(192 / 5), pytest.approx(2 * 200 / 5 + 3))
    two = cost_of(turns, config, 400, solving_s=3.0, num_devices=2)  # each has as many clips as one had of 200
    assert two.labelling_s == cost.labelling_s and two.epoch_s == pytest.approx(cost.epoch_s)


@pytest.mark.parametrize("machine", [LAPTOP, SERVER])
def test_pictures_have_a_recipe_without_sound_or_seconds(machine: MachineFacts) -> None:
    pictures = FolderFacts(20_000, 0, 0.0, 0.0, decoded_gb=0.3, pictures=True)
    result, config = chosen(pictures, machine)
    assert result.config == "images" and config.modalities == ["image"]
    assert not any(word.startswith(("data.clip_s=", "modalities=")) for word in result.settings)
    assert "sound" not in result.reason and "windows" not in result.reason and not result.remarks
