"""The losses that are figures of a whole batch: two processes, each with some of its clips, learn what one would."""

import subprocess
import sys
from pathlib import Path

import torch

from selavi.training.objectives.mutual_information import joint_probabilities, mutual_information
from selavi.training.objectives.neighbours import balance, disagreement
from tests import ranks

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from tests.selavi.training.objectives.test_two_processes import CLIPS, losses_and_gradients

rank = int(sys.argv[1])
dist.init_process_group("gloo", rank=rank, world_size=2)
values, gradients = losses_and_gradients(CLIPS[rank])
for gradient in gradients:
    dist.all_reduce(gradient)
if rank == 0:
    torch.save((values, gradients / 2), sys.argv[2])
dist.destroy_process_group()
"""
H, K = 2, 3
CLIPS = [slice(0, 5), slice(5, 12)]
"""Those of each process, of the twelve."""


def losses_and_gradients(clips: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """(3,) losses of twelve clips, of which this process has some, and (3, K, K) the gradients of shared weights."""
    generator = torch.Generator().manual_seed(0)
    one, other = 2 * torch.randn(2, H, 12, K, generator=generator)[:, :, clips]
    both = (torch.arange(12) % 4 > 0)[clips]
    weights = torch.eye(K).add(0.1).requires_grad_()
    logits, again = one @ weights, other @ weights
    losses = [
        -mutual_information(joint_probabilities(logits, again, both)).mean(),
        disagreement(logits, again, both),
        balance(logits, both),
    ]
    gradients = [torch.autograd.grad(loss, weights, retain_graph=True)[0] for loss in losses]
    return torch.stack(losses).detach(), torch.stack(gradients)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    environment = ranks.environment()
    commands = [[sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "two.pt")] for rank in range(2)]
    processes = [subprocess.Popen(words, env=environment, cwd=ranks.ROOT) for words in commands]
    assert [process.wait(120) for process in processes] == [0, 0]
    values, gradients = torch.load(tmp_path / "two.pt", weights_only=True)
    expected = losses_and_gradients(slice(0, 12))
    torch.testing.assert_close(values, expected[0])
    torch.testing.assert_close(gradients, expected[1])
    assert gradients.abs().amax((1, 2)).min() > 1e-4
