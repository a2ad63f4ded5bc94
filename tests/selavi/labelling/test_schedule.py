import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavi.labelling.schedule import labelled_fraction, labelling_steps, labelling_steps_of_parts


def test_the_papers_schedule() -> None:
    steps_per_epoch = 100_000
    steps = labelling_steps(200 * steps_per_epoch, 100, power=1.5)
    epochs = [step / steps_per_epoch for step in steps]
    assert epochs[:4] == pytest.approx([0, 0.203, 0.574, 1.055], abs=6e-4)
    assert epochs[4] == pytest.approx(1.62, abs=6e-3)
    assert len(steps) == 99
    assert [sum(epoch < last for epoch in epochs) for last in (1, 10, 50)] == [3, 14, 40]
    assert 200 - epochs[-1] == pytest.approx(3, abs=0.1)


def test_a_labelling_fires_at_the_first_step_past_its_time() -> None:
    times = [50 * (i / 9) ** 1.5 for i in range(10)]
    steps, pending = [], list(times)
    for step in range(50):
        if step >= pending[0]:
            steps.append(step)
            while step >= pending[0]:
                pending.pop(0)
    assert labelling_steps(50, 10) == steps


@given(
    total_steps=st.integers(1, 5000),
    num_labellings=st.integers(1, 300),
    power=st.floats(0.1, 5, allow_nan=False),
)
def test_steps_increase_from_zero(total_steps: int, num_labellings: int, power: float) -> None:
    steps = labelling_steps(total_steps, num_labellings, power)
    assert steps[0] == 0
    assert steps[-1] < total_steps
    assert all(a < b for a, b in itertools.pairwise(steps))
    assert len(steps) <= max(1, num_labellings - 1)


def test_small_numbers() -> None:
    assert labelling_steps(1, 5) == [0]
    assert labelling_steps(7, 1) == labelling_steps(7, 2) == [0]
    assert labelling_steps(10, 1000) == list(range(10))
    # Times that are whole numbers but for a rounding fire at that number.
    for last in range(1, 200):
        assert labelling_steps(10 * last, last + 1, power=1.0) == list(range(0, 10 * last, 10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 1.5), "total_steps"),
        ((5, 0, 1.5), "num_labellings"),
        ((5, 5, 0.0), "power"),
        ((5, 5, math.nan), "power"),
    ],
)
def test_unusable_numbers_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labelling_steps(*arguments)


def test_the_labelled_fraction_grows_to_one() -> None:
    found = [labelled_fraction(number, 10, 0.2) for number in range(12)]
    assert found[0] == pytest.approx(0.2)
    assert found[9:] == [1.0, 1.0, 1.0]
    assert found == sorted(found)
    assert [labelled_fraction(number, 10, 1.0) for number in (0, 5)] == [1.0, 1.0]


def test_each_part_of_a_training_has_the_schedule_of_its_own_length_and_ends_with_a_labelling() -> None:
    steps = labelling_steps_of_parts([10, 5], 20, 40)
    first = labelling_steps(200, 40)
    assert steps[: len(first) + 1] == [*first, 200]
    added = labelling_steps(100, 20)  # half the epochs, half the labellings
    assert steps[len(first) + 1 :] == [*(200 + step for step in added[1:]), 300]
    assert labelling_steps_of_parts([10], 20, 40) == [*first, 200]


@given(parts=st.lists(st.integers(1, 9), min_size=1, max_size=4), steps=st.integers(1, 30), count=st.integers(2, 50))
def test_parts_never_label_twice_at_one_step(parts: list[int], steps: int, count: int) -> None:
    times = labelling_steps_of_parts(parts, steps, count)
    assert times == sorted(set(times))
    assert {sum(parts[:number]) * steps for number in range(len(parts) + 1)} <= set(times)
