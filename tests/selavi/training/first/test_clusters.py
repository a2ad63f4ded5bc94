import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config, load_config
from selavi.labelling.solver import kmeans
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information
from selavi.training.first import clusters
from selavi.training.first.clusters import VectorLabels, cluster_vectors
from tests import ranks

N, K, SIZES = 120, 6, {"one": 5, "two": 4}
TRUTH = torch.arange(N) % K
CPU = torch.device("cpu")


def config(source: str) -> Config:
    kinds = "modalities={one: features, two: features}"
    files = [word for name, size in SIZES.items() for word in (f"{name}.file=none.npy", f"{name}.num_dims={size}")]
    return load_config(
        None, [kinds, *files, f"labelling.source={source}", "heads.num_heads=2", f"heads.num_clusters={K}"]
    )


def batches(rank: int = 0, num_ranks: int = 1) -> Iterator[ClipBatch]:
    """Each space knows half of the classes; clip 0 lacks both, clip 1 the first one."""
    generator = torch.Generator().manual_seed(0)
    vectors = {}
    for number, (name, size) in enumerate(SIZES.items()):
        centres = 3 * torch.randn(K, size, generator=generator) * (torch.arange(K)[:, None] // 3 == number)
        vectors[name] = centres[TRUTH] + 0.1 * torch.randn(N, size, generator=generator)
    present = {"one": torch.arange(N) > 1, "two": torch.arange(N) > 0}
    for index in torch.arange(rank, N, num_ranks).split(32):
        inputs = {name: torch.where(present[name][index, None], vectors[name][index], 0) for name in SIZES}
        yield ClipBatch(
            index, inputs, {name: present[name][index] for name in SIZES}, torch.rand(len(index), NUM_DRAWS), []
        )


def label(source: str) -> VectorLabels:
    return cluster_vectors(config(source), list(SIZES), N, lambda _: batches(), CPU, lambda: None)


def nmi(labels: torch.Tensor, truth: torch.Tensor = TRUTH) -> float:
    kept = labels >= 0
    return normalised_mutual_information(contingency_matrix(truth[kept].tolist(), labels[kept].numpy()))


@pytest.mark.parametrize("source", ["joint", "concat"])
def test_both_together_tell_what_neither_can(source: str) -> None:
    made = label(source)
    assert made.labels.shape == (N, 2) and made.num_sampled == N
    assert [nmi(column) for column in made.labels.T] == pytest.approx([1, 1], abs=0.02)
    assert (made.labels[0] == -1).all() and (made.labels[1:] >= 0).all()


def test_each_labels_itself_or_the_other() -> None:
    """One knows classes 0 to 2, two the others: three clusters of the one that labels are told apart."""
    for source, first in (("own", 0), ("cross", 1)):
        made = label(source).labels
        assert made.shape == (N, 4)
        for columns, knows in ((made[:, :2], first), (made[:, 2:], 1 - first)):
            own = knows == TRUTH // 3
            own[:2] = False
            assert min(nmi(column[own], TRUTH[own]) for column in columns.T) > 0.9
            assert (columns[1] == -1).all() == (knows == 0)
    one = label("one").labels
    assert (one[:2] == -1).all() and (one[2:] >= 0).all()


def test_a_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "SAMPLE_ROWS", 60)
    monkeypatch.setattr(clusters, "SAMPLE_ROWS_PER_CLUSTER", 1)
    made = label("joint")
    monkeypatch.setattr(kmeans, "SAMPLE_ROWS", 1)
    monkeypatch.setattr(kmeans, "SAMPLE_ROWS_PER_CLUSTER", 4)  # 24 of the sample, not of all clips, start K-means
    again = label("joint")
    assert made.num_sampled == again.num_sampled == 60
    assert min(nmi(column) for labels in (made.labels, again.labels) for column in labels.T) > 0.95


WORKER = """
import sys
from datetime import timedelta
import torch
import torch.distributed as dist
from tests.selavi.training.first.test_clusters import CPU, N, SIZES, batches, cluster_vectors, config

folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))
made = cluster_vectors(config("joint"), list(SIZES), N, lambda _: batches(rank, 2), CPU, lambda: None)
torch.save(made.labels, f"{folder}/made{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_cluster_as_one(tmp_path: Path) -> None:
    environment = ranks.environment()
    commands = [[sys.executable, "-c", WORKER, str(tmp_path), str(rank)] for rank in range(2)]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
    one = label("joint").labels
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"made{rank}.pt"), one)
