from collections.abc import Callable

import pytest
import torch

from selavi.config import Config
from selavi.errors import UsageError
from selavi.training import speed

Tiny = Callable[..., Config]


@pytest.mark.parametrize("modalities", ["video,audio", "audio"])
def test_batches_have_the_shape_of_the_run(tiny: Tiny, modalities: str) -> None:
    batch = speed.synthetic_batch(tiny(f"modalities=[{modalities}]"), 3)
    assert set(batch.inputs) == set(batch.present) == set(modalities.split(","))
    assert (batch.inputs["audio"].shape, batch.inputs["audio"].dtype) == ((3, 8000), torch.int16)
    if "video" in batch.inputs:
        assert (batch.inputs["video"].shape, batch.inputs["video"].dtype) == ((3, 2, 32, 32, 3), torch.uint8)


def test_a_budget_of_nothing_still_measures(tiny: Tiny) -> None:
    found = speed.measure_model(tiny(), 0.0)
    assert found.training > 0 and found.labelling > 0 and found.batch_size == 2


def test_with_time_the_batch_is_that_of_the_run(tiny: Tiny) -> None:
    assert speed.measure_model(tiny(), 1000.0).batch_size == 8  # ends after 50 steps


def test_what_may_be_faster_is_measured(tiny: Tiny) -> None:
    now = speed.ModelSpeed(1.0, 1.0, 8, "")
    faster = speed.measure_faster(tiny(), now, 0.0)
    assert set(faster) == {"trainer.precision=bf16-mixed", "optim.batch_size=16"}
    assert all(rate > 0 for rates in faster.values() for rate in rates)
    assert speed.measure_faster(tiny("trainer.precision=bf16-mixed"), speed.ModelSpeed(1.0, 1.0, 2, ""), 0.0) == {}


def test_a_batch_that_does_not_fit_is_a_usage_error(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speed, "_rate", full)
    with pytest.raises(UsageError, match=r"do not fit in the memory of the processor; lower optim\.batch_size=8"):
        speed.measure_model(tiny(), 1.0)
    assert speed.measure_faster(tiny(), speed.ModelSpeed(1.0, 1.0, 8, ""), 0.0) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"trainer\.accelerator=gpu, but torch sees no GPU"):
        speed.measure_model(tiny("trainer.accelerator=gpu"), 0.0)
