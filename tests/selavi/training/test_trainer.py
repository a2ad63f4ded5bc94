"""What is said where another process is gone, and what GPUs and processes are asked for."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy

from selavi.config import Config
from selavi.errors import Interrupted
from selavi.runs.pulse import Pulse
from selavi.training.trainer import fit, make_trainer


def failing(text: str, world_size: int = 2) -> Any:
    """A trainer whose training ends with an error of torch's."""

    def end(*_: Any, **__: Any) -> None:
        raise RuntimeError(text)

    return SimpleNamespace(fit=end, world_size=world_size, strategy=SimpleNamespace(launcher=None))


def test_a_lost_process_is_named_with_torchs_reason_and_without_its_source(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path)
    pulse.world_size = 2
    pulse.folder.mkdir()
    (pulse.folder / "1").write_text("pid 7 on node1")
    reason = "[/builds/torch/unbound_buffer.cc:78] Timed out waiting 20000ms for recv\noperation to complete"
    with pytest.raises(Interrupted) as error:
        fit(failing(reason), None, None, None, pulse)  # type: ignore[arg-type]
    assert str(error.value).startswith("lost touch with process 1 of 2 (pid 7 on node1), last heard of ")
    assert " s ago (Timed out waiting 20000ms for recv operation to complete): it has ended, or " in str(error.value)


@pytest.mark.parametrize(("text", "world_size"), [("Timed out", 1), ("shapes do not fit", 2)])
def test_other_errors_are_told_as_they_are(tmp_path: Path, text: str, world_size: int) -> None:
    with pytest.raises(RuntimeError, match=text):
        fit(failing(text, world_size), None, None, None, Pulse(tmp_path))  # type: ignore[arg-type]


def test_what_makes_gpus_and_processes_faster_is_asked_for(tiny: Callable[..., Config]) -> None:
    words = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=ddp", "trainer.timeout_s=77")
    strategy = make_trainer(tiny(*words), []).strategy
    assert torch.backends.cudnn.benchmark and torch.backends.cuda.matmul.allow_tf32
    assert isinstance(strategy, DDPStrategy)
    assert strategy._timeout == timedelta(seconds=77)
    assert strategy._ddp_kwargs["gradient_as_bucket_view"] is True
