"""Gradients that are not finite: they never reach the weights, and the clips that they come from are named."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from selavi.atomic import write_text
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.distributed import gather_rows, rank
from selavi.errors import NumericError
from selavi.runs.folder import RunFolder
from selavi.training.optim import make_skippable
from selavi.training.seen import Seen
from selavi.transfers import LateReading
from selavi.wording import command

NAMED = 5
"""Clips that a message names; the file has all."""


class Poison(pl.Callback):
    """Stops a run whose gradient is not finite, or leaves the batch out, as `trainer.on_nan` says.

    The gradient is that of all processes, so all of them see the fault in the same step.  The device looks at it and
    leaves the step out, so that the weights are as they were before; the host reads of it a step later, for it would
    keep the device waiting otherwise.  Whoever needs to know at once calls `settle`.  RUN/poison/step-N.json has the
    clips of the batch, what their inputs are like, and whose logits are not finite.

    Args:
        config: the whole configuration.
        ids: ids of the training clips; a batch's `index` counts them.
    """

    def __init__(self, config: Config, ids: Sequence[str]) -> None:
        self.config, self.ids = config, ids
        self.num_skipped = 0
        self.buffers: list[Tensor] = []
        self.reading = LateReading()

    def state_dict(self) -> dict[str, Any]:
        """How many batches the run has left out."""
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.num_skipped = state_dict["num_skipped"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Let the device leave steps out."""
        make_skippable(trainer.optimizers[0])

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: ClipBatch, _: int) -> None:
        """Remember the statistics of batch norm, which a poisoned batch changes before its gradient is known."""
        if self.config.trainer.on_nan == "skip":
            self.buffers = [values.clone() for values in module.buffers()]

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        """Look at the gradient; see settle for what the step before may raise."""
        self.settle()
        # Of the optimiser's own list: to walk through the modules for it takes as long as the norm.
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        is_poisoned = ~torch.nn.utils.get_total_norm(gradients).isfinite()
        optimizer.found_inf = is_poisoned.float()  # by the name that torch's fused optimisers look for
        if self.config.trainer.on_nan == "skip":
            for values, before in zip(module.buffers(), self.buffers, strict=True):
                values.copy_(torch.where(is_poisoned, before, values))
        self.reading.begin(is_poisoned[None], (trainer.global_step, module.seen))

    def settle(self) -> None:
        """Wait for what the device has found in the last step; every rank must come here.

        Raises:
            NumericError: its gradient is not finite, and the batch is not to be left out, or too many were.
        """
        read = self.reading.end()
        if read is None or not read[0][0]:
            return
        step, seen = read[1]
        path = RunFolder(self.config.run_dir).poison(step)
        culprits = self._write(seen, step, path)
        fault = f"the gradient is not finite at step {step}: {describe(culprits)} ({path} has the batch)"
        settings = self.config.trainer
        if settings.on_nan == "stop":
            raise NumericError(
                f"{fault}. The weights before it are kept. What may help: a lower rate, {halve_rate(self.config)}; or "
                "leave such batches out: the same with trainer.on_nan=skip"
            )
        self.num_skipped += 1
        if self.num_skipped > settings.max_skipped:
            raise NumericError(
                f"{fault}; {settings.max_skipped} batches were left out before, and trainer.max_skipped allows no more"
            )
        if rank() == 0:
            self._list(step, culprits)

    def _write(self, seen: Seen, step: int, path: Path) -> list[str]:
        """Write what is known of the batch of all processes; return the ids of the clips with faulty logits."""
        table = gather_rows(clip_figures(seen)).cpu()
        names = list(seen.batch.inputs)
        clips = []
        for row, is_finite, *figures in table.tolist():
            inputs = {
                name: dict(zip(("min", "max", "mean"), map(_shown, figures[3 * place : 3 * place + 3]), strict=True))
                for place, name in enumerate(names)
            }
            clips.append({"id": self.ids[int(row)], "finite_logits": bool(is_finite), "inputs": inputs})
        if rank() == 0:
            write_text(path, json.dumps({"step": step, "clips": clips}, indent=2) + "\n")
        return [str(clip["id"]) for clip in clips if not clip["finite_logits"]]

    def _list(self, step: int, culprits: list[str]) -> None:
        path = RunFolder(self.config.run_dir).skipped_batches
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([step, *culprits])


def halve_rate(config: Config) -> str:
    """The command with which a run goes on at half its learning rate."""
    return command("train", config.run_dir, "--change", f"optim.lr={config.optim.lr / 2:g}")


def clip_figures(seen: Seen) -> Tensor:
    """(B, 2 + 3 M) float64: the clip's row, whether its logits are finite, min, max and mean of each input."""
    finite = torch.stack([values.isfinite().all(2).all(0) for values in seen.logits.values()]).all(0)
    columns = [seen.batch.index.double(), finite.double()]
    for values in seen.batch.inputs.values():
        flat = values.flatten(1).double()
        columns += [flat.amin(1), flat.amax(1), flat.mean(1)]
    return torch.stack([column.to(finite.device) for column in columns], 1)


def describe(culprits: list[str]) -> str:
    """Whose numbers are not finite, in words."""
    if not culprits:
        return "the logits of every clip are finite"
    more = f" and {len(culprits) - NAMED} more" if len(culprits) > NAMED else ""
    return f"the logits of {', '.join(culprits[:NAMED])}{more} are not finite"


def _shown(value: float) -> float | str:
    """JSON has no numbers that are not finite."""
    return value if value == value and abs(value) != float("inf") else str(value)
