import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from selavi.labelling.solver import kmeans
from selavi.labelling.solver.kmeans import cluster, label_means, start_centres, unit_features
from tests import ranks

N, D, K = 400, 6, 5


def blobs(noise: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(N) % K
    centres = 4 * torch.randn(K, D, generator=generator)
    return centres[truth] + noise * torch.randn(N, D, generator=generator), truth


def same_groups(first: Tensor, second: Tensor) -> bool:
    pairs = {(int(a), int(b)) for a, b in zip(first, second, strict=True)}
    return len(pairs) == len(set(first.tolist())) == len(set(second.tolist()))


def test_it_finds_what_is_apart() -> None:
    features, truth = blobs()
    found = cluster(features, start_centres(features, torch.arange(N), N, K, seed=1))
    assert found.converged
    assert same_groups(found.labels, truth)
    means = torch.stack([features[found.labels == k].mean(0) for k in range(K)])
    torch.testing.assert_close(found.centres, means, atol=1e-4, rtol=0)
    assert found.inertia == pytest.approx((features - means[found.labels]).square().sum(1).mean().item(), rel=1e-4)


def test_it_is_that_of_scikit_learn_from_the_same_centres() -> None:
    features = torch.randn(N, D, generator=torch.Generator().manual_seed(3))
    start = features[:K].clone()
    found = cluster(features, start, tol=0)
    other = KMeans(K, init=start.numpy(), n_init=1, tol=0, algorithm="lloyd").fit(features.numpy())
    assert np.array_equal(found.labels.numpy(), other.labels_)
    assert found.inertia * N == pytest.approx(other.inertia_, rel=1e-5)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = blobs(noise=3)
    whole = cluster(features, features[:K])
    monkeypatch.setattr(kmeans, "BLOCK_ROWS", 7)
    parted = cluster(features, features[:K])
    assert torch.equal(whole.labels, parted.labels)
    torch.testing.assert_close(whole.centres, parted.centres)
    assert parted.inertia == pytest.approx(whole.inertia)


def test_an_empty_cluster_is_filled() -> None:
    features, truth = blobs()
    far = features[:K].clone()
    far[2:] = 1e3  # three clusters that no clip is near
    found = cluster(features, far)
    assert sorted(set(found.labels.tolist())) == list(range(K))
    # and where they start is the mean of an earlier clustering's clips, also of clusters that had none
    none = label_means(features, torch.where(truth == 3, -1, truth), K)
    torch.testing.assert_close(none[1], features[truth == 1].mean(0), atol=1e-5, rtol=0)
    assert none.isfinite().all()
    assert len(none.unique(dim=0)) == K


def test_fewer_distinct_clips_than_clusters_end() -> None:
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(10, 1)
    centres = start_centres(features, torch.arange(20), 20, 4, seed=0)
    found = cluster(features, centres)
    assert found.converged and found.inertia == pytest.approx(0, abs=1e-6)
    assert same_groups(found.labels, torch.arange(20) % 2)


def test_the_start_is_a_function_of_the_seed_and_far_apart() -> None:
    features, truth = blobs()
    index = torch.arange(N)
    first = start_centres(features, index, N, K, seed=1)
    assert torch.equal(first, start_centres(features, index, N, K, seed=1))
    assert not torch.equal(first, start_centres(features, index, N, K, seed=2))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, start_centres(features[order], order, N, K, seed=1))
    hits = [
        len({int(truth[(features == c).all(1)][0]) for c in start_centres(features, index, N, K, s)}) for s in range(20)
    ]
    assert np.mean(hits) > 4.5  # of five blobs; five clips drawn at random meet 3.4
    with pytest.raises(ValueError, match="none of a sample"):
        start_centres(features[:0], index[:0], N, K, seed=0)


def test_the_sample_keeps_to_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "SAMPLE_ROWS", 30)
    monkeypatch.setattr(kmeans, "SAMPLE_ROWS_PER_CLUSTER", 2)
    features = torch.arange(N)[:, None].float()
    drawn = torch.randperm(N, generator=torch.Generator().manual_seed(4))[:30]
    assert set(start_centres(features, torch.arange(N), N, K, seed=4)[:, 0].int().tolist()) <= set(drawn.tolist())


def test_unit_features_are_standardised_and_of_length_1() -> None:
    features = torch.randn(N, D, generator=torch.Generator().manual_seed(0)) * torch.arange(1, D + 1) + 100
    features[:, 0] = 7
    present = torch.arange(N) % 4 != 0
    features[~present] = float("nan")
    unit = unit_features(features, present)
    kept = features[present].double()
    standard = (kept - kept.mean(0)) / kept.std(0, correction=0)
    standard[:, 0] = 0
    expected = torch.nn.functional.normalize(standard, dim=1).float()
    torch.testing.assert_close(unit[present], expected, atol=1e-5, rtol=0)
    assert (unit[~present] == 0).all()
    assert not unit_features(torch.full((3, 2), torch.inf), torch.ones(3, dtype=torch.bool)).isfinite().all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(2, 5\)"):
        cluster(torch.zeros(4, 3), torch.zeros(2, 5))


# ---- over real processes ----

WORKER = """
import sys
import torch
import torch.distributed as dist
from selavi.labelling.solver.kmeans import cluster, label_means, start_centres, unit_features

folder, rank, world_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=world_size)
task = torch.load(f"{folder}/task.pt")
rows = torch.arange(len(task["features"])).split(task["counts"])[rank]
unit = unit_features(task["features"][rows], torch.ones(len(rows), dtype=torch.bool))
start = start_centres(unit, rows, len(task["features"]), task["num_clusters"], seed=1)
found = cluster(unit, start)
means = label_means(unit, found.labels, task["num_clusters"])
torch.save([found.labels, found.centres, found.inertia, found.num_passes, means], f"{folder}/found{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.parametrize("counts", [[250, 150], [0, 399, 1]])
def test_processes_find_what_one_finds(counts: list[int], tmp_path: Path) -> None:
    features, _ = blobs(noise=2)
    torch.save({"features": features, "counts": counts, "num_clusters": K}, tmp_path / "task.pt")
    environment = ranks.environment()
    commands = [
        [sys.executable, "-c", WORKER, str(tmp_path), str(rank), str(len(counts))] for rank in range(len(counts))
    ]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, error = process.communicate(timeout=100)
        assert process.returncode == 0, error
    parts = [torch.load(tmp_path / f"found{rank}.pt") for rank in range(len(counts))]
    unit = unit_features(features, torch.ones(N, dtype=torch.bool))
    one = cluster(unit, start_centres(unit, torch.arange(N), N, K, seed=1))
    assert torch.equal(torch.cat([part[0] for part in parts]), one.labels)
    for part in parts:
        assert torch.equal(part[1], parts[0][1]) and torch.equal(part[4], parts[0][4])
        torch.testing.assert_close(part[1], one.centres, atol=1e-5, rtol=0)
        assert part[2] == pytest.approx(one.inertia) and part[3] == one.num_passes
