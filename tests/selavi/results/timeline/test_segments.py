from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavi.results.timeline.segments import LEAST_PROBABILITY, Segment, find_segments, likeliest_path


def one_hot(clusters: list[int], num_clusters: int = 3) -> np.ndarray:
    return np.eye(num_clusters)[clusters]


def test_equal_neighbours_become_segments_with_borders_between_centres() -> None:
    start_s = np.arange(6.0)
    found = find_segments(start_s, start_s + 4, one_hot([0, 0, 2, 2, 1, 1]))
    assert found == [Segment(0.0, 3.5, 0, 1.0), Segment(3.5, 5.5, 2, 1.0), Segment(5.5, 9.0, 1, 1.0)]
    assert find_segments(start_s[:0], start_s[:0], np.zeros((0, 3))) == []


def test_one_piece_that_says_otherwise_is_not_heard_and_two_are() -> None:
    assert likeliest_path(one_hot([0, 0, 1, 0, 0]), 2.0).tolist() == [0] * 5
    assert likeliest_path(one_hot([0, 0, 1, 1, 0]), 2.0).tolist() == [0, 0, 1, 1, 0]
    assert likeliest_path(one_hot([0, 0, 1, 0, 0]), 0.0).tolist() == [0, 0, 1, 0, 0]


@given(st.integers(1, 5), st.integers(1, 3), st.floats(0, 5), st.integers(0, 1000))
def test_the_path_is_the_best_of_all(num_pieces: int, num_clusters: int, cost: float, seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.full(num_clusters, 0.5), num_pieces)
    gains = np.log(np.maximum(probabilities, LEAST_PROBABILITY))

    def value(path: tuple[int, ...]) -> float:
        return sum(gains[n, k] for n, k in enumerate(path)) - cost * sum(np.diff(path) != 0)

    best = max(map(value, product(range(num_clusters), repeat=num_pieces)))
    assert value(tuple(likeliest_path(probabilities, cost).tolist())) == pytest.approx(best)
