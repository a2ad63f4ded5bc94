"""First labels over real processes: gloo on this machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information
from tests import ranks

# Each process holds every second clip, trains on them and saves the labels of all clips and its network.
WORKER = """
import sys
from datetime import timedelta
import torch
import torch.distributed as dist
from selavi.config import load_config
from selavi.training.first import teacher
from selavi.training.first.views import CachedViews, standardise

folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
teacher.EPOCHS = 8
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))
N, K = 121, 4
truth = torch.arange(N) % K
generator = torch.Generator().manual_seed(0)
index = torch.arange(rank, N, 2)
features, present = {}, {}
for name in ("video", "audio"):
    centres = 3 + torch.randn(K, 12, generator=generator)
    every = (centres[truth] + 0.3 * torch.randn(3, N, 12, generator=generator)).half()
    features[name] = every[:, index]
    present[name] = torch.ones(3, len(index), dtype=torch.bool)
    standardise(features[name], present[name], torch.device("cpu"))
config = load_config(None, ["heads.num_heads=2", "heads.num_clusters=4", "labelling.marginal=uniform"])
views = CachedViews(index, features, present)
made = teacher.Teacher(config, views, [str(row) for row in range(N)], torch.device("cpu"), lambda: None)
labels = made.train().labels
torch.save([labels, made.model.state_dict(), features["video"].float().mean((0, 1))], f"{folder}/made{rank}.pt")
dist.destroy_process_group()
"""

# First labels of a table that the first process has read.
OF_TABLE = """
import json, sys
from datetime import timedelta
import torch
import torch.distributed as dist
from selavi import shared_tensor
from selavi.config import load_config
from selavi.errors import UsageError
from selavi.labelling.bank import LabelBank
from selavi.training.first import give

path, machines, rank = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
shared_tensor._machine = lambda: rank % machines
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))
counts, put = [], give.put_table_labels
give.put_table_labels = lambda *of_table: counts.append(1) or put(*of_table)
config = load_config(None, [f"labelling.first={path}", "heads.num_heads=2", "heads.num_clusters=3"])
bank = LabelBank(["a", "b", "c", "d"], 2, 3)
give.check_first(config, reads=rank == 0)
said = ""
try:
    first = give.give_first_labels(config, bank, give.Source(*[None] * 4), 1)
    said = [first.agreement, first.text]
except UsageError as error:
    said = str(error)
print(json.dumps({"labels": bank.labels.tolist(), "reads": len(counts), "said": said}))
dist.barrier()
dist.destroy_process_group()
"""


def of_table(path: Path, machines: int) -> list[dict[str, Any]]:
    """What each of two processes on some machines made of a table, and how often it read it."""
    outputs = ranks.outputs(2, lambda rank: ["-c", OF_TABLE, str(path), str(machines), str(rank)])
    return [json.loads(out.splitlines()[-1]) for out in outputs]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux")
@pytest.mark.parametrize("machines", [1, 2])
def test_one_process_of_a_machine_reads_a_table_and_all_have_its_labels(tmp_path: Path, machines: int) -> None:
    path = tmp_path / "clusters.csv"
    path.write_text("id,cluster\na,x\nb,y\nd,x\n", encoding="utf-8")
    first, second = of_table(path, machines)
    assert first["labels"] == second["labels"] == [[0, 0], [1, 1], [-1, -1], [0, 0]]
    assert [first["reads"], second["reads"]] == [1, machines - 1]
    assert first["said"][0] == second["said"][0] == 1
    assert "1 of 4 clips have no cluster there" in first["said"][1]


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
def test_a_table_of_other_clips_ends_all_processes_with_one_error(tmp_path: Path, machines: int) -> None:
    path = tmp_path / "clusters.csv"
    path.write_text("id,cluster\nother,x\nothers,y\n", encoding="utf-8")
    first, second = of_table(path, machines)
    assert first["said"] == second["said"]
    assert "none of its 2 rows names one of the 4 training clips" in first["said"]


@pytest.mark.slow
def test_two_processes_teach_as_one(tmp_path: Path) -> None:
    environment = ranks.environment()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), str(rank)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
    (labels, weights, mean), (other_labels, other_weights, other_mean) = (
        torch.load(tmp_path / f"made{rank}.pt") for rank in range(2)
    )
    assert torch.equal(labels, other_labels)
    for name, values in weights.items():
        if values.is_floating_point():
            torch.testing.assert_close(values, other_weights[name], msg=name)
    assert labels.min() >= 0
    truth = (torch.arange(121) % 4).tolist()
    assert min(normalised_mutual_information(contingency_matrix(truth, column.numpy())) for column in labels.T) > 0.8
    half = 61 / 121  # standardised over both: neither half has mean 0, both together do
    torch.testing.assert_close(half * mean + (1 - half) * other_mean, torch.zeros(12), atol=1e-3, rtol=0)
