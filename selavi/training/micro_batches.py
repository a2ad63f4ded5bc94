"""Steps on more clips than a device holds at once: some at a time, whose gradients are added."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from selavi.batch import ClipBatch
from selavi.config import Config


class MicroBatched(pl.LightningModule):
    """A module whose training_step takes `optim.micro_batch` clips at a time; batch norm sees only these together.

    Lightning sets gradients to zero between training_step and its backward pass.  Here that is the backward pass of the
    last micro-batch, before which those of the others have been: so it is done before the first.
    """

    config: Config

    def accumulate(self, batch: ClipBatch, loss_of: Callable[[ClipBatch], Tensor]) -> Tensor:
        """The mean loss () of the micro-batches; its own gradient is that of the last, the others' are added already.

        Between processes nothing is exchanged before the last: the backward passes inside of training_step come before
        DistributedDataParallel listens to gradients.
        """
        self.zero_grad()
        parts = batch.split(self.config.optim.micro_batch)
        loss = loss_of(parts[0]) / len(parts)
        for part in parts[1:]:
            with torch.autocast(loss.device.type, enabled=False):
                loss.backward()
            loss = loss.detach() + loss_of(part) / len(parts)
        return loss

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Do nothing: see above."""
