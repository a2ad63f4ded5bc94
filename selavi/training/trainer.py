"""Lightning's trainer with our checkpoints and loggers."""

import logging
import re
import signal
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from selavi.config import Config
from selavi.distributed import fail_together
from selavi.errors import Interrupted, UsageError
from selavi.inference.device import chosen_precision
from selavi.runs.checkpoint import OF_CLIPS, open_checkpoint, write_checkpoint
from selavi.runs.launch import require_all_take_part
from selavi.runs.pulse import Pulse
from selavi.runs.stored import read_all
from selavi.training.loggers import make_loggers
from selavi.training.objectives.batch_size import check_batch
from selavi.wording import command

LOST_TOUCH = r"lost touch|timed out|timeout|connection (closed|reset|refused)|socket|broken pipe|nccl|gloo"
"""What torch says where another process is gone, or late."""

log = logging.getLogger("selavi")


def make_trainer(config: Config, callbacks: list[pl.Callback], kind: str = "label_bank") -> pl.Trainer:
    """A Lightning trainer with our checkpoints, of a kind, and loggers, and without its own bar.

    Raises:
        UsageError: this machine cannot do what the section `trainer` asks for, or more processes were started, or a
            step has too few clips for the loss; see make_loggers.
    """
    settings, loggers = config.trainer, make_loggers(config)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # callbacks.Saving sees to it
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # Of compiled encoders in several processes; they differ where a size is 1, so that a stride means nothing.
    warnings.filterwarnings("ignore", message=".*Grad strides do not match bucket view strides.*")
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):  # devices found, advertisements, fit stopped
        logging.getLogger(name).setLevel(logging.WARNING)
    synced = settings.sync_batchnorm and settings.accelerator != "cpu" and torch.cuda.is_available()
    try:
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=settings.strategy,
            precision=chosen_precision(settings),
            max_epochs=settings.all_epochs,
            gradient_clip_val=settings.gradient_clip_val,
            log_every_n_steps=settings.log_every_n_steps,
            sync_batchnorm=synced,
            benchmark=True,  # cuDNN tries its algorithms at the first batch of each shape; nothing else
            callbacks=callbacks,
            enable_checkpointing=False,  # see callbacks.Saving
            plugins=[AtomicCheckpointIO(kind)],
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            logger=loggers,
        )
    except (MisconfigurationException, ValueError) as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"the settings of section trainer do not work here: {why}  (asked for: trainer.accelerator="
            f"{settings.accelerator}, trainer.devices={settings.devices}.) Leave them out to train on what is there; "
            f"{command('doctor')} says what that is"
        ) from error
    require_all_take_part(trainer.world_size)
    if kind == "label_bank":
        check_batch(config, trainer.world_size)
    torch.backends.cuda.matmul.allow_tf32 = True  # as it is for convolutions; on GPUs alone
    if isinstance(trainer.strategy, DDPStrategy):  # which `auto` may come to be; its own argument would need the choice
        trainer.strategy._timeout = timedelta(seconds=settings.timeout_s)
        trainer.strategy._ddp_kwargs["gradient_as_bucket_view"] = True  # gradients are not copied to be sent
    # Each step begins with a message between the processes and a read of it; callbacks.Survival does that at its end.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing  # type: ignore[method-assign]
    if settings.sync_batchnorm and not synced and trainer.world_size > 1 and trainer.is_global_zero:
        log.warning("each process normalises its own batches: torch has SyncBatchNorm for GPUs only")
    return trainer


def fit(
    trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule, saved: Path | None, pulse: Pulse
) -> None:
    """Train, from a checkpoint where there is one.

    Raises:
        Interrupted: a process that trains together with this one has ended or hangs; the last checkpoint stays.
    """
    try:
        trainer.fit(module, datamodule=data, ckpt_path=saved, weights_only=True)
    except RuntimeError as error:
        text = re.sub(r"\[\S+:\d+\] ", "", " ".join(str(error).split()))  # without the place in torch's own source
        if trainer.world_size == 1 or not re.search(LOST_TOUCH, text, re.IGNORECASE):
            raise
        if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
            trainer.strategy.launcher.kill(signal.SIGKILL)  # one that hangs heeds no other
        whose = pulse.silent() or "one of the others; what it printed may say why"
        raise Interrupted(
            f"lost touch with {whose} ({text[:150]}): it has ended, or it hangs, or the network does. Go on with "
            "resume=auto from the last checkpoint; trainer.timeout_s is how long a process is waited for"
        ) from error


def _do_nothing() -> None:
    pass


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's own way moves the file across file systems and hides a refused permission; this one does not.

    Args:
        kind: of the checkpoints that are read; see open_checkpoint.
    """

    def __init__(self, kind: str = "label_bank") -> None:
        self.kind = kind

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """See write_checkpoint."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read tensors and plain values only; those of each clip stay in the file until they are taken up.

        Raises:
            UsageError: the file is missing, damaged, or holds anything else; on all processes, where it is so for one.
        """
        with fail_together():
            content: dict[str, Any] = read_all(open_checkpoint(Path(path), self.kind), but=OF_CLIPS)
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one file."""
        Path(path).unlink(missing_ok=True)
