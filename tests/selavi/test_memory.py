import re

import numpy as np
import pyarrow as pa
import pytest
import torch

from selavi.cli import run_tool
from selavi.memory import explain_memory

ON_GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.15 GiB is free."
)


def numpy_array() -> None:
    np.zeros(2**60, np.uint8)


def torch_tensor() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def arrow_buffer() -> None:
    pa.allocate_buffer(2**60)


def bytes_of_python() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("action", "asked"),
    [(numpy_array, "1.00 EiB"), (torch_tensor, "1152921504.6 GB"), (arrow_buffer, "1152921504.6 GB")],
)
def test_a_command_without_memory_ends_with_one_line(
    action: object, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the errors of the libraries themselves."""
    assert run_tool(action) == 2  # type: ignore[arg-type]
    error = capsys.readouterr().err
    assert error.startswith(f"error: memory is full: {asked} more were asked for, ")
    assert re.search(r", \d+\.\d GB are free\. What may help: .* labelling\.memory_gb.* optim\.micro_batch=N", error)
    assert error.count("\n") == 1


def test_a_gpu_without_memory_is_named_with_its_own_figures() -> None:
    said = explain_memory(torch.OutOfMemoryError(ON_GPU)) or ""
    assert said.startswith("the memory of the GPU is full: 2.00 GiB more were asked for, 1.15 GiB are free. What may")


def test_an_error_without_figures_still_says_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool(bytes_of_python) == 2
    assert re.match(r"error: memory is full: \d+\.\d GB are free\. What may help", capsys.readouterr().err)


def test_other_errors_stay_crashes() -> None:
    assert explain_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert explain_memory(ValueError("out of memory")) is None

    def action() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_tool(action)
