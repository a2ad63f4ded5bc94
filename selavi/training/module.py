"""The LightningModule: it wires augmentation, model, label bank and loss together, and computes nothing itself."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from selavi.augment import Augment
from selavi.batch import ClipBatch, RowReader
from selavi.config import Config, as_dict
from selavi.distributed import world_size
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import EncodedBlocks, EncodedRows, FeatureTable
from selavi.model import SelaviModel
from selavi.pretrained import load_encoders
from selavi.randomness import mix
from selavi.runs.checkpoint import Saved
from selavi.runs.resume import check_settings_of
from selavi.training.compiled import Compiled, compiles
from selavi.training.micro_batches import MicroBatched
from selavi.training.objectives import make_terms
from selavi.training.objectives.term import Judged, Step
from selavi.training.optim import limit_gradient, lr_factor, make_optimizer, target_lr
from selavi.training.seen import Seen, join_seen

MOST_ROWS = 1024
"""Clips that are encoded at once where a table is read by blocks."""


class SelaviModule(MicroBatched):
    """Trains both modalities' heads on the labels of the bank.

    Args:
        config: the whole configuration.
        ids: ids of the training clips; a batch's `index` counts them.
        steps_per_epoch: optimiser steps of an epoch.
        may_change: whether the run goes on with other settings than its checkpoint has.
    """

    def __init__(self, config: Config, ids: Sequence[str], steps_per_epoch: int, may_change: bool = False) -> None:
        super().__init__()
        self.config, self.may_change = config, may_change
        self.steps_per_epoch = steps_per_epoch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(config.seed, "model"))
            self.model = SelaviModel(config)
        if config.encoders.init:
            load_encoders(self.model, config, Path(config.encoders.init))
        self.encode_step = self.model.features
        if compiles(config.trainer, steps_per_epoch * config.trainer.all_epochs):
            self.encode_step = Compiled(self.model.features, self.model.encoders)
        self.augment = Augment(config)
        self.terms = make_terms(config)
        self.changes: list[str] = []
        self.label_bank = LabelBank(ids, config.num_label_heads, config.heads.num_clusters)

    def training_step(self, batch: ClipBatch, _: int) -> dict[str, Tensor]:
        """The terms of the loss, added; `mean_loss` is that of a modality, to be shown."""
        parts: list[Seen] = []
        shown: list[Tensor] = []

        def loss_of(part: ClipBatch) -> Tensor:
            features = self.features_of(part)
            judged = self.judge_features(features, part)
            parts.append(Seen(part, _detached(judged.logits), _detached(features), judged.present))
            step = Step(part, judged, lambda: self.label_bank.read(part.host_index, self.device), self.judge)
            losses = [term.loss(step) for term in self.terms]
            loss, mean_loss = (torch.stack(values).sum() for values in zip(*losses, strict=True))
            shown.append(mean_loss)
            return loss

        loss, mean_loss = self.accumulate(batch, loss_of), torch.stack(shown).mean()
        self.seen = join_seen(batch, parts)
        self.log("train/loss", mean_loss)
        return {"loss": loss, "mean_loss": mean_loss}

    def judge(self, batch: ClipBatch) -> Judged:
        """What the heads say of clips in a random view."""
        return self.judge_features(self.features_of(batch), batch)

    def features_of(self, batch: ClipBatch) -> dict[str, Tensor]:
        """(B, D) a branch, of clips in a random view."""
        return self.model.join(self.encode_step(self.augment(batch, random=True)), batch.present)[0]

    def judge_features(self, features: Mapping[str, Tensor], batch: ClipBatch) -> Judged:
        """What the heads say of the features of clips."""
        return Judged(self.model.logits(features), self.model.branch_present(batch.present))

    def on_train_start(self) -> None:
        """Let the terms of the loss look at the clips, and set the optimiser anew.

        A checkpoint holds what the settings and the length of the training were then.
        """
        for term in self.terms:
            if term.begin is not None:
                term.begin(self.trainer.datamodule.labelling_loader(0))  # type: ignore[attr-defined]
        scheduler, optim = self.lr_schedulers(), self.config.optim
        assert isinstance(scheduler, LambdaLR)
        scheduler.base_lrs = [target_lr(optim, optim.batch_size * world_size())]
        [group], [factor] = scheduler.optimizer.param_groups, scheduler.lr_lambdas
        rate = scheduler.base_lrs[0] * factor(scheduler.last_epoch)
        group |= {"lr": rate, "momentum": optim.momentum, "weight_decay": optim.weight_decay}

    def on_train_batch_start(self, batch: ClipBatch, batch_index: int) -> None:
        """Dropout is a function of (seed, step, rank), so a resumed run draws the same."""
        torch.manual_seed(mix(self.config.seed, "dropout", self.global_step, self.global_rank))

    def encode(
        self, batches: Iterator[ClipBatch], random: bool
    ) -> Iterator[tuple[Tensor, dict[str, Tensor], Mapping[str, Tensor]]]:
        """Yield (index, features, present) of batches, on the device, as the heads take them."""
        features = self.model.features if self.training else self.model.fused_encoders()
        for batch in batches:
            batch = batch.to(self.device)
            yield batch.index, *self.model.join(features(self.augment(batch, random)), batch.present)

    def encode_rows(self, clips: RowReader, random: bool) -> FeatureTable:
        """A table whose features are encoded whenever a block of it is read."""

        def encode(rows: Tensor) -> Mapping[str, Tensor]:
            parts = [features for _, features, _ in self.encode(map(clips.read_rows, rows.split(MOST_ROWS)), random)]
            return {name: torch.cat([part[name].float() for part in parts]) for name in self.model.branch_features}

        blocks, index = EncodedBlocks(encode), clips.all_rows()
        sizes = self.model.branch_features.items()
        present = {name: values.to(self.device) for name, values in clips.present().items()}
        return FeatureTable(
            index.to(self.device),
            {name: EncodedRows(blocks, name, index, size) for name, size in sizes},
            self.model.branch_present(present),
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD with its warm-up, stepped after every batch."""
        optim, trainer = self.config.optim, self.config.trainer
        clips_per_step = optim.batch_size * world_size()
        optimizer: Optimizer = make_optimizer(self.model, optim, clips_per_step)
        factor = lr_factor(optim, clips_per_step, self.steps_per_epoch, trainer.parts)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Limit the norm of the gradient."""
        limit_gradient(optimizer, gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the label bank and the settings, all of plain types."""
        checkpoint["label_bank"] = self.label_bank.state_dict()
        checkpoint["config"] = as_dict(self.config)

    def check_checkpoint(self, saved: Saved | None) -> None:
        """Refuse a checkpoint that this run cannot go on from, before anything in the run folder changes."""
        if saved is not None:
            self.changes = check_settings_of(saved.content, self.config, self.may_change)
            self.label_bank.check(saved.content["label_bank"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the label bank; refuse a checkpoint of another configuration, or one that was refitted."""
        self.changes = check_settings_of(checkpoint, self.config, self.may_change)
        self.label_bank.load_state_dict(checkpoint["label_bank"])


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.detach() for name, values in tensors.items()}
