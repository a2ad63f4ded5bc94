"""How many clips a second the model processes on this device: a few steps on synthetic batches of the run's shape."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from selavi.augment import Augment
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.inference.device import best_device, chosen_precision
from selavi.modalities import examples
from selavi.model import SelaviModel
from selavi.pretrained import load_encoders
from selavi.randomness import mix
from selavi.training.objectives.cross_entropy import selavi_loss
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


class Trial:
    """A run's model on its device, and what a run does with a batch there; each method returns when it is done.

    Args:
        config: of the run.

    Raises:
        UsageError: the run asks for a GPU and there is none, or there are no such weights to start from.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = best_device(config.trainer.accelerator, required=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(config.seed, "model"))
            self.model = SelaviModel(config)
        if config.encoders.init:
            load_encoders(self.model, config, Path(config.encoders.init))
        self.model.to(self.device)
        self.augment = Augment(config).to(self.device)
        self.optimizer = make_optimizer(self.model, config.optim, config.optim.batch_size)

    @property
    def device_name(self) -> str:
        """The device in words."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the processor"

    def precision(self) -> AbstractContextManager[object]:
        """What trainer.precision makes of forward passes."""
        is_mixed = chosen_precision(self.config.trainer) == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_mixed)

    def step(self, batch: ClipBatch) -> None:
        """A training step."""
        batch = batch.to(self.device)
        num_heads, clip = self.config.num_label_heads, self.config.trainer.gradient_clip_val
        self.optimizer.zero_grad()
        for part in batch.split(self.config.optim.micro_batch):
            labels = torch.zeros(len(part.index), num_heads, dtype=torch.int64, device=self.device)
            with self.precision():
                logits = self.model(self.augment(part, random=True), part.present)
                loss = selavi_loss(logits, labels, self.model.branch_present(part.present))
            loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self._wait()

    @torch.no_grad()
    def encode(self, batch: ClipBatch) -> None:
        """The encoders without gradient, as a labelling calls them."""
        with self.precision():
            self.model.features(self.augment(batch.to(self.device), random=True))
        self._wait()

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Say what to change where the batches of the block do not fit.

        Raises:
            UsageError: so it is.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"the run's batches do not fit in the memory of {self.device_name}; lower optim.batch_size="
                f"{self.config.optim.batch_size} or set optim.micro_batch, lower labelling.batch_size="
                f"{self.config.labelling.batch_size}, or take trainer.precision=bf16-mixed"
            ) from error

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure_model(config: Config, budget_s: float) -> ModelSpeed:
    """Time training steps and labelling passes for about `budget_s` seconds, at least one small batch of each.

    Raises:
        UsageError: a batch does not fit in the device's memory, or the run asks for a GPU and there is none.
    """
    trial = Trial(config)
    with trial.fitting():
        training, batch_size = _rate(config, trial.step, config.optim.batch_size, 0.65 * budget_s)
        trial.model.eval()
        labelling, _ = _rate(config, trial.encode, config.labelling.batch_size, 0.35 * budget_s)
    return ModelSpeed(training, labelling, batch_size, trial.device_name)


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
    if chosen_precision(config.trainer) == "32-true":
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
