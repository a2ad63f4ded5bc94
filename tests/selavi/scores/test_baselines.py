import numpy as np
import pytest

from selavi.scores.baselines import cluster_features, kmeans_nmi, scale_features
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information


def blobs(num_clips: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(num_clips) % 3
    return np.stack([labels * 5.0, -labels * 5.0], axis=1) + rng.normal(0, 0.3, (num_clips, 2)), labels


def test_features_that_tell_the_labels_score_1() -> None:
    features, labels = blobs()
    names = np.array(["rain", "siren", "bounce"])[labels]
    assert kmeans_nmi(features, names, 3, seed=0) == pytest.approx(1.0)
    assert kmeans_nmi(features[:, 0], labels, 3, seed=0) == pytest.approx(1.0)


def test_features_that_tell_nothing_score_little() -> None:
    _, labels = blobs(900)
    features = np.random.default_rng(1).normal(size=(900, 3))
    assert kmeans_nmi(features, labels, 3, seed=0) < 0.05


def test_columns_are_standardised() -> None:
    features, labels = blobs()
    loud_noise = np.random.default_rng(2).normal(size=(90, 1))
    mixed = np.concatenate([features, 1e6 * loud_noise], axis=1)
    same_scale = np.concatenate([features / features.std(), loud_noise], axis=1)
    assert kmeans_nmi(mixed, labels, 3, seed=0) == pytest.approx(kmeans_nmi(same_scale, labels, 3, seed=0))
    assert kmeans_nmi(mixed, labels, 3, seed=0) > 0.5


def test_one_seed_gives_one_score() -> None:
    features = np.random.default_rng(3).normal(size=(200, 2))
    labels = np.arange(200) % 5
    assert kmeans_nmi(features, labels, 5, seed=4) == kmeans_nmi(features, labels, 5, seed=4)


@pytest.mark.filterwarnings("error")
def test_equal_features_score_0_quietly() -> None:
    labels = np.arange(30) % 3
    assert kmeans_nmi(np.full((30, 2), 0.1), labels, 3, seed=0) == 0.0


def test_wrong_input_is_refused() -> None:
    features, labels = blobs()
    with pytest.raises(ValueError, match=r"got \(90, 2\) and 89 labels"):
        kmeans_nmi(features, labels[1:], 3, seed=0)
    with pytest.raises(ValueError, match="expected 1 to 90 clusters for 90 clips, got 91"):
        kmeans_nmi(features, labels, 91, seed=0)
    features[4, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 90 clips are not finite"):
        kmeans_nmi(features, labels, 3, seed=0)


# ---- any features, scaled and clustered ----


@pytest.mark.parametrize("method", ["kmeans", "spectral", "agglomerative"])
def test_every_method_finds_what_is_apart(method: str) -> None:
    features, labels = blobs()
    found = cluster_features(features, 3, method=method, seed=1)
    assert found.shape == (90,) and found.dtype == np.int64
    assert normalised_mutual_information(contingency_matrix(labels, found)) == pytest.approx(1.0)


def test_features_are_scaled_as_asked() -> None:
    features = np.random.default_rng(0).normal(3, [1, 10, 100], (50, 3)).astype(np.float32)
    features[:, 1] = 4
    standard = scale_features(features, "standardise")
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(0), [1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(scale_features(features, "l2"), axis=1), 1, atol=1e-6)
    both = scale_features(features, "standardise+l2")
    np.testing.assert_allclose(both, standard / np.linalg.norm(standard, axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(scale_features(features, "none"), features)
    assert (scale_features(np.zeros((4, 2)), "l2") == 0).all()


def test_what_cannot_be_clustered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = blobs()
    with pytest.raises(ValueError, match=r"scaled by one of .* got 'whiten'"):
        scale_features(features, "whiten")
    with pytest.raises(ValueError, match=r"\(N, D\) with N at least 1, got \(90,\)"):
        scale_features(features[:, 0], "l2")
    with pytest.raises(ValueError, match="2 of 90 clips are not finite"):
        scale_features(np.where(np.arange(90)[:, None] < 2, np.inf, features), "l2")
    with pytest.raises(ValueError, match=r"the methods are .* got 'dbscan'"):
        cluster_features(features, 3, method="dbscan")
    with pytest.raises(ValueError, match="expected 1 to 90 clusters for 90 clips, got 0"):
        cluster_features(features, 0)
    monkeypatch.setattr("selavi.scores.baselines.MAX_SMALL", 80)
    with pytest.raises(ValueError, match="square of the clips: 80 at most, got 90; use kmeans"):
        cluster_features(features, 3, method="spectral")
    cluster_features(features, 3)
