"""Memory runs out in a step, or in a labelling: one message, and the run goes on."""

from pathlib import Path

import pytest
import torch

from selavi.labelling.labeller import Labeller
from selavi.training.module import SelaviModule
from tests.end_to_end.runs import Train, assert_same_run


def tensor_too_large() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def no_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.15 GiB is free.")


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("owner", "name", "refuse", "said"),
    [
        (SelaviModule, "training_step", no_gpu_memory, "the memory of the GPU is full: 2.00 GiB more were asked for"),
        (Labeller, "relabel", tensor_too_large, "memory is full: 1152921504.6 GB more were asked for, "),
    ],
    ids=["step", "labelling"],
)
def test_a_training_without_memory_says_what_to_change_and_goes_on(
    fit_short: Train,
    short_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    owner: type,
    name: str,
    refuse: object,
    said: str,
) -> None:
    """The second call is refused: the first step, and the first labelling, are done."""
    folder, calls = tmp_path / "run", []
    inner = getattr(owner, name)

    def call(*arguments: object, **named: object) -> object:
        calls.append(name)
        if len(calls) == 2:
            refuse()  # type: ignore[operator]
        return inner(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        assert fit_short(folder) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    [line] = [line for line in error.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {said}")
    assert "labelling.memory_gb" in line and "optim.micro_batch=N" in line and "data.cache_gb" in line
    assert fit_short(folder, "resume=auto") == 0
    assert_same_run(folder, short_run)
