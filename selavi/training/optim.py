"""SGD and its learning rate."""

import math
from collections.abc import Callable

from torch import nn
from torch.optim import SGD

from selavi.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig, clips_per_step: int) -> SGD:
    """SGD without Nesterov; the target rate is lr for every `lr_clips` clips of a step (Goyal et al., 1706.02677)."""
    lr = target_lr(config, clips_per_step)
    return SGD(model.parameters(), lr, momentum=config.momentum, weight_decay=config.weight_decay)


def target_lr(config: OptimConfig, clips_per_step: int) -> float:
    """The learning rate after the warm-up."""
    return config.lr * clips_per_step / config.lr_clips


def lr_factor(
    config: OptimConfig, clips_per_step: int, steps_per_epoch: int, total_steps: int
) -> Callable[[int], float]:
    """Step -> learning rate as a share of target_lr: linear from warmup_lr over the warm-up, then the schedule.

    With one device of `lr_clips` clips and warmup_lr = lr the rate is constant from the first step.
    """
    start = min(1.0, config.warmup_lr / target_lr(config, clips_per_step))
    warmup_steps = config.warmup_epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup_steps:
            return start + (1 - start) * step / warmup_steps
        if config.schedule == "constant":
            return 1.0
        done = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor
