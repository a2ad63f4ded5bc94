import builtins
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from selavi.errors import UsageError
from selavi.results.gallery.layout import Method, place_points, points_of, require_method
from selavi.results.gallery.select import Places, Selector
from tests.selavi.results.gallery.synthetic_gallery import synthetic_clips


def blobs(count: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kinds = np.arange(count) % 3
    centres = np.eye(12)[:3] * 10
    return (centres[kinds] + rng.normal(size=(count, 12))).astype(np.float16), kinds


def test_pca_is_that_of_scikit_learn_and_keeps_the_aspect() -> None:
    features, _ = blobs()
    found = place_points(features, "pca", 0)
    assert found is not None
    positions, about = found
    expected = PCA(2, svd_solver="full").fit(features.astype(np.float64))
    assert about == {"method": "PCA", "explained": pytest.approx(expected.explained_variance_ratio_, abs=1e-3)}
    places = expected.transform(features.astype(np.float64))
    for column in (0, 1):
        correlation = np.corrcoef(places[:, column], positions[:, column])[0, 1]
        assert abs(correlation) > 0.999
    spans = np.ptp(positions.astype(float), axis=0)
    assert spans.max() == 65_535 and spans[0] / spans[1] == pytest.approx(np.divide(*np.ptp(places, axis=0)), rel=1e-3)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_blobs_stay_apart_and_the_seed_decides(method: Method) -> None:
    features, kinds = blobs()
    first, second = (place_points(features, method, 5) for _ in range(2))
    assert first is not None and second is not None
    assert (first[0] == second[0]).all()
    means = np.stack([first[0][kinds == kind].mean(0) for kind in range(3)])
    distances = np.linalg.norm(first[0][:, None] - means[None], axis=2)
    assert (distances.argmin(1) == kinds).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_equal_clips_lie_on_each_other(method: Method) -> None:
    features, _ = blobs(12)
    found = place_points(np.concatenate([features, features[:5]]), method, 0)
    alone = place_points(features, method, 0)
    assert found is not None and alone is not None
    assert (found[0][12:] == found[0][:5]).all()
    assert np.ptp(found[0].astype(float), axis=0).max() == 65_535


def test_fewer_than_three_different_clips_make_no_map() -> None:
    assert place_points(np.array([[1.0, 2], [3, 4], [1, 2]]), "pca", 0) is None
    found = place_points(np.array([[1.0], [2], [4]]), "pca", 0)
    assert found is not None and found[0][:, 1].tolist() == [32_768] * 3
    assert sorted(found[0][:, 0].tolist()) == [0, 21_845, 65_535] or sorted(found[0][:, 0]) == [0, 43_690, 65_535]


def test_points_are_drawn_from_every_cluster() -> None:
    clips, heads, _ = synthetic_clips(5000, 40)
    found = Selector(clips, Places()).select(heads[0])
    drawn = points_of(found, 1000)
    assert 900 < len(drawn) <= 1000 and len(np.unique(drawn)) == len(drawn)
    counts = np.bincount(heads[0].cluster[drawn], minlength=40)
    sizes = np.bincount(heads[0].cluster, minlength=40)
    assert (counts >= 1).all() and np.abs(counts - sizes / 5).max() <= 1
    assert points_of(found, 1000).tolist() == drawn.tolist()
    assert len(points_of(found)) == 5000


def test_without_umap_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def deny(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "umap":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", deny)
    with pytest.raises(UsageError, match=r"pip install 'selavi\[map\]', or say --map tsne"):
        require_method("umap")
    require_method("tsne")
