"""What happens around training steps: labelling on its schedule, progress, faults, signals."""

import csv
import os
import signal
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.distributed import all_sum, rank, world_size
from selavi.errors import DataError, Interrupted, NumericError, UsageError
from selavi.labelling.labeller import (
    ClipStatistics,
    FeatureTable,
    Labeller,
    LabellingReport,
    collect_features,
)
from selavi.labelling.schedule import labelling_steps_of_parts
from selavi.meter import Meter, say
from selavi.runs.folder import RunFolder
from selavi.scores.metrics import contingency_matrix, normalised_mutual_information
from selavi.scores.verdict import Verdict, judge_training
from selavi.training.module import SelaviModule
from selavi.wording import command, duration, speed


class LabellingCallback(pl.Callback):
    """Renews the label bank when the schedule says so, and once more after the last step.

    Args:
        config: the whole configuration.
        human_labels: label of each training clip, to report NMI; None where there are none.
        progress: told of each labelling.
        stop: asked, while clips are labelled, whether a signal has come.
    """

    def __init__(
        self, config: Config, human_labels: list[str] | None, progress: "Progress", stop: "StopOnSignal"
    ) -> None:
        self.config, self.human_labels, self.progress, self.stop = config, human_labels, progress, stop
        self.labeller = Labeller(config)
        self.statistics: ClipStatistics | None = None
        self.churn: list[float] = []
        self.used_clusters = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a finished run writes down, so that one that ends after its last checkpoint can do so later."""
        statistics = None if self.statistics is None else vars(self.statistics)
        return {"churn": self.churn, "used_clusters": self.used_clusters, "statistics": statistics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.churn, self.used_clusters = list(state_dict["churn"]), state_dict["used_clusters"]
        statistics = state_dict["statistics"]
        self.statistics = None if statistics is None else ClipStatistics(**statistics)

    def final_statistics(self) -> ClipStatistics:
        """How confident the labels of the finished model are.

        Raises:
            UsageError: the run was killed as it ended, by a version whose checkpoints do not hold this.
        """
        if self.statistics is None:
            folder = self.config.run_dir
            raise UsageError(
                f"{folder} was trained to its end, but it was stopped before its labels were written, and its "
                f"checkpoint is of an earlier version, which does not hold them; "
                f"{command('train', folder, '--more', '1')} trains one more epoch and writes them"
            )
        return self.statistics

    def verdict(self) -> Verdict:
        """Whether the labels have settled, after the last labelling."""
        return judge_training(
            self.churn,
            self.progress.smooth_loss,
            num_clusters=self.config.heads.num_clusters,
            used_clusters=self.used_clusters,
            num_clips=len(self.progress.ids),
            max_epochs=self.config.trainer.all_epochs,
        )

    def on_train_start(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Fix the schedule; let batch norm see some data before it is asked for features."""
        parts, labelling = self.config.trainer.parts, self.config.labelling
        self.steps = labelling_steps_of_parts(parts, module.steps_per_epoch, labelling.num_labellings, labelling.power)
        self.last_epochs = set(accumulate(parts))
        memory = self.labeller.describe_memory(-(-len(module.label_bank.ids) // world_size()))
        if rank() == 0 and memory:
            say(memory)
        if module.label_bank.num_labellings == 0:
            self._warm_up_batch_norm(trainer, module)

    def on_train_batch_start(self, trainer: pl.Trainer, module: SelaviModule, batch: ClipBatch, _: int) -> None:
        """Label before the step that the schedule names."""
        done = module.label_bank.num_labellings
        if done < len(self.steps) and trainer.global_step >= self.steps[done]:
            self._relabel(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """After a part's last epoch, before its checkpoint: labels of the finished model, with their confidence."""
        if trainer.current_epoch + 1 in self.last_epochs:
            self._relabel(trainer, module, last=True)

    def _relabel(self, trainer: pl.Trainer, module: SelaviModule, last: bool = False) -> None:
        module.eval()

        def collect(pass_number: int) -> FeatureTable:
            batches = self._labelling_batches(trainer, pass_number)
            encoded = module.encode(batches, random=not last)
            table = collect_features(encoded, module.model.branch_features, module.device)
            self.stop.stop_together(module.device)
            return table

        def permute(branch: str, head: int, permutation: Tensor) -> None:
            module.model.permute_clusters(branch, head, permutation.to(module.device))

        with torch.no_grad(), trainer.precision_plugin.forward_context():
            report, self.statistics = self.labeller.relabel(
                module.label_bank, collect, module.model.logits, permute, statistics=last
            )
        module.train()
        self.churn.append(report.churn)
        self.used_clusters = report.used_clusters
        nmi = self._nmi(module.label_bank.labels)
        metrics = {
            "labelling/passes": report.num_passes,
            "labelling/marginal_error": report.marginal_error,
            "labelling/used_clusters": report.used_clusters,
            "labelling/seconds": report.seconds,
            "labelling/churn": report.churn,
            "labelling/nmi": nmi,
        }
        for logger in trainer.loggers:
            known = {name: float(value) for name, value in metrics.items() if value is not None}
            logger.log_metrics(known, trainer.global_step)
        self.progress.labelled(report, nmi, len(self.steps))

    def _labelling_batches(self, trainer: pl.Trainer, pass_number: int) -> Iterator[ClipBatch]:
        for batch in trainer.datamodule.labelling_loader(pass_number):  # type: ignore[attr-defined]
            self.progress.note_errors(batch)
            self.stop.stop_alone()
            yield batch

    def _warm_up_batch_norm(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        labelling = self.config.labelling
        whole = len(module.label_bank.ids) // world_size() // labelling.batch_size  # the same on every rank: SyncBN
        batches = islice(self._labelling_batches(trainer, 0), min(labelling.warmup_batches, max(1, whole)))
        module.train()
        torch.manual_seed(self.config.seed)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for _, features, _ in module.encode(batches, random=True):
                module.model.logits(features)

    def _nmi(self, labels: Tensor) -> float | None:
        """Mean over the heads, of the clips that have a label."""
        if self.human_labels is None:
            return None
        human, each = np.array(self.human_labels), []
        for head in labels.T.numpy():
            labelled = head >= 0
            matrix = contingency_matrix(human[labelled].tolist(), head[labelled])
            each.append(normalised_mutual_information(matrix))
        return float(np.mean(each))


class Progress(pl.Callback):
    """One bar over the whole training with clips/s, loss and time left, and a line for each labelling.

    Where standard error is no terminal, a line every `every_s` seconds takes the bar's place.  Also counts clips
    that could not be decoded, lists them in RUN/bad_clips.csv, and stops the run when they are too many.
    """

    def __init__(self, config: Config, ids: list[str], every_s: float = 20.0) -> None:
        self.config, self.ids, self.every_s = config, ids, every_s
        self.faults: dict[int, str] = {}
        self.meter: Meter | None = None
        self.labellings_left_s = 0.0
        self.smooth_loss = float("nan")
        self.told_of_empty = False

    def state_dict(self) -> dict[str, Any]:
        """The loss, which the verdict of a run speaks of."""
        return {"smooth_loss": self.smooth_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.smooth_loss = state_dict["smooth_loss"]

    def announce(self, checkpoint: Path | None, skipped: str) -> None:
        """Say what is about to happen; `skipped` describes the unusable files."""
        config = self.config
        if checkpoint is not None:
            self.say(f"resuming from {checkpoint}")
        if skipped:
            self.say(f"skipped: {skipped}")
        self.say(
            f"{len(self.ids)} training clips in {config.data.root}, {' and '.join(config.modalities)}, "
            f"{config.heads.num_heads} heads of {config.heads.num_clusters} clusters, "
            f"{' + '.join(map(str, config.trainer.parts))} epochs, into {config.run_dir}"
        )

    def on_train_start(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Open the bar."""
        if rank() == 0:
            total = self.config.trainer.all_epochs * module.steps_per_epoch
            self.meter = Meter("training", total, "steps", done=trainer.global_step, every_s=self.every_s)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: SelaviModule, outputs: Any, batch: ClipBatch, _: int
    ) -> None:
        """Advance the bar; stop on a loss that is not finite and on too many faults."""
        self.note_errors(batch)
        loss = float(outputs["loss"])
        healthy = all_sum(torch.tensor([0.0 if np.isfinite(loss) else 1.0], device=module.device))
        if healthy.item() > 0:
            named = ", ".join(self.ids[i] for i in batch.index[:5].tolist())
            raise NumericError(
                f"the loss is {loss} at step {trainer.global_step} (clips {named} ...); "
                "lower optim.lr, or resume from the last checkpoint with another seed"
            )
        self.smooth_loss = loss if np.isnan(self.smooth_loss) else 0.95 * self.smooth_loss + 0.05 * loss
        if self.meter is not None:
            steps_per_s = self.meter.pace.rate
            words = [f"epoch {trainer.current_epoch + 1}"]
            if steps_per_s is not None:
                words.append(f"{speed(steps_per_s * self.config.optim.batch_size * world_size())} clips/s")
            words.append(f"loss {self.smooth_loss:.3f}")
            self.meter.advance(note=", ".join(words), later_s=self.labellings_left_s)

    def on_train_end(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Close the bar."""
        if self.meter is not None:
            self.meter.close()

    def on_exception(self, trainer: pl.Trainer, module: SelaviModule, exception: BaseException) -> None:
        """Close the bar."""
        self.on_train_end(trainer, module)

    def labelled(self, report: LabellingReport, nmi: float | None, planned: int) -> None:
        """Print what a labelling did; those ahead will take as long, and no step's time counts it."""
        self.labellings_left_s = report.seconds * max(0, planned - report.number - 1)
        if self.meter is not None:
            self.meter.pace.pause(report.seconds)
        if rank() == 0:
            churn = "" if np.isnan(report.churn) else f", churn {report.churn:.1%}"
            labels = "" if nmi is None else f", nmi {nmi:.3f}"
            wrong = "" if report.converged else ", NOT CONVERGED"
            error = "" if report.marginal_error is None else f", marginal error {report.marginal_error:.1e}"
            self.say(
                f"labelling {report.number + 1}/{planned}: {report.num_passes} passes"
                f"{error}{wrong}, {report.used_clusters:.1f}/{self.config.heads.num_clusters}"
                f" clusters used{churn}{labels}, {duration(report.seconds)}"
            )
            empty = self.config.heads.num_clusters - report.used_clusters
            if empty and not self.told_of_empty and report.number >= planned // 4:  # the first ones may well leave some
                self.told_of_empty = True
                sharper = "raise labelling.sharpness or " if self.config.labelling.method == "transport" else ""
                self.say(
                    f"{empty:.1f} of {self.config.heads.num_clusters} clusters hold no clip (mean over the heads); if "
                    f"it stays so, {sharper}lower heads.num_clusters or optim.lr"
                )

    def say(self, line: str) -> None:
        """Print a line to standard error without breaking the bar."""
        say(line)

    def note_errors(self, batch: ClipBatch) -> None:
        """Remember clips that could not be decoded; stop when they are more than the budget."""
        new = {index: reason for index, reason in batch.errors if index not in self.faults}
        if not new:
            return
        self.faults |= new
        path = RunFolder(self.config.run_dir).bad_clips
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((self.ids[index], reason) for index, reason in new.items())
        if len(self.faults) > self.config.data.max_bad_fraction * len(self.ids):
            raise DataError(
                f"{len(self.faults)} of {len(self.ids)} training clips could not be decoded "
                f"(data.max_bad_fraction={self.config.data.max_bad_fraction}); they are listed in {path}"
            )


class StopOnSignal(pl.Callback):
    """SIGTERM, SIGUSR1 and the keyboard end the run after the current step; the last epoch's checkpoint stays.

    The moment one comes it is acknowledged on standard error.  In a labelling, a single process stops at the next
    batch, several after the pass over the clips: they must all stop at the same place.
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        self.received = 0
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Take over from Lightning, whose handlers end with exit code 0."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            self.before[number] = signal.signal(number, self._note)

    def on_train_end(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Give the signals back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def on_exception(self, trainer: pl.Trainer, module: SelaviModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.on_train_end(trainer, module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: SelaviModule, outputs: Any, batch: ClipBatch, _: int
    ) -> None:
        """All ranks stop at the same step."""
        self.stop_together(module.device)

    def stop_together(self, device: torch.device) -> None:
        """Raise Interrupted on every rank if any has received a signal; every rank must come here."""
        received = int(all_sum(torch.tensor([self.received], device=device)).item())
        if received:
            raise self._interrupted(self.received)

    def stop_alone(self) -> None:
        """Raise Interrupted if a signal has come and no other rank waits for this one."""
        if self.received and world_size() == 1:
            raise self._interrupted(self.received)

    def _note(self, number: int, frame: object) -> None:
        if self.received:  # the second signal does not wait
            raise self._interrupted(number)
        self.received = number
        if rank() == 0:
            again = "; press Ctrl-C again to stop now" if number == signal.SIGINT else ""
            # Written past Python's buffers, which the interrupted code may be writing to.
            os.write(2, f"\nstopping after this step{again}\n".encode())

    def _interrupted(self, number: int) -> Interrupted:
        kept = RunFolder(self.run_dir).last_checkpoint
        if kept.exists():
            advice = f"its last finished epoch is kept in {kept}: go on with resume=auto"
        else:
            advice = "no epoch was finished, so nothing of the training is kept: resume=auto starts it anew"
        if number == signal.SIGINT:
            return Interrupted(f"stopped by the keyboard; {advice}", exit_code=130)
        return Interrupted(f"stopped by a signal; {advice}")
