"""Labelling over real processes: gloo on this machine."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selavi.labelling.solver.transport import assign
from tests import ranks

# Each process takes its rows of the table, labels them and saves what it found; one of them may be told to end early.
WORKER = """
import os, sys
from datetime import timedelta
import torch
import torch.distributed as dist
from selavi.distributed import all_sum
from selavi.labelling.solver.transport import assign

folder, rank, world_size, ends_early = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
task = torch.load(f"{folder}/task.pt")
num_sums = 0

def sum_ranks(tensor):
    global num_sums
    num_sums += 1
    if rank == ends_early and num_sums == 4:
        os._exit(9)
    return all_sum(tensor)

rows = task["scores"].split(task["counts"])[rank]
found = assign(rows, task["marginal"], sum_ranks=sum_ranks)
torch.save([found.labels, found.potentials, found.num_passes, found.converged], f"{folder}/found{rank}.pt")
dist.destroy_process_group()
"""


def log_table(num_clips: int, num_clusters: int) -> Tensor:
    return (2 * torch.randn(num_clips, num_clusters, generator=torch.Generator().manual_seed(0))).log_softmax(1)


def run(folder: Path, scores: Tensor, counts: list[int], ends_early: int = -1) -> list[subprocess.CompletedProcess]:
    marginal = torch.full((scores.shape[1],), 1 / scores.shape[1], dtype=torch.float64)
    torch.save({"scores": scores, "marginal": marginal, "counts": counts}, folder / "task.pt")
    environment = ranks.environment()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(rank), str(len(counts)), str(ends_early)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(len(counts))
    ]
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=200)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended


@pytest.mark.parametrize(
    "counts", [pytest.param([40_000], marks=pytest.mark.slow), [15_001, 24_999], [20_000, 0, 19_999, 1]]
)
def test_processes_find_the_labels_of_one(counts: list[int], tmp_path: Path) -> None:
    scores = log_table(40_000, 20)
    whole = assign(scores, torch.full((20,), 1 / 20, dtype=torch.float64))
    for process in run(tmp_path, scores, counts):
        assert process.returncode == 0, process.stderr
    found = [torch.load(tmp_path / f"found{rank}.pt") for rank in range(len(counts))]
    labels = torch.cat([part[0] for part in found])
    assert (labels == whole.labels).double().mean() >= 0.9999
    for part in found:
        assert part[3]
        assert torch.equal(part[1], found[0][1])
        assert part[2] == found[0][2]


def test_a_process_that_ends_ends_the_others_with_a_reason(tmp_path: Path) -> None:
    ended = run(tmp_path, log_table(4000, 20), [2000, 1000, 1000], ends_early=1)
    assert ended[1].returncode == 9
    for process in (ended[0], ended[2]):
        assert process.returncode == 1
        assert "lost touch with another one, which has ended or hangs" in process.stderr
