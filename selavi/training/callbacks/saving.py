"""When a checkpoint is written, and where in the epoch a run goes on from it."""

import time
from typing import Any

import pytorch_lightning as pl
import torch

from selavi.config import Config
from selavi.distributed import all_sum, rank
from selavi.errors import NumericError
from selavi.runs.checkpoint import not_finite
from selavi.runs.folder import RunFolder


class Saving(pl.Callback):
    """Writes RUN/checkpoints/last.ckpt at the end of each epoch, every `trainer.save_every_s`, and when it is told to.

    A checkpoint may be written wherever no optimiser step is under way.  Where the run then goes on is counted in whole
    steps, and put into the checkpoint in the form in which Lightning's loops take it up:

        epochs   |---- 0 ----|---- 1 ----|---- 2 ----|      7 steps done, 4 an epoch: one epoch has ended,
        steps     0  1  2  3  4  5  6  7  8  9 10 11         and 3 steps of the next are done
                                       ^
    An epoch of which all steps are done has not ended before its last labelling has: it is taken up at its end.

    Args:
        config: the whole configuration.
    """

    def __init__(self, config: Config) -> None:
        self.every_s = config.trainer.save_every_s
        self.path = RunFolder(config.run_dir).last_checkpoint
        self.saved_s = time.monotonic()
        self.epoch_has_ended = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Let the loader go on behind the clips that the epoch has seen."""
        self.saved_s = time.monotonic()
        assert trainer.train_dataloader is not None
        trainer.train_dataloader.begin_at = self._steps_in_epoch(trainer) % len(trainer.train_dataloader)
        # There is no validation.  Else an epoch that is taken up with all its steps done would wait for it, and train.
        trainer.fit_loop.epoch_loop.val_loop._has_run = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save the epoch."""
        self.epoch_has_ended = True
        self.save(trainer, module)
        self.epoch_has_ended = False
        # As after each step: an epoch that was taken up at its end had none, and the next one would be taken up, too.
        trainer.fit_loop.epoch_loop.on_iteration_done()

    def is_due(self) -> bool:
        """Whether the first process wants to save; the others do what it says."""
        return rank() == 0 and time.monotonic() - self.saved_s >= self.every_s

    def save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write a checkpoint; every rank must come here.

        Raises:
            NumericError: a weight, or what the optimiser remembers, is not finite, on whichever rank; the checkpoint
                before stays.
        """
        faults = list(not_finite({"weights": module.state_dict(), "optimiser": trainer.optimizers[0].state_dict()}))
        if all_sum(torch.tensor([float(len(faults))], device=module.device)).item():
            named = ", ".join(faults[:3]) or "those of another process"
            raise NumericError(
                f"numbers that are not finite at step {trainer.global_step}: {named}; training has diverged, and no "
                "checkpoint of it is written; lower optim.lr"
            )
        trainer.save_checkpoint(self.path)
        self.saved_s = time.monotonic()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say where the run goes on, by its steps alone."""
        in_epoch = 0 if self.epoch_has_ended else self._steps_in_epoch(trainer)
        steps = trainer.global_step
        num_epochs = (steps - in_epoch) // len(trainer.train_dataloader)  # type: ignore[arg-type]
        checkpoint["epoch"] = num_epochs
        checkpoint["loops"]["fit_loop"] |= _position(num_epochs, in_epoch, steps)

    def _steps_in_epoch(self, trainer: pl.Trainer) -> int:
        return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)  # type: ignore[attr-defined]


def _position(num_epochs: int, in_epoch: int, steps: int) -> dict[str, Any]:
    """The state of Lightning's loops between two steps.

    Args:
        num_epochs: that have ended.
        in_epoch: steps of the next one that are done.
        steps: of all epochs.
    """
    begun = num_epochs + (in_epoch > 0)
    epochs = {"ready": begun, "started": begun, "processed": num_epochs, "completed": num_epochs}
    all_steps, own_steps = _counts(steps), _counts(in_epoch)
    return {
        "epoch_progress": {"total": epochs, "current": dict(epochs)},
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
        "epoch_loop.batch_progress": {"total": all_steps, "current": own_steps, "is_last_batch": False},
        "epoch_loop.scheduler_progress": {"total": _ends(all_steps), "current": _ends(own_steps)},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": {"total": _ends(all_steps), "current": _ends(own_steps)},
                "zero_grad": {
                    "total": {name: all_steps[name] for name in ("ready", "completed", "started")},
                    "current": {name: own_steps[name] for name in ("ready", "completed", "started")},
                },
            }
        },
    }


def _counts(steps: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), steps)


def _ends(counts: dict[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in ("ready", "completed")}
