"""Tensors of several processes: gloo on this machine."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from selavi.shared_tensor import share, wait_for_all
from tests import ranks

SHARING = """
import json, os, sys
import torch
import torch.distributed as dist
from pathlib import Path
from selavi import shared_tensor

rank, kind = int(sys.argv[1]), sys.argv[2]
if kind == "two machines" and rank == 2:
    shared_tensor._machine = lambda: 2
if kind == "cannot see the first" and rank == 1:
    shared_tensor._PROCESSES = Path("/nowhere")
    shared_tensor._machine = lambda: 1
if kind == "cannot see the first" and rank != 1:
    shared_tensor._machine = lambda: 1
dist.init_process_group("gloo", rank=rank, world_size=3)
shared = shared_tensor.share(torch.tensor([[7], [8]], dtype=torch.int32).expand(2, 3))
first = shared.values.tolist()
shared_tensor.wait_for_all()
if rank == 0:
    shared.values[1, 2] = -5
shared_tensor.wait_for_all()

def is_mapped():
    return "memfd:selavi-shared" in Path("/proc/self/maps").read_text()

said = {"first": first, "then": shared.values[1, 2].item(), "writes": shared.is_writer, "mapped": is_mapped()}
del shared
links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
print(json.dumps(said | {"gone": not is_mapped() and not any("memfd:selavi-shared" in link for link in links)}))
dist.barrier()
dist.destroy_process_group()
"""

# Three labellings of the world of test_labeller by three processes, by two groups of heads each: passes 0 to 5.  The
# first and the last, which gives statistics, are stopped before their second group and taken up; of features that are
# kept some clips lack in the second.  Once with labels that the processes share, and once with their own.
LABELLING = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from selavi import shared_tensor
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import FeatureTable
from selavi.labelling.labeller import Draft, Labeller
from tests.selavi.labelling.test_labeller import N, World, settings

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=3)
mine = torch.arange(N)[rank::3]

class Stopped(Exception):
    pass

def copied(state):
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}

def label(features):
    config = settings(f"labelling.features={features}", "labelling.head_groups=2")
    world, bank, told, stops = World(config), LabelBank([str(n) for n in range(N)], 4, 4), [], {1, 5}

    def collect(number):
        if number in stops:
            stops.remove(number)
            raise Stopped
        own = mine[mine % 7 > 0] if features == "kept" and number in (2, 3) else mine
        whole = {name: values[own] for name, values in world.features(number).items()}
        return FeatureTable(own, whole, {name: values[own] for name, values in world.present.items()})

    def relabel(labeller, is_last):
        return labeller.relabel(bank, collect, world.head_logits, world.permute, is_last)

    for is_last in (False, False, True):
        labeller = Labeller(config)
        try:
            report, sure = relabel(labeller, is_last)
        except Stopped:
            again = Labeller(config)
            again.draft = Draft.from_state(bank, copied(labeller.draft.state_dict()), Path(folder))
            report, sure = relabel(again, is_last)
        sure = None if sure is None else torch.stack([*vars(sure).values()])
        figures = [report.churn, report.num_unseen, report.used_clusters]
        told.append([bank.labels.clone(), bank.probe, figures, sure])
    assert not stops
    return told

made = {}
for how in ("shared", "own"):
    if how == "own":
        shared_tensor._machine = lambda: rank
    made[how] = {features: label(features) for features in ("fresh", "kept")}
torch.save(made, f"{folder}/made{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


def outputs(script: str, *words: str) -> list[str]:
    """What each of three processes printed."""
    return ranks.outputs(3, lambda rank: ["-c", script, str(rank), *words])


def said(kind: str) -> list[dict[str, Any]]:
    return [json.loads(out.splitlines()[-1]) for out in outputs(SHARING, kind)]


def test_one_process_keeps_its_tensor() -> None:
    own = torch.arange(6).view(2, 3)
    shared = share(own)
    assert shared.values is own and shared.is_writer
    spread = share(torch.tensor(-1).expand(2, 3)).values
    spread[0, 0] = 5
    assert spread.tolist() == [[5, -1, -1], [-1, -1, -1]]
    assert share(torch.empty(0, 3)).values.shape == (0, 3)
    wait_for_all()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux")
def test_processes_of_a_machine_have_the_memory_of_the_first() -> None:
    for rank, process in enumerate(said("one machine")):
        assert process["first"] == [[7, 7, 7], [8, 8, 8]]
        assert process["then"] == -5
        assert process["writes"] == (rank == 0)
        assert process["mapped"]
        assert process["gone"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux")
@pytest.mark.parametrize(("kind", "alone"), [("two machines", 2), ("cannot see the first", 1)])
def test_a_process_elsewhere_has_memory_of_its_own(kind: str, alone: int) -> None:
    for rank, process in enumerate(said(kind)):
        assert process["first"] == [[7, 7, 7], [8, 8, 8]]
        assert process["then"] == (8 if rank == alone else -5)
        assert process["writes"] == (rank in (0, alone))
        assert process["mapped"] == (rank != alone)
        assert process["gone"]


@pytest.mark.slow
def test_labels_that_are_shared_are_those_that_each_process_would_have(tmp_path: Path) -> None:
    outputs(LABELLING, str(tmp_path))
    made = [torch.load(tmp_path / f"made{rank}.pt", weights_only=True) for rank in range(3)]
    for features in ("fresh", "kept"):
        expected = made[0]["own"][features]
        assert (expected[1][2][1] > 0) == (features == "kept")
        for rank, of_rank in enumerate(made):
            for how in ("shared", "own"):
                for number, (labels, probe, figures, sure) in enumerate(of_rank[how][features]):
                    wanted = expected[number]
                    assert torch.equal(labels, wanted[0])
                    assert torch.equal(probe.nan_to_num(-1), wanted[1].nan_to_num(-1))
                    assert str(figures) == str(wanted[2])  # the first churn is nan
                    if rank == 0 and number == 2:
                        assert torch.equal(sure.nan_to_num(-1), wanted[3].nan_to_num(-1))
                    else:
                        assert sure is None
