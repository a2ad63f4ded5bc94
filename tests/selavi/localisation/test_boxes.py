"""selavi/localisation/boxes.py: clips are found by their names, and all lies on the same square."""

import numpy as np
import pytest

from selavi.localisation.boxes import SIDE, frames_of, map_at, places_of, seen_square
from selavi.scores.boxes import box_mask


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("train/dog/a.mp4", 0),
        ("train/dog/a", 0),
        ("a", -1),
        ("b", 2),
        ("elsewhere/b.webm", 2),
        ("c.d", 3),
        ("", -1),
        ("e", -1),
    ],
)
def test_a_clip_is_found_where_only_one_can_be_meant(name: str, place: int) -> None:
    ids = ["train/dog/a.mp4", "train/cat/a.mp4", "train/cat/b.mp4", "c.d.mp4"]
    assert places_of([name], ids).tolist() == [place]


@pytest.mark.parametrize(("height", "width"), [(100, 100), (100, 200), (300, 100)])
def test_boxes_are_those_of_the_square_in_the_middle(height: int, width: int) -> None:
    shorter = min(height, width)
    inner_x, inner_y = (shorter / width / 2, shorter / height / 2)
    middle = (0.5 - inner_x, 0.5 - inner_y, 0.5, 0.5)  # its upper left quarter
    square = seen_square(lambda h, w: box_mask([middle], h, w).astype(float), height, width)
    expected = np.zeros((SIDE, SIDE))
    expected[: SIDE // 2, : SIDE // 2] = 1
    assert np.array_equal(square, expected)


def test_what_lies_outside_of_the_square_is_not_there() -> None:
    square = seen_square(lambda h, w: box_mask([(0.0, 0.0, 0.2, 1.0)], h, w).astype(float), 90, 160)
    assert not square.any()


@pytest.mark.parametrize(("share", "frame"), [(0.0, 0), (0.24, 0), (0.26, 1), (0.99, 3), (1.0, 3)])
def test_a_map_is_that_of_the_moment(share: float, frame: int) -> None:
    maps = np.full((4, 7, 7), -1.0)
    maps[frame, 3, 3] = 2.0
    shown = map_at(maps, (4, 7, 7), share)
    assert shown.shape == (SIDE, SIDE) and shown.max() > 1 and shown.min() == 0
    assert np.unravel_index(shown.argmax(), shown.shape) in [(y, x) for y in range(27, 37) for x in range(27, 37)]


def test_frames_lie_on_the_same_cells() -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[1, :16, :, 2] = 200
    resized = frames_of(frames)
    assert resized.shape == (2, SIDE, SIDE, 3)
    assert resized[1, :30, :, 2].min() == 200 and resized[1, 34:].max() == 0 and resized[0].max() == 0
