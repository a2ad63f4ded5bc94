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
    last micro-batch, before which those of the others have been: for them it is done earlier.
    """

    config: Config

    def accumulate(self, batch: ClipBatch, loss_of: Callable[[ClipBatch], Tensor]) -> Tensor:
        """The mean loss () of the micro-batches; its own gradient is that of the last, the others' are added already.

        Between processes nothing is exchanged before the last: the backward passes inside of training_step come before
        DistributedDataParallel listens to gradients.
        """
        parts = batch.split(self.config.optim.micro_batch)
        if len(parts) == 1:
            return loss_of(batch)
        self.zero_grad()
        earlier = []
        for part in parts[:-1]:
            loss = loss_of(part) / len(parts)
            with torch.autocast(loss.device.type, enabled=False):
                loss.backward()
            earlier.append(loss.detach())
        return torch.stack(earlier).sum() + loss_of(parts[-1]) / len(parts)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """See above."""
        if self.config.optim.micro_batch in (None, self.config.optim.batch_size):
            optimizer.zero_grad()
