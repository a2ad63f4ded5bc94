"""SGD and its learning rate."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from selavi.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig, clips_per_step: int) -> SGD:
    """SGD without Nesterov; the target rate is lr for every `lr_clips` clips of a step (Goyal et al., 1706.02677)."""
    lr = target_lr(config, clips_per_step)
    return SGD(model.parameters(), lr, momentum=config.momentum, weight_decay=config.weight_decay)


def make_skippable(optimizer: Optimizer) -> None:
    """Let SGD leave a step out where its `found_inf` is 1: a number on the device, which the host need not read.

    The fused form looks at that.  What the optimiser remembers begins as zeros, which is the same as none: a first step
    that is left out would leave memory behind that nothing has been written to.
    """
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False  # checkpoints of earlier versions say otherwise
        for parameter in group["params"] if group["momentum"] else []:
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def limit_gradient(optimizer: Optimizer, largest: float | None) -> None:
    """Scale the gradient to a norm of at most `largest`, as Lightning does, which refuses fused optimisers."""
    if largest is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, largest)


def target_lr(config: OptimConfig, clips_per_step: int) -> float:
    """The learning rate after the warm-up."""
    return config.lr * clips_per_step / config.lr_clips


def lr_factor(
    config: OptimConfig, clips_per_step: int, steps_per_epoch: int, parts: Sequence[int]
) -> Callable[[int], float]:
    """Step -> learning rate as a share of target_lr: linear from warmup_lr over the warm-up, then the schedule.

    The schedule begins anew, at the full rate and without warm-up, with each part after the first.  With one device
    of `lr_clips` clips and warmup_lr = lr the rate is constant from the first step.

    Args:
        config: of SGD.
        clips_per_step: on all devices.
        steps_per_epoch: optimiser steps.
        parts: epochs of each part of the training.
    """
    start = min(1.0, config.warmup_lr / target_lr(config, clips_per_step))
    warmup_steps = config.warmup_epochs * steps_per_epoch
    ends = [epochs * steps_per_epoch for epochs in accumulate(parts)]

    def factor(step: int) -> float:
        part = min(bisect_right(ends, step), len(ends) - 1)
        if part == 0 and step < warmup_steps:
            return start + (1 - start) * step / warmup_steps
        if config.schedule == "constant":
            return 1.0
        begin = ends[part - 1] if part else warmup_steps
        done = (step - begin) / max(1.0, ends[part] - begin)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor
