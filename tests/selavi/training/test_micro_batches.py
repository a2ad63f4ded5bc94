"""Clips of a step that are encoded some at a time: the gradient is the mean of the micro-batches'."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.runs.folder import RunFolder
from selavi.training.micro_batches import MicroBatched
from selavi.training.module import SelaviModule
from selavi.training.objectives.batch_size import check_batch
from selavi.training.speed import synthetic_batch
from tests import ranks
from tests.end_to_end.runs import Train, bank
from tests.end_to_end.test_poison import poison
from tools import train

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.selavi.training.test_micro_batches import Linear, batch_of, loss_of

rank = int(sys.argv[1])
dist.init_process_group("gloo", rank=rank, world_size=2)
module = Linear(2)
together = DistributedDataParallel(module, gradient_as_bucket_view=True)
for step in range(2):
    module.optimizer_zero_grad(0, 0, torch.optim.SGD(module.parameters(), 0.1))
    together(batch_of(rank, step)).backward()
    torch.save(module.layer.weight.grad, f"{sys.argv[2]}/{rank}-{step}.pt")
dist.barrier()
del together
dist.destroy_process_group()
"""
NUM_CLIPS = 6


class Linear(MicroBatched):
    """A layer and a loss that is no mean over clips."""

    def __init__(self, micro_batch: int | None) -> None:
        super().__init__()
        self.config = Config()
        self.config.optim.batch_size, self.config.optim.micro_batch = NUM_CLIPS, micro_batch
        self.layer = nn.Linear(3, 2, bias=False)
        nn.init.eye_(self.layer.weight)

    def forward(self, batch: ClipBatch) -> torch.Tensor:
        """Stands for training_step, which Lightning calls so where it trains with several processes."""
        return self.accumulate(batch, lambda part: loss_of(self.layer, part))


def loss_of(layer: nn.Linear, batch: ClipBatch) -> torch.Tensor:
    """() the size of the mean output."""
    return layer(batch.inputs["features"]).mean(0).square().sum()


def batch_of(rank: int, step: int) -> ClipBatch:
    """Clips of a process in a step."""
    generator = torch.Generator().manual_seed(10 * rank + step)
    values = torch.randn(NUM_CLIPS, 3, generator=generator)
    present = {"features": torch.ones(NUM_CLIPS, dtype=torch.bool)}
    return ClipBatch(torch.arange(NUM_CLIPS), {"features": values}, present, torch.zeros(NUM_CLIPS, NUM_DRAWS), [])


def gradient_of(batch: ClipBatch, num_clips: int) -> torch.Tensor:
    """The mean gradient over micro-batches, each computed by itself."""
    gradients = []
    for part in batch.split(num_clips):
        layer = Linear(None).layer
        loss_of(layer, part).backward()
        assert layer.weight.grad is not None
        gradients.append(layer.weight.grad)
    return torch.stack(gradients).mean(0)


@pytest.mark.parametrize("num_clips", [1, 2, 3, 6])
def test_gradients_are_added(num_clips: int) -> None:
    module = Linear(num_clips)
    module.layer.weight.grad = torch.full((2, 3), 9.0)  # of the step before
    module.optimizer_zero_grad(0, 0, torch.optim.SGD(module.parameters(), 0.1))
    loss = module(batch_of(0, 0))
    module.optimizer_zero_grad(0, 0, torch.optim.SGD(module.parameters(), 0.1))  # as Lightning does before its backward
    loss.backward()
    torch.testing.assert_close(module.layer.weight.grad, gradient_of(batch_of(0, 0), num_clips))
    values = [loss_of(Linear(None).layer, part) for part in batch_of(0, 0).split(num_clips)]
    torch.testing.assert_close(loss, torch.stack(values).mean())


def test_two_processes_have_the_mean_of_all_micro_batches(tmp_path: Path) -> None:
    environment = ranks.environment()
    commands = [[sys.executable, "-c", SCRIPT, str(rank), str(tmp_path)] for rank in range(2)]
    processes = [subprocess.Popen(words, env=environment, cwd=ranks.ROOT) for words in commands]
    assert [process.wait(120) for process in processes] == [0, 0]
    for step in range(2):
        expected = torch.stack([gradient_of(batch_of(rank, step), 2) for rank in range(2)]).mean(0)
        for rank in range(2):
            torch.testing.assert_close(torch.load(tmp_path / f"{rank}-{step}.pt", weights_only=True), expected)


def test_a_step_sees_its_clips_in_their_order(tiny: Callable[..., Config]) -> None:
    seen = []
    for change in ("optim.micro_batch=null", "optim.micro_batch=4"):
        config = tiny(change)
        module = SelaviModule(config, [str(number) for number in range(8)], 1).eval()
        module.label_bank.labels = torch.zeros(8, config.num_label_heads, dtype=torch.int32)
        module.label_bank.num_labellings = 1
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        batch = synthetic_batch(config, 8)
        module.training_step(batch, 0)["loss"].backward()
        seen.append(module.seen)
    whole, parts = seen
    assert parts.batch.index.tolist() == list(range(8))
    for name in whole.logits:
        torch.testing.assert_close(parts.logits[name], whole.logits[name], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(parts.features[name], whole.features[name], rtol=1e-3, atol=1e-4)
        assert parts.present[name].tolist() == whole.present[name].tolist() == [True] * 8


def test_what_does_not_divide_a_step_is_refused(tiny: Callable[..., Config]) -> None:
    with pytest.raises(UsageError, match=r"optim\.micro_batch must be a divisor of optim\.batch_size = 8, got 3"):
        tiny("optim.micro_batch=3")


def test_shares_of_clusters_are_counted_over_a_micro_batch(tiny: Callable[..., Config]) -> None:
    settings = ("loss.kind=mutual_information", "labelling.method=none", "heads.num_clusters=2")
    assert check_batch(tiny(*settings, "optim.batch_size=8"), 1) == ""
    with pytest.raises(UsageError, match=r"a micro-batch of a step has 2 clips, .*; set optim\.micro_batch=4 or more"):
        check_batch(tiny(*settings, "optim.batch_size=8", "optim.micro_batch=2"), 1)


@pytest.mark.end_to_end
def test_a_run_goes_on_with_smaller_micro_batches(fit: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        culprits = poison(patch, 5)
        assert fit(folder, "optim.micro_batch=4", "trainer.save_every_s=1e-9") == 4
    clips = json.loads(RunFolder(folder).poison(5).read_text())["clips"]
    assert len(clips) == 8 and len([clip for clip in clips if not clip["finite_logits"]]) == 2  # one of each four
    assert culprits[0] in [clip["id"] for clip in clips if not clip["finite_logits"]]
    assert train.main([str(folder), "--change", "optim.micro_batch=2"]) == 0
    assert bank(folder).min() >= 0
    [change] = json.loads(RunFolder(folder).changes.read_text())
    assert change["settings"] == ["optim.micro_batch: 4 then, 2 now"]
