"""Compiled encoders are the same function, and a compiler that fails ends no run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selavi.training.compiled import Compiled
from tests.end_to_end.runs import losses, weights

Fit = Callable[..., int]


def test_a_compiler_that_fails_is_named_once_and_done_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(function: object) -> object:
        def compiled(_: Tensor) -> Tensor:
            raise RuntimeError("no compiler here\nand much more")

        return compiled

    monkeypatch.setattr(torch, "compile", failing)
    double = Compiled(lambda values: 2 * values, "the encoders")
    assert [double(torch.tensor(3.0)).item() for _ in range(2)] == [6.0, 6.0]
    said = capsys.readouterr().err
    assert said.count("the encoders cannot be compiled") == 1 and "no compiler here)" in said and "more" not in said


def test_an_error_of_the_function_itself_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    calls: list[int] = []

    def fails_later(number: int) -> int:
        calls.append(number)
        if number:
            raise ValueError("out of memory")
        return number

    compiled = Compiled(fails_later, "the encoders")
    assert compiled(0) == 0
    with pytest.raises(ValueError, match="out of memory"):
        compiled(1)
    assert calls == [0, 1]


@pytest.mark.slow
def test_a_run_with_compiled_encoders_learns_the_same_and_has_the_same_keys(fit: Fit, tmp_path: Path) -> None:
    for name in ("false", "true"):
        assert fit(tmp_path / name, f"trainer.compile={name}") == 0
    plain, compiled = (tmp_path / name for name in ("false", "true"))
    assert weights(plain).keys() == weights(compiled).keys()
    assert losses(compiled) == pytest.approx(losses(plain), rel=0.05)
    assert losses(compiled)[0] == pytest.approx(losses(plain)[0], rel=1e-4)
    assert not any(isinstance(value, nn.Module) for value in weights(compiled).values())
