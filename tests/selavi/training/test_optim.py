from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD

from selavi.config import OptimConfig
from selavi.training.optim import limit_gradient, lr_factor, make_optimizer, make_skippable, target_lr

STEPS = 100  # an epoch


def rates(config: OptimConfig, clips_per_step: int, epochs: int) -> list[float]:
    """The learning rate that SGD uses at each step, through the scheduler that training uses."""
    optimizer = make_optimizer(torch.nn.Linear(2, 2), config, clips_per_step)
    factor = lr_factor(config, clips_per_step, STEPS, [epochs])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    found = []
    for _ in range(epochs * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_the_published_run_on_64_devices() -> None:
    """16 clips on each of 64 GPUs: 0.01 at first, 0.01 x 64 = 0.64 after ten epochs, and so it stays."""
    found = rates(OptimConfig(), 64 * 16, 12)
    assert found[0] == pytest.approx(0.01)
    assert found[5 * STEPS] == pytest.approx((0.01 + 0.64) / 2)
    assert found[10 * STEPS :] == pytest.approx([0.64] * 2 * STEPS)
    assert all(later >= earlier for earlier, later in pairwise(found))


def test_one_device_keeps_the_base_rate() -> None:
    assert rates(OptimConfig(), 16, 12) == pytest.approx([0.01] * 12 * STEPS)


def test_a_warm_up_never_starts_above_its_target() -> None:
    assert target_lr(OptimConfig(), 8) == pytest.approx(0.005)
    assert rates(OptimConfig(), 8, 3) == pytest.approx([0.005] * 3 * STEPS)


def test_cosine_falls_to_zero_after_the_warm_up() -> None:
    config = OptimConfig(lr=0.1, warmup_epochs=1, schedule="cosine")
    found = rates(config, 16, 5)
    assert found[STEPS] == pytest.approx(0.1)
    assert found[3 * STEPS] == pytest.approx(0.05)
    assert 0 < found[-1] < 1e-4
    assert lr_factor(config, 16, STEPS, [5])(5 * STEPS) == pytest.approx(0, abs=1e-12)


def test_training_may_be_shorter_than_the_warm_up() -> None:
    found = rates(OptimConfig(schedule="cosine"), 64 * 16, 2)
    assert found[-1] == pytest.approx(0.01 + 0.63 * 0.199)


def test_no_warm_up_starts_at_the_target() -> None:
    assert rates(OptimConfig(warmup_epochs=0), 64 * 16, 1) == pytest.approx([0.64] * STEPS)


def test_it_is_plain_sgd_with_momentum() -> None:
    group = make_optimizer(torch.nn.Linear(2, 2), OptimConfig(momentum=0.8, weight_decay=1e-4), 32).param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.02, 0.8, 1e-4, False)


def test_each_added_part_begins_at_the_target_without_warm_up() -> None:
    config = OptimConfig(lr=0.1, lr_clips=16, warmup_epochs=1, schedule="cosine")
    factor = lr_factor(config, 16, STEPS, [3, 2, 1])
    alone = lr_factor(config, 16, STEPS, [3])
    assert [factor(step) for step in range(3 * STEPS)] == [alone(step) for step in range(3 * STEPS)]
    for begin, end in ((3, 5), (5, 6)):
        assert factor(begin * STEPS) == 1
        assert factor((begin + end) * STEPS // 2) == pytest.approx(0.5)
        assert 0 < factor(end * STEPS - 1) < 1e-3
    assert factor(6 * STEPS) == pytest.approx(0, abs=1e-12)
    constant = lr_factor(OptimConfig(), 640, STEPS, [2, 3])
    assert constant(2 * STEPS) == 1  # the first part was shorter than its warm-up


def a_step(optimizer: SGD, weight: nn.Parameter, gradient: float, found_inf: float) -> None:
    weight.grad = torch.full_like(weight, gradient)
    optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
    optimizer.step()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_that_is_left_out_leaves_nothing_behind(momentum: float) -> None:
    """Also the first one, before there is any momentum, and where a checkpoint says that the other form is used."""
    weights = [nn.Parameter(torch.ones(5)) for _ in range(2)]
    skipping, plain = (SGD([weight], 0.1, momentum=momentum, weight_decay=0.01) for weight in weights)
    skipping.load_state_dict(plain.state_dict())
    make_skippable(skipping)
    a_step(skipping, weights[0], float("nan"), 1.0)
    assert torch.equal(weights[0], torch.ones(5))
    for gradient in (2.0, -1.0, 0.5):
        a_step(skipping, weights[0], gradient, 0.0)
        a_step(skipping, weights[0], float("inf"), 1.0)
        weights[1].grad = torch.full_like(weights[1], gradient)
        plain.step()
    torch.testing.assert_close(weights[0], weights[1])


def test_the_gradient_is_limited() -> None:
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.full_like(weight, 3.0)
    limit_gradient(SGD([weight], 0.1), None)
    assert weight.grad.norm() == 6
    limit_gradient(SGD([weight], 0.1), 1.5)
    torch.testing.assert_close(weight.grad.norm(), torch.tensor(1.5), atol=1e-5, rtol=0)
