import numpy as np
import pytest
from scipy.stats import kstest

from selavi.randomness import mix, uniforms

IDS = [f"train/ball/{number:05d}.mp4" for number in range(400)]


def test_the_numbers_are_a_pure_function() -> None:
    np.random.seed(1)
    first = uniforms(3, "span", 2, IDS, 5)
    np.random.seed(2)
    np.testing.assert_array_equal(uniforms(3, "span", 2, IDS, 5), first)
    assert first.shape == (400, 5)
    assert first.dtype == np.float64
    assert (first >= 0).all() and (first < 1).all()


def test_a_clips_numbers_depend_neither_on_the_others_nor_on_how_many_are_drawn() -> None:
    all_of_them = uniforms(0, "span", 0, IDS, 6)
    np.testing.assert_array_equal(uniforms(0, "span", 0, IDS[::-1], 6)[::-1], all_of_them)
    np.testing.assert_array_equal(uniforms(0, "span", 0, IDS[7:8], 6), all_of_them[7:8])
    np.testing.assert_array_equal(uniforms(0, "span", 0, IDS, 2), all_of_them[:, :2])


@pytest.mark.parametrize("other", [(1, "span", 0), (0, "crop", 0), (0, "span", 1)])
def test_another_seed_stream_or_epoch_gives_unrelated_numbers(other: tuple[int, str, int]) -> None:
    first, second = uniforms(0, "span", 0, IDS, 4), uniforms(*other, IDS, 4)
    assert (first != second).all()
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1  # 1600 pairs: 4 standard errors


def test_neighbouring_numbers_of_a_clip_are_unrelated() -> None:
    drawn = uniforms(0, "span", 0, ["one clip"], 4001)[0]
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.07


def test_mix_keeps_its_parts_apart_and_fits_every_generator() -> None:
    values = {mix("ab", "c"), mix("a", "bc"), mix("abc"), mix(1, 23), mix(12, 3), mix(123)}
    assert len(values) == 6
    assert all(0 <= value < 2**63 for value in values)
    assert mix(0, "heads", 1) == mix(0, "heads", 1)


@pytest.mark.parametrize(
    "drawn",
    [
        uniforms(0, "span", 0, [str(number) for number in range(4000)], 1)[:, 0],
        uniforms(0, "span", 0, ["one clip"], 4000)[0],
    ],
    ids=["over clips", "within a clip"],
)
def test_the_numbers_are_uniform(drawn: np.ndarray) -> None:
    assert kstest(drawn, "uniform").pvalue > 1e-3
