"""Fine-tuning: one encoder of a finished run and a linear classifier, trained on labels.

Training clips teach, clips held out from them choose the epoch, and test clips are read once, at the end.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from selavi.atomic import write_atomically, write_text
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config, HeadsConfig, as_dict
from selavi.distributed import all_sum, rank, take_from_first, world_size
from selavi.errors import UsageError
from selavi.guarded.json_file import read_json
from selavi.inference.load import load_model, untrained_model
from selavi.randomness import mix
from selavi.runs.checkpoint import Saved, read_checkpoint, save_tensors
from selavi.runs.folder import RunFolder
from selavi.runs.record import Run
from selavi.runs.resume import check_same_settings
from selavi.training.micro_batches import MicroBatched
from selavi.training.optim import limit_gradient, lr_factor, target_lr
from selavi.training.seen import Seen, join_seen

KIND = "classifier"
"""What tells our checkpoints from others."""
VALIDATION = "held_out"
"""Name of the split that chooses the epoch."""
_OF_THE_RUN = ("encoders.", "audio.", "heads.", "modalities=")


def finetune_config(config: Config, overrides: Sequence[str], run: Run, fold: str | None) -> Config:
    """Complete the settings of a fine-tuning run by those that its encoder was trained with.

    Args:
        config: as loaded.
        overrides: of the command line.
        run: whose encoder it is.
        fold: takes the place of {fold} in data.list, and has a folder of its own in run_dir.

    Raises:
        UsageError: settings that the encoder fixes, a modality that the run does not have, no {fold} in data.list.
    """
    fixed = [override for override in overrides if override.startswith(_OF_THE_RUN)]
    if fixed:
        raise UsageError(f"{fixed[0]} cannot be set: {run.folder} fixes the encoders, the sound and the modalities")
    modality = config.finetune.modality
    if modality not in run.config.kinds:
        raise UsageError(
            f"finetune.modality={modality}, but {run.folder} has no encoder for it; "
            f"it has {' and '.join(run.config.kinds)}"
        )
    data, run_dir = config.data, config.run_dir
    if fold is not None:
        if "{fold}" not in data.list:
            raise UsageError(
                "--folds need data.list with {fold} in the place of the number, such as "
                f"'data.list=/lists/*list0{{fold}}.txt'; got data.list={data.list!r}"
            )
        data, run_dir = replace(data, list=data.list.replace("{fold}", fold)), f"{run_dir}/fold{fold}"
    return replace(
        config,
        run_dir=run_dir,
        data=data,
        modalities=[modality],
        audio=run.config.audio,
        encoders=run.config.encoders,
        heads=HeadsConfig(num_heads=1, num_clusters=2),  # not used: a classifier takes the place of the heads
        labelling=replace(config.labelling, head_groups=1, marginal="uniform"),
    )


def holding_out(config: Config) -> dict[str, Any]:
    """Arguments of datamodules.index.holdout.split_off."""
    settings = config.finetune
    return {"fraction": settings.validation_fraction, "seed": config.seed, "group": settings.group}


class FinetuneModule(MicroBatched):
    """An encoder and a linear classifier on its features; plain cross-entropy with the clips' labels.

    Args:
        config: from finetune_config.
        run: whose encoder is trained on.
        labels: (N,) label of each training clip; a batch's `index` counts them.
        steps_per_epoch: optimiser steps of an epoch.
    """

    def __init__(self, config: Config, run: Run, labels: Sequence[str], steps_per_epoch: int) -> None:
        super().__init__()
        self.config, self.steps_per_epoch = config, steps_per_epoch
        self.modality = config.finetune.modality
        self.classes, targets = np.unique(labels, return_inverse=True)
        model, _ = (load_model if config.finetune.start == "run" else untrained_model)(run)
        self.encoder = model.encoders[self.modality].train()
        self.classifier = nn.Linear(model.num_features[self.modality], len(self.classes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(config.seed, "classifier"))
            nn.init.orthogonal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.augment = Augment(config)
        self.targets: Tensor
        self.register_buffer("targets", torch.from_numpy(targets), persistent=False)
        self.source = {"run": str(run.folder), "weights": _fingerprint(self.encoder)}

    def logits(self, batch: ClipBatch, random: bool) -> Tensor:
        """(B, C) of a batch on the device."""
        return self.classifier(self.encoder(self.augment(batch, random)[self.modality]))

    def training_step(self, batch: ClipBatch, _: int) -> Tensor:
        """Mean cross-entropy over the clips that could be decoded."""
        parts: list[Seen] = []

        def loss_of(part: ClipBatch) -> Tensor:
            logits = self.logits(part, random=True)
            parts.append(Seen(part, {self.modality: logits.detach()[None]}))
            losses = F.cross_entropy(logits, self.targets[part.index], reduction="none")
            decoded = part.present[self.modality].to(losses)
            return (losses * decoded).sum() / decoded.sum().clamp(min=1)

        loss = self.accumulate(batch, loss_of)
        self.seen = join_seen(batch, parts)
        self.log("train/loss", loss)
        return loss

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Limit the norm of the gradient."""
        limit_gradient(optimizer, gradient_clip_val)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD, the encoder at a share of the classifier's rate; warm-up, then a drop at each milestone."""
        optim, settings = self.config.optim, self.config.finetune
        clips_per_step = optim.batch_size * world_size()
        lr = target_lr(optim, clips_per_step)
        groups = [
            {"params": self.encoder.parameters(), "lr": lr * settings.encoder_lr},
            {"params": self.classifier.parameters(), "lr": lr},
        ]
        optimizer = SGD(groups, lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
        warmed = lr_factor(optim, clips_per_step, self.steps_per_epoch, self.config.trainer.parts)

        def factor(step: int) -> float:
            passed = sum(step >= milestone * self.steps_per_epoch for milestone in settings.milestones)
            return warmed(step) * settings.gamma**passed

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the classes, where the encoder came from, and the settings, all of plain types."""
        checkpoint[KIND] = {"classes": self.classes.tolist(), "source": self.source}
        checkpoint["config"] = as_dict(self.config)

    def check_checkpoint(self, saved: Saved | None) -> None:
        """Refuse a checkpoint that this run cannot go on from, before anything in the run folder changes."""
        if saved is not None:
            self.on_load_checkpoint(saved.content)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other settings, clips or encoder weights."""
        check_same_settings(checkpoint["config"], self.config)
        saved = checkpoint[KIND]
        if saved["classes"] != self.classes.tolist():
            raise UsageError(
                f"the checkpoint knows {len(saved['classes'])} classes, the training clips have {len(self.classes)}, "
                "or others; use the same clips, or another run_dir"
            )
        if saved["source"]["weights"] != self.source["weights"]:
            raise UsageError(
                f"the checkpoint began with another encoder (of {saved['source']['run']}); name that run, or another "
                "run_dir"
            )

    @torch.no_grad()
    def score(self, batches: Iterable[ClipBatch], labels: Sequence[str], num_views: int) -> dict[str, Any]:
        """Classify clips by the mean of their views' logits.

        Args:
            batches: `num_views` views of each clip in a row.
            labels: (N,) of the clips; a label without a training clip counts as wrong.
            num_views: windows times squares.

        Returns:
            accuracy and top5 (shares of the N clips; one that cannot be decoded is wrong), class_accuracy (mean over
            the labels of each one's accuracy), clips, undecodable.
        """
        _, classes = np.unique(labels, return_inverse=True)
        names, numbers = np.unique(labels), {name: number for number, name in enumerate(self.classes.tolist())}
        targets = torch.tensor([numbers.get(label, -1) for label in labels], device=self.device)
        counts = torch.zeros(4, len(names), device=self.device, dtype=torch.float64)  # clips, decoded, first, top five
        where = torch.from_numpy(classes).to(self.device)
        self.eval()
        take_from_first(self.encoder.buffers())  # the checkpoint that is kept has these
        for batch in batches:
            batch = batch.to(self.device)
            rows, has_input = batch.index[::num_views], batch.present[self.modality].float()[:, None]
            logits = (self.logits(batch, random=False).float() * has_input).unflatten(0, (-1, num_views)).sum(1)
            decoded = has_input.unflatten(0, (-1, num_views)).sum((1, 2)) > 0
            ranked = logits.topk(min(5, len(self.classes)), 1).indices == targets[rows, None]
            for kind, hits in enumerate(
                (torch.ones_like(decoded), decoded, ranked[:, 0] & decoded, ranked.any(1) & decoded)
            ):
                counts[kind].index_add_(0, where[rows], hits.double())
        self.train()
        clips, decoded, first, five = all_sum(counts).cpu()
        return {
            "accuracy": float(first.sum() / clips.sum()),
            "top5": float(five.sum() / clips.sum()),
            "class_accuracy": float((first / clips).mean()),
            "clips": int(clips.sum()),
            "undecodable": int((clips - decoded).sum()),
        }


class Validation(pl.Callback):
    """Scores the held-out clips every few epochs and keeps the weights of the best epoch.

    Args:
        config: of the run.
        batches: makes a pass over the held-out clips.
        labels: of these clips.
        say: prints a line.
    """

    def __init__(
        self,
        config: Config,
        batches: Callable[[], Iterable[ClipBatch]],
        labels: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self.config, self.batches, self.labels, self.say = config, batches, labels, say
        self.best: dict[str, Any] = {"epoch": 0, "accuracy": -1.0}

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far."""
        return dict(self.best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.best = dict(state_dict)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: FinetuneModule) -> None:
        """Validate where it is due; of equal epochs the first stays."""
        settings, epoch = self.config.finetune, trainer.current_epoch + 1
        if epoch % settings.validation_every and epoch != self.config.trainer.all_epochs:
            return
        with trainer.precision_plugin.forward_context():
            figures = module.score(self.batches(), self.labels, settings.validation_views)
        for logger in trainer.loggers:
            logger.log_metrics({"validation/accuracy": figures["accuracy"]}, trainer.global_step)
        if rank() == 0:
            self.say(f"epoch {epoch}: accuracy {figures['accuracy']:.3f} on {figures['clips']} held-out clips")
        if figures["accuracy"] > self.best["accuracy"]:
            self.best = {"epoch": epoch, **figures}
            if rank() == 0:
                with write_atomically(best_checkpoint(self.config)) as temporary:
                    save_tensors({KIND: self.best, "state_dict": module.state_dict()}, temporary)


def best_checkpoint(config: Config) -> Path:
    """Where the weights of the best epoch lie."""
    return RunFolder(config.run_dir).best_checkpoint


def load_best(module: FinetuneModule) -> dict[str, Any]:
    """Give a module the weights of its best epoch; returns that epoch's validation.

    Raises:
        UsageError: the file is missing or damaged.
    """
    checkpoint = read_checkpoint(best_checkpoint(module.config), KIND)
    module.load_state_dict(checkpoint["state_dict"])
    return checkpoint[KIND]


def finish_finetuning(
    module: FinetuneModule, validation: Mapping[str, Any], test: Mapping[str, Any], split: str, left_out: int
) -> dict[str, Any]:
    """Write RUN/eval/finetune_SPLIT.json, then status.json, which says that the run is done; returns the former.

    Args:
        module: that was tested.
        validation: of the best epoch.
        test: from FinetuneModule.score.
        split: that was tested on.
        left_out: files of the split that could not be used at all; accuracy_all counts them as wrong.
    """
    folder = RunFolder(module.config.run_dir)
    of_all = test["accuracy"] * test["clips"] / (test["clips"] + left_out)
    result = {
        "from": module.source | {"start": module.config.finetune.start},
        "classes": len(module.classes),
        "split": split,
        "test": {**test, "left_out": left_out, "accuracy_all": of_all},
        "validation": dict(validation),
    }
    if rank() != 0:
        return result
    write_text(folder.finetuning(split), json.dumps(result, indent=2) + "\n")
    status = {"state": "finished", "split": split, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_text(folder.status, json.dumps(status, indent=2) + "\n")
    return result


def read_finetuning(config: Config, split: str) -> dict[str, Any]:
    """The result of a finished run.

    Raises:
        UsageError: it was tested on another split.
    """
    path = RunFolder(config.run_dir).finetuning(split)
    if not path.exists():
        raise UsageError(f"{config.run_dir} is finished, but was not tested on split {split!r}: there is no {path}")
    return read_json(path, "remove it and status.json beside it, and run the same command again with resume=auto")


def format_finetuning(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table to read: a line for each fold, and the mean of several."""
    columns = ("accuracy", "top5", "class_accuracy")
    lines = [
        f"{'':10}" + "".join(f"{name:>16}" for name in (*columns, "clips", "left out", "best epoch", "validation"))
    ]
    for fold, result in results.items():
        test, best = result["test"], result["validation"]
        lost = test["left_out"] + test["undecodable"]
        cells = "".join(f"{test[name]:16.3f}" for name in columns)
        lines.append(f"{fold:10}{cells}{test['clips']:16d}{lost:16d}{best['epoch']:16d}{best['accuracy']:16.3f}")
    if len(results) > 1:
        means = (np.mean([result["test"][name] for result in results.values()]) for name in columns)
        lines.append(f"{'mean':10}" + "".join(f"{value:16.3f}" for value in means))
    return "\n".join(lines)


def _fingerprint(encoder: nn.Module) -> str:
    parts = (value.detach().double().sum().item().hex() for value in encoder.state_dict().values())
    return f"{mix(*parts):016x}"
