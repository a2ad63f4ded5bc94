import numpy as np
import pytest

from selavi.results.gallery import near
from selavi.results.gallery.near import NUM_NEAR, nearest_clips, rows_to_search


def by_hand(features: np.ndarray) -> np.ndarray:
    """(N, N) clips by similarity to each, itself last."""
    away = features.astype(np.float64) - features.astype(np.float64).mean(0)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    similarities = away @ away.T
    np.fill_diagonal(similarities, -2)
    return np.argsort(-similarities, axis=1, kind="stable")


@pytest.mark.parametrize("num_clips", [12, 33, 400])
def test_the_nearest_clips_are_those_of_all_pairs(num_clips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "QUERIES", 50)
    monkeypatch.setattr(near, "CANDIDATES", 96)  # more than one block of each, the last one short
    features = np.random.default_rng(0).normal(size=(num_clips, 8)).astype(np.float32)
    rows = np.arange(num_clips)[::-1].copy()
    assert (nearest_clips(features, rows) == by_hand(features)[rows, :NUM_NEAR]).all()


def test_few_clips_have_fewer_neighbours_and_never_themselves() -> None:
    features = np.array([[1, 0], [1, 0], [0, 1]], np.float16)
    found = nearest_clips(features, np.arange(3))
    assert found.shape == (3, NUM_NEAR) and (found[:, 2:] == -1).all()
    assert found[0, 0] == 1 and found[1, 0] == 0 and set(found[2, :2].tolist()) == {0, 1}
    assert (nearest_clips(features[:1], np.arange(1)) == -1).all()


def test_many_clips_are_searched_only_for_those_shown_and_within_the_budget() -> None:
    shown = np.array([7, 3, 5])
    assert rows_to_search(shown, 10, 4, budget=10 * 10 * 104).tolist() == list(range(10))
    assert rows_to_search(shown, 10, 4, budget=10 * 10 * 104 - 1).tolist() == [7, 3, 5]
    assert rows_to_search(shown, 10, 4, budget=2 * 10 * 104).tolist() == [7, 3]
    assert len(rows_to_search(np.arange(7200), 180_000, 1024)) > 7000  # VGG-Sound, 300 clusters of 24 clips shown
