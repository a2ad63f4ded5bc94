"""How often the host waits for the device in a step, counted without a device.

Tensors that stand for those of a device are of a class of their own, and so is whatever is computed from them: the
clips, what the model makes of them, the loss, and the norm of the gradient.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor

from selavi import distributed
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.runs.pulse import Pulse
from selavi.training.callbacks import LabellingCallback, Poison, Survival, survival
from selavi.training.trainer import make_trainer

READS = ("item", "tolist", "cpu", "numpy", "nonzero", "__float__", "__int__", "__bool__", "__index__", "__array__")
"""By which the host reads numbers, and waits until the device has them."""
OTHERS = ("new_tensor", "linalg_inv", "unique", "masked_select")
"""What waits, too: it copies numbers of the host at once, looks for a fault, or at how many there are."""
COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "barrier")
LATE = 3
"""Readings that begin in a step and end in the next one: whether the gradient is finite, the loss, the flags."""


class OnDevice(Tensor):
    """A tensor of a device: what is computed from it is one, too, and whatever waits for it is counted."""

    counts: ClassVar[Counter[str]] = Counter()

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if name in (*READS, *OTHERS):
            cls.counts[name] += 1
        if name == "__getitem__" and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            cls.counts["chosen by bool"] += 1
        with torch._C.DisableTorchFunctionSubclass():
            if name == "to" and args[1:2] == ("cpu",):
                cls.counts["late" if kwargs.get("non_blocking") else "copied"] += 1
                return args[0].as_subclass(Tensor).clone()
            return _marked(function(*args, **kwargs))


def _marked(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.as_subclass(OnDevice)
    if type(values) in (tuple, list):
        return type(values)(map(_marked, values))
    return values


def counts_of_steps(fit: Callable[..., int], folder: Path, patch: pytest.MonkeyPatch, *words: str) -> list[Counter]:
    """What is counted in each step of a run of two epochs of four, but for those that end an epoch."""
    steps: list[Counter] = []
    norm, label, begin = (
        torch.nn.utils.get_total_norm,
        LabellingCallback.on_train_batch_start,
        Poison.on_train_batch_start,
    )

    def end(self: Any, trainer: Any, module: Any, batch: ClipBatch, number: int) -> None:
        if number:
            steps.append(Counter(OnDevice.counts))
        label(self, trainer, module, batch, number)

    def begin_anew(self: Any, *others: Any) -> None:
        OnDevice.counts.clear()
        begin(self, *others)

    patch.setattr(LabellingCallback, "on_train_batch_start", end)
    patch.setattr(Poison, "on_train_batch_start", begin_anew)
    patch.setattr(ClipBatch, "to", lambda self, _: self._each(lambda tensor: _marked(tensor.clone())))
    patch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: _marked(norm(gradients)))
    assert fit(folder, *words) == 0
    return steps


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_no_step_waits_for_the_device(
    fit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_nan: str
) -> None:
    words = (f"trainer.on_nan={on_nan}", "trainer.log_every_n_steps=100", "video.colour_jitter=0.4")
    counts = counts_of_steps(fit, tmp_path / "run", monkeypatch, *words)
    assert counts == [{"late": LATE}] * 6


def test_a_step_waits_once_where_its_loss_is_logged(
    fit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = counts_of_steps(fit, tmp_path / "run", monkeypatch, "trainer.log_every_n_steps=1")
    assert counts == [{"late": LATE, "item": 1}] * 6


def test_several_processes_exchange_one_message_a_step(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside those of the gradient; Lightning's own, with a read of it, is not sent."""
    config, messages = tiny(), Counter()
    for name in COLLECTIVES:
        monkeypatch.setattr(dist, name, lambda *_, name=name, **__: messages.update([name]))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(survival, "world_size", lambda: 2)
    saving = SimpleNamespace(is_due=lambda: False)
    after = Survival(config, ["a", "b"], saving, Pulse(config.run_dir), Poison(config, ["a", "b"]))  # type: ignore[arg-type]
    loop = make_trainer(config, []).fit_loop.epoch_loop
    batch = ClipBatch(torch.arange(2), {}, {}, torch.zeros(2, 0), [])
    trainer, module = SimpleNamespace(global_step=1, is_last_batch=False), SimpleNamespace(device=torch.device("cpu"))
    OnDevice.counts.clear()
    for _ in range(5):
        loop._broadcast_sigterm_tensor()
        after.on_train_batch_end(trainer, module, {"loss": _marked(torch.tensor(0.5))}, batch, 0)  # type: ignore[arg-type]
    assert messages == {"all_reduce": 5}
    assert OnDevice.counts == {"late": 5}
    assert callable(_TrainingEpochLoop._broadcast_sigterm_tensor), "else Lightning does it elsewhere"
