import numpy as np
import pytest

from selavi.media import recompress


def noise(frames: np.ndarray, crf: int) -> float:
    return float(np.abs(recompress(frames, fps=12, crf=crf).astype(float) - frames).mean())


def test_a_higher_rate_factor_leaves_less(moving_square: np.ndarray) -> None:
    lost = [noise(moving_square, crf) for crf in (0, 23, 37, 51)]
    assert lost == sorted(lost)
    assert lost[0] < 2.5  # the halved resolution of the colours, at the edges of the square
    assert lost[3] > 2 * lost[0]


def test_frames_come_back_in_order_and_shape(moving_square: np.ndarray) -> None:
    found = recompress(moving_square, fps=12.5, crf=18)
    assert found.shape == moving_square.shape and found.dtype == np.uint8
    bright = (found[:, 8:24, :, 0] > 150).sum(1).argmax(1)
    assert np.abs(bright - np.arange(len(found))).max() <= 2


@pytest.mark.parametrize("shape", [(1, 17, 33, 3), (5, 16, 31, 3), (3, 33, 16, 3)])
def test_odd_sides_and_single_frames(shape: tuple[int, ...]) -> None:
    frames = np.full(shape, 120, np.uint8)
    assert np.abs(recompress(frames, fps=6, crf=23).astype(int) - frames).max() <= 3


def test_equal_input_gives_equal_frames(moving_square: np.ndarray) -> None:
    assert np.array_equal(recompress(moving_square, fps=12, crf=40), recompress(moving_square, fps=12, crf=40))


def test_wrong_input_is_refused(moving_square: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected frames \(T, h, w, 3\) uint8, got \(36, 32, 48, 3\) float64"):
        recompress(moving_square.astype(float), fps=12, crf=23)
    with pytest.raises(ValueError, match="expected a crf of 0 to 51, got 52"):
        recompress(moving_square, fps=12, crf=52)
