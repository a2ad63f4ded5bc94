"""Faults that one of several processes meets concern all of them: gloo on this machine."""

import csv
import json
from pathlib import Path

import pytest

from tests import ranks

# Ten clips; three steps and a labelling.  Neither process meets more than three faults, both together five.
WORKER = """
import sys
from datetime import timedelta
from types import SimpleNamespace
import torch
import torch.distributed as dist
from selavi.batch import ClipBatch
from selavi.config import load_config
from selavi.errors import DataError
from selavi.runs.pulse import Pulse
from selavi.training.callbacks import Poison, Survival

folder, allowed, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))
config = load_config(None, [f"run_dir={folder}", f"data.max_bad_fraction={allowed}"])
cpu = torch.device("cpu")
saving = SimpleNamespace(is_due=lambda: False)
ids = [f"clip {number}" for number in range(10)]
survival = Survival(config, ids, saving, Pulse(folder), Poison(config, ids))

def batch(*rows):
    errors = [(row, f"corrupt: by {rank}, \\u00fcber, 'a\\nb'") for row in rows]
    return ClipBatch(torch.arange(2), {}, {}, torch.zeros(2, 0), errors)

def step(*rows):
    trainer, module = SimpleNamespace(global_step=7, is_last_batch=True), SimpleNamespace(device=cpu)
    survival.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.5)}, batch(*rows), 0)

first, second = rank == 0, rank == 1
try:
    step(*([1, 2] if second else []))
    step(*([1] if first else [2]))  # once more, in another epoch
    survival.note_errors(batch(*([3, 4] if first else [])))
    survival.stop_together(cpu)
    print(sorted(survival.state_dict()["faults"]))
    step(*([5] if second else []))
    print("went on")
except DataError as error:
    print(error)
dist.destroy_process_group()
"""


# The second process has a clip whose logits are not finite; the gradient is the sum of both, as DDP makes it.
POISONED = """
import sys
from datetime import timedelta
from types import SimpleNamespace
import torch
import torch.distributed as dist
from selavi.batch import ClipBatch
from selavi.config import load_config
from selavi.errors import NumericError
from selavi.training.callbacks import Poison
from selavi.training.seen import Seen

folder, rank = sys.argv[1], int(sys.argv[3])
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))
logits = torch.zeros(2, 2, 4)
if rank == 1:
    logits[1, 1, 3] = torch.nan
present = {"video": torch.ones(2, dtype=torch.bool)}
index = torch.tensor([2 * rank, 2 * rank + 1])
batch = ClipBatch(index, {"video": torch.ones(2, 3)}, present, torch.zeros(2, 0), [])
weight = torch.nn.Parameter(torch.ones(3))
weight.grad = logits.sum().expand(3).clone()
dist.all_reduce(weight.grad)
module = SimpleNamespace(parameters=lambda: [weight], buffers=list, seen=Seen(batch, {"video": logits}))
poison = Poison(load_config(None, [f"run_dir={folder}"]), [f"clip {number}" for number in range(4)])
try:
    poison.on_before_optimizer_step(SimpleNamespace(global_step=7), module, torch.optim.SGD([weight], 1.0))
    poison.settle()
except NumericError as error:
    print(error)
dist.destroy_process_group()
"""


def outcomes(worker: str, folder: Path, allowed: float = 0.5) -> list[list[str]]:
    """What each of two processes printed."""
    outputs = ranks.outputs(2, lambda rank: ["-c", worker, str(folder), str(allowed), str(rank)])
    return [out.splitlines() for out in outputs]


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "ends"), [(0.45, True), (0.5, False)])
def test_the_faults_of_all_processes_count_together(tmp_path: Path, allowed: float, ends: bool) -> None:
    first, second = outcomes(WORKER, tmp_path, allowed)
    assert first == second  # both stop at the same place
    assert first[0] == "[1, 2, 3, 4]"
    assert ("5 of 10 training clips could not be decoded" in first[1]) == ends
    assert (first[1] == "went on") != ends
    with (tmp_path / "bad_clips.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == [f"clip {number}" for number in range(1, 6)]
    assert [row[1].split(",")[0] for row in rows] == [f"corrupt: by {rank}" for rank in (1, 1, 0, 0, 1)]


@pytest.mark.slow
def test_the_clips_of_one_process_are_named_by_all(tmp_path: Path) -> None:
    """Whose numbers are not finite; no process takes its own clips for the culprits."""
    first, second = outcomes(POISONED, tmp_path)
    assert first == second
    assert "the gradient is not finite at step 7: the logits of clip 3 are not finite" in first[0]
    clips = json.loads((tmp_path / "poison" / "step-7.json").read_text())["clips"]
    assert {clip["id"]: clip["finite_logits"] for clip in clips} == {
        "clip 0": True,
        "clip 1": True,
        "clip 2": True,
        "clip 3": False,
    }
