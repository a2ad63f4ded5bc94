"""How many clips a second the model processes on this device: a few steps on synthetic batches of the run's shape."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from statistics import median

import torch

from selavi.augment import Augment
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.inference.device import best_device
from selavi.loss import selavi_loss
from selavi.modalities import examples
from selavi.model import SelaviModel
from selavi.randomness import mix
from selavi.training.optim import make_optimizer


@dataclass(frozen=True)
class ModelSpeed:
    """Clips a second of one device; the copy to the device and the augmentation are part of both."""

    training: float
    """Forward, backward and the optimiser's step."""
    labelling: float
    """The encoders without gradient, as a labelling calls them."""
    batch_size: int
    """Clips of the training steps that were timed: fewer than `optim.batch_size` where time was short."""
    device: str


def measure_model(config: Config, budget_s: float) -> ModelSpeed:
    """Time training steps and labelling passes for about `budget_s` seconds, at least one small batch of each.

    Raises:
        UsageError: a batch does not fit in the device's memory, or the run asks for a GPU and there is none.
    """
    device = best_device(config.trainer.accelerator, required=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(config.seed, "model"))
        model = SelaviModel(config).to(device)
    augment = Augment(config).to(device)
    optimizer = make_optimizer(model, config.optim, config.optim.batch_size)
    heads, clip = config.heads, config.trainer.gradient_clip_val
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def precision() -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed")

    def train(batch: ClipBatch) -> None:
        batch = batch.to(device)
        labels = torch.zeros(len(batch.index), heads.num_heads, dtype=torch.int64, device=device)
        with precision():
            logits = model(augment(batch, random=True), batch.present)
            loss = selavi_loss(logits, labels, model.branch_present(batch.present))
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        wait()

    @torch.no_grad()
    def label(batch: ClipBatch) -> None:
        with precision():
            model.features(augment(batch.to(device), random=True))
        wait()

    try:
        training, batch_size = _rate(config, train, config.optim.batch_size, 0.65 * budget_s)
        model.eval()
        labelling, _ = _rate(config, label, config.labelling.batch_size, 0.35 * budget_s)
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"the run's batches do not fit in the memory of {_name(device)}; lower optim.batch_size="
            f"{config.optim.batch_size} and labelling.batch_size={config.labelling.batch_size}, or take "
            "trainer.precision=bf16-mixed"
        ) from error
    return ModelSpeed(training, labelling, batch_size, _name(device))


def measure_faster(config: Config, now: ModelSpeed, budget_s: float) -> dict[str, tuple[float, float]]:
    """Time the model with settings that may make it faster.

    Args:
        config: of the run.
        now: of measure_model for it.
        budget_s: seconds for all together, roughly.

    Returns:
        Setting -> clips a second of training and of labelling; without what does not fit in the device's memory.
    """
    changes, speeds = {}, {}
    if config.trainer.precision == "32-true":
        changes["trainer.precision=bf16-mixed"] = replace(
            config, trainer=replace(config.trainer, precision="bf16-mixed")
        )
    doubled = 2 * config.optim.batch_size
    if now.batch_size == config.optim.batch_size:  # else there is no time for such batches
        changes[f"optim.batch_size={doubled}"] = replace(config, optim=replace(config.optim, batch_size=doubled))
    for setting, changed in changes.items():
        with suppress(UsageError):
            speed = measure_model(changed, budget_s / len(changes))
            speeds[setting] = (speed.training, speed.labelling)
    return speeds


def synthetic_batch(config: Config, num_clips: int) -> ClipBatch:
    """Noise of the shape and type that the loader gives, every modality present."""
    seed = mix(config.seed, "speed", num_clips)
    inputs = {name: torch.from_numpy(values) for name, values in examples(config, num_clips, seed).items()}
    return ClipBatch(
        index=torch.arange(num_clips),
        inputs=inputs,
        present={name: torch.ones(num_clips, dtype=torch.bool) for name in inputs},
        draws=torch.rand(num_clips, NUM_DRAWS, generator=torch.Generator().manual_seed(seed)),
        errors=[],
    )


def _rate(config: Config, step: Callable[[ClipBatch], None], batch_size: int, budget_s: float) -> tuple[float, int]:
    """Clips a second of `step` and the batch it was timed on: the run's, or the largest that fits into the budget.

    The first step (two clips, with everything that is done once) counts only where nothing else fits.
    """
    until_s = time.monotonic() + budget_s
    num_clips, times_s = min(2, batch_size), []
    batch = synthetic_batch(config, num_clips)
    while True:
        began_s = time.monotonic()
        step(batch)
        now_s = time.monotonic()
        times_s.append(now_s - began_s)
        larger = min(batch_size, 4 * num_clips)
        if num_clips < batch_size and now_s + 2 * times_s[-1] * larger / num_clips < until_s:
            num_clips, times_s = larger, []
            batch = synthetic_batch(config, num_clips)
        elif now_s + times_s[-1] > until_s or len(times_s) > 50:
            # the first step of a size allocates and chooses algorithms
            return num_clips / median(times_s[1:] or times_s), num_clips


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"
