"""One step, one batch of a labelling and one block of clips labelled, at a run's full size, on its device."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from selavi.batch import ClipBatch
from selavi.config import Config, as_dict
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import FeatureTable
from selavi.labelling.labeller import Labeller
from selavi.labelling.memory import BLOCK_ROWS
from selavi.memory import memory_now, peak_memory
from selavi.randomness import mix
from selavi.runs.checkpoint import saved_bytes
from selavi.training.first.give import crafted_for_first
from selavi.training.speed import Trial, synthetic_batch

_NOISE = 0.5
"""How far two views of a synthetic clip lie apart, as a share of how far clips do."""


@dataclass(frozen=True)
class Rehearsal:
    """What the parts of a run took, once they were warm."""

    device: str
    on_gpu: bool
    step_s: float
    """An optimiser step of `optim.batch_size` clips."""
    encode_s: float
    """The encoders over `encode_clips` clips, without gradient."""
    encode_clips: int
    solve_s: float
    """Labelling `block_clips` clips under one head."""
    block_clips: int
    num_features: int
    """Features of a clip, of all branches."""
    peak_bytes: int
    """Most memory that this process has had."""
    kept_bytes: int
    """What it has in the end: the model, the optimiser and the program."""
    gpu_peak_bytes: int
    """Most that torch had allocated on the GPU; 0 without one, as the next two."""
    gpu_kept_bytes: int
    gpu_bytes: int
    """Memory of the GPU that this process can have."""
    checkpoint_bytes: int
    """A checkpoint, but for what it holds of each clip."""
    craft_s: float = 0.0
    """Crafted features of one view of `encode_clips` clips; 0 where no first labels are made of them."""


def rehearse(config: Config, num_clips: int) -> Rehearsal:
    """Run the parts of a training, each twice, and time the second time.

    Args:
        config: of the run.
        num_clips: that this device labels.

    Raises:
        UsageError: something does not fit in the device's memory, the run asks for a GPU and there is none, or there
            are no such weights to start from.
    """
    trial = Trial(config)
    on_gpu = trial.device.type == "cuda"
    encode_clips, block_clips = min(num_clips, config.labelling.batch_size), min(num_clips, BLOCK_ROWS)
    with trial.fitting():
        step_s = _second_time(trial.step, synthetic_batch(config, config.optim.batch_size))
        trial.model.eval()
        encode_s = _second_time(trial.encode, synthetic_batch(config, encode_clips))
        craft_s = _craft(trial, encode_clips)
        kept = torch.cuda.memory_allocated() if on_gpu else 0
        solve_s = _label_block(trial, block_clips)
    return Rehearsal(
        device=trial.device_name,
        on_gpu=on_gpu,
        step_s=step_s,
        encode_s=encode_s,
        encode_clips=encode_clips,
        solve_s=solve_s,
        block_clips=block_clips,
        num_features=sum(trial.model.branch_features.values()),
        peak_bytes=peak_memory(),
        kept_bytes=memory_now(),
        gpu_peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
        gpu_kept_bytes=kept,
        gpu_bytes=torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() if on_gpu else 0,
        checkpoint_bytes=_checkpoint_bytes(trial),
        craft_s=craft_s,
    )


def _second_time(part: Callable[[ClipBatch], None], batch: ClipBatch) -> float:
    """Seconds of a part of a training the second time; the first one allocates, and chooses algorithms."""
    part(batch)
    began_s = time.monotonic()
    part(batch)
    return time.monotonic() - began_s


def _craft(trial: Trial, num_clips: int) -> float:
    """Seconds of the crafted features of one view of some clips; 0 where the run needs none."""
    crafted = crafted_for_first(trial.config)

    def craft(batch: ClipBatch) -> None:
        inputs = trial.augment(batch.to(trial.device), random=True)
        for name, encoder in crafted.items():
            encoder(inputs[name]).cpu()

    with torch.no_grad():
        return _second_time(craft, synthetic_batch(trial.config, num_clips)) if crafted else 0.0


def _label_block(trial: Trial, num_clips: int) -> float:
    """Seconds of a labelling of synthetic features under one head, from the labels of another view of them."""
    settings = trial.config
    config = replace(
        settings,
        heads=replace(settings.heads, num_heads=1),
        labelling=replace(settings.labelling, head_groups=1),
    )
    generator = torch.Generator().manual_seed(mix(config.seed, "rehearsal"))
    sizes = trial.model.branch_features
    clips = {name: torch.randn(num_clips, size, generator=generator) for name, size in sizes.items()}

    def view() -> FeatureTable:
        features = {
            name: (values + _NOISE * torch.randn(values.shape, generator=generator)).to(trial.device)
            for name, values in clips.items()
        }
        present = {name: torch.ones(num_clips, dtype=torch.bool, device=trial.device) for name in clips}
        return FeatureTable(torch.arange(num_clips, device=trial.device), features, present)

    views = [view(), view()]
    labeller = Labeller(config)
    bank = LabelBank([""] * num_clips, config.num_label_heads, config.heads.num_clusters)
    with torch.no_grad(), trial.precision():
        for _ in views:
            report, _ = labeller.relabel(bank, views.__getitem__, trial.model.logits, lambda *_: None)
    return report.seconds


def _checkpoint_bytes(trial: Trial) -> int:
    """Bytes of a checkpoint of a run without clips."""
    config = trial.config
    bank = LabelBank([], config.num_label_heads, config.heads.num_clusters)
    for column in range(config.num_label_heads):  # where votes are scaled, the rule has as much for each branch
        centre = torch.zeros(config.heads.num_clusters)
        bank.rule.set_scale(column, dict.fromkeys(config.branches, centre), dict.fromkeys(config.branches, 1.0))
    weights = {f"model.{name}": values for name, values in trial.model.state_dict().items()}
    return saved_bytes(
        {
            "state_dict": weights,
            "optimizer_states": [trial.optimizer.state_dict()],
            "label_bank": bank.state_dict(),
            "config": as_dict(config),
        }
    )
