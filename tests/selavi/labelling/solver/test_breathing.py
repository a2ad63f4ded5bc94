import pytest
import torch
from torch import Tensor

from selavi.labelling.solver.breathing import breathe
from selavi.labelling.solver.kmeans import cluster, start_centres

D, K, EACH = 16, 40, 12


def blobs(seed: int, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(K * EACH) % K
    centres = 3 * torch.randn(K, D, generator=generator)
    return centres[truth] + noise * torch.randn(len(truth), D, generator=generator), truth


def pairs(labels: Tensor, truth: Tensor) -> int:
    return len(set(zip(labels.tolist(), truth.tolist(), strict=True)))


@pytest.mark.parametrize("seed", range(5))
def test_it_leaves_a_start_that_k_means_cannot_leave(seed: int) -> None:
    features, truth = blobs(seed)
    start = features[truth < K // 2][:K]  # two centres in each of one half of the clusters, none in the others
    assert pairs(cluster(features, start).labels, truth) > K
    found = breathe(features, start)
    assert pairs(found.labels, truth) == K
    means = torch.stack([features[found.labels == number].mean(0) for number in range(K)])
    torch.testing.assert_close(found.centres, means, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_clusters", [2, 3, 17, 60])
@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_it_is_never_worse_than_k_means(num_clusters: int, noise: float) -> None:
    features, _ = blobs(0, noise)
    start = start_centres(features, torch.arange(len(features)), len(features), num_clusters, seed=1)
    found = breathe(features, start)
    assert found.centres.shape == (num_clusters, D)
    assert found.inertia <= cluster(features, start, max_passes=12).inertia
    assert found.labels.max() < num_clusters
    assert torch.equal(found.labels, torch.cdist(features, found.centres).argmin(1))


def test_more_clusters_than_distinct_clips() -> None:
    features = torch.randn(3, D).repeat(20, 1)
    start = start_centres(features, torch.arange(60), 60, 8, seed=0)
    found = breathe(features, start)
    assert found.centres.isfinite().all() and len(found.labels.unique()) == 3
    assert found.inertia == pytest.approx(0, abs=1e-5)
