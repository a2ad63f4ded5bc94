"""Compiled encoders are the same function, and a compiler that fails ends no run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selavi.config import TrainerConfig
from selavi.training.compiled import LEAST_STEPS, Compiled, compiles
from tests.end_to_end.runs import losses, weights

Fit = Callable[..., int]


class FailsBackward(torch.autograd.Function):
    """What a compiler gives whose backward pass does not compile."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise RuntimeError("no compiler here\nand much more")


def fails_forward(encode: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    def compiled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        encode(inputs)
        raise RuntimeError("no compiler here\nand much more")

    return compiled


def fails_backward(encode: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    return lambda inputs: {name: FailsBackward.apply(values) for name, values in encode(inputs).items()}


def fails_at_once(encode: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    raise RuntimeError("no compiler here\nand much more")


def made() -> tuple[nn.ModuleDict, Callable[..., dict[str, Tensor]], dict[str, Tensor]]:
    encoders = nn.ModuleDict({name: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for name in ("a", "b")})
    inputs = {name: torch.randn(4, 3) for name in encoders}
    return encoders, lambda given: {name: encoder(given[name]) for name, encoder in encoders.items()}, inputs


@pytest.mark.parametrize("failing", [fails_at_once, fails_forward, fails_backward])
def test_a_compiler_that_fails_is_named_once_and_done_without(
    failing: Callable[..., object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", failing)
    encoders, encode, inputs = made()
    compiled = Compiled(encode, encoders)
    for times in (1, 2):
        sum(values.sum() for values in compiled(inputs).values()).backward()  # type: ignore[union-attr]
        assert all(buffer.item() == times for name, buffer in encoders.named_buffers() if "num_batches" in name)
    said = capsys.readouterr().err
    assert said.count("the encoders cannot be compiled") == 1 and "no compiler here)" in said and "more" not in said


def test_the_first_call_gives_and_changes_what_a_plain_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda encode: encode)
    encoders, encode, inputs = made()
    features = Compiled(encode, encoders)(inputs)
    statistics = [buffer.clone() for buffer in encoders.buffers()]
    assert all(weight.grad is None for weight in encoders.parameters())
    for layer in encoders.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.reset_running_stats()
    plain = encode(inputs)
    assert all(torch.equal(features[name], plain[name]) for name in plain)
    assert all(map(torch.equal, statistics, encoders.buffers()))


def test_an_error_after_the_first_call_is_the_encoders_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda encode: encode)
    encoders, encode, inputs = made()
    compiled = Compiled(encode, encoders)
    compiled(inputs)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        compiled({name: values[:, :2] for name, values in inputs.items()})


@pytest.mark.parametrize("has_gpu", [True, False])
def test_long_trainings_on_a_gpu_are_compiled_unless_told(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    trainer = TrainerConfig()
    assert compiles(trainer, LEAST_STEPS) == has_gpu
    assert not compiles(trainer, LEAST_STEPS - 1)
    assert not compiles(replace(trainer, accelerator="cpu"), LEAST_STEPS)
    assert compiles(replace(trainer, compile=True), 1)
    assert not compiles(replace(trainer, compile=False), LEAST_STEPS)


@pytest.mark.slow
def test_a_run_with_compiled_encoders_learns_the_same_and_has_the_same_keys(fit: Fit, tmp_path: Path) -> None:
    for name in ("false", "true"):
        assert fit(tmp_path / name, f"trainer.compile={name}") == 0
    plain, compiled = (tmp_path / name for name in ("false", "true"))
    assert weights(plain).keys() == weights(compiled).keys()
    assert losses(compiled) == pytest.approx(losses(plain), rel=0.05)
    assert losses(compiled)[0] == pytest.approx(losses(plain)[0], rel=1e-4)
    assert not any(isinstance(value, nn.Module) for value in weights(compiled).values())
