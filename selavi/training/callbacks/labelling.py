"""When the label bank is renewed, and what is said of it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from selavi.batch import ClipBatch, RowReader
from selavi.config import Config
from selavi.distributed import fail_together, rank, take_from_first, world_size
from selavi.errors import UsageError
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import FeatureTable, collect_features
from selavi.labelling.kept import KeptFeatures
from selavi.labelling.labeller import Draft, Labeller
from selavi.labelling.schedule import labelling_steps_of_run
from selavi.labelling.statistics import ClipStatistics, read_statistics
from selavi.meter import say
from selavi.results.naming import Names, decision, write_names
from selavi.runs.folder import RunFolder
from selavi.scores.contingency import contingency_matrix, number_labels
from selavi.scores.metrics import normalised_mutual_information
from selavi.scores.verdict import Verdict, judge_training
from selavi.training.callbacks.progress import Progress
from selavi.training.callbacks.survival import Survival
from selavi.training.first.give import Source, give_first_labels, labellings_before
from selavi.training.module import SelaviModule
from selavi.wording import command


class LabellingCallback(pl.Callback):
    """Renews the label bank when the schedule says so, and once more after the last step.

    Args:
        config: the whole configuration.
        human_labels: (N,) label of each training clip, to report NMI; None where there are none.
        progress: shows each labelling.
        survival: asked, while clips are labelled, whether to stop.
    """

    def __init__(
        self,
        config: Config,
        human_labels: Any | None,
        progress: Progress,
        survival: Survival,
    ) -> None:
        self.config, self.progress, self.survival = config, progress, survival
        # Numbers from here on: to hash the words for each head of each labelling takes most of the time of an NMI.
        self.human_labels = None if human_labels is None else number_labels(human_labels)
        self.labeller = Labeller(config)
        self.statistics: ClipStatistics | None = None
        self.draft: dict[str, Any] | None = None
        self.churn: list[float] = []
        self.used_clusters = 0.0
        self.kept: KeptFeatures | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a finished run writes down, so that one that ends after its last checkpoint can do so later.

        And the labelling that is under way, so that the heads that are labelled are not labelled again.
        """
        statistics = None if self.statistics is None else vars(self.statistics)
        draft = None if self.labeller.draft is None else self.labeller.draft.state_dict()
        return {"churn": self.churn, "used_clusters": self.used_clusters, "statistics": statistics, "draft": draft}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up; the numbers of each clip may still lie in a file.

        Raises:
            UsageError: a process cannot read them.
        """
        self.churn, self.used_clusters = list(state_dict["churn"]), state_dict["used_clusters"]
        statistics, self.statistics = state_dict["statistics"], None
        with fail_together():
            if statistics is not None and rank() == 0:  # which alone had them and alone writes them down
                self.statistics = ClipStatistics(**read_statistics(statistics, Path(self.config.run_dir)))
        self.draft = state_dict.get("draft")  # earlier versions began a labelling anew

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
        if not self.config.labelling_method.relabels:
            return Verdict("unknown", (self._no_verdict(),))
        return judge_training(
            self.churn,
            self.progress.smooth_loss,
            num_clusters=self.config.heads.num_clusters,
            used_clusters=self.used_clusters,
            num_clips=len(self.progress.ids),
            max_epochs=self.config.trainer.all_epochs,
        )

    def _no_verdict(self) -> str:
        """Why it cannot be told whether the labels have settled, where nobody labels while training."""
        labelling = self.config.labelling
        if labelling.method == "given":
            return f"The labels are those of {labelling.table}; clips that it leaves out have the heads' likeliest."
        return (
            "Whether the labels have settled cannot be told: they were made once, at the end "
            f"(labelling.method=none with loss.kind={self.config.loss.kind})."
        )

    def on_train_start(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Fix the schedule; give the first labels, or let batch norm see some data before it is asked for features."""
        self.steps = labelling_steps_of_run(self.config, module.steps_per_epoch)
        self.last_epochs = set(accumulate(self.config.trainer.parts))
        if self.config.labelling.features == "kept":
            num_clips = module.steps_per_epoch * self.config.optim.batch_size
            self.kept = KeptFeatures(module.model.branch_features, num_clips, module.device)
        module.label_bank.forget_guesses()
        memory = self.labeller.method.describe_memory(self.config, -(-len(module.label_bank.ids) // world_size()))
        if rank() == 0 and memory:
            say(memory)
        if self.draft is not None:
            self.labeller.draft = Draft.from_state(module.label_bank, self.draft, Path(self.config.run_dir))
            self.draft = None
        elif module.label_bank.num_labellings == 0 and trainer.global_step == 0:
            with self.survival.stopping_before():
                if self._give_first_labels(trainer, module):
                    self.survival.saving.save(trainer, module)
                else:
                    self._warm_up_batch_norm(trainer, module)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Features of the epoch before are old from now on."""
        if self.kept is not None:
            self.kept.begin_epoch()

    def on_train_batch_start(self, trainer: pl.Trainer, module: SelaviModule, batch: ClipBatch, _: int) -> None:
        """Label before the step that the schedule names."""
        done = module.label_bank.num_labellings
        if done < len(self.steps) and trainer.global_step >= self.steps[done]:
            self._relabel(trainer, module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: SelaviModule, outputs: Any, batch: ClipBatch, _: int
    ) -> None:
        """Keep what the step made of its clips."""
        if self.kept is not None:
            self.kept.note(batch.index, module.seen.features, module.seen.present)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """After a part's last epoch, before its checkpoint: labels of the finished model, with their confidence."""
        if trainer.current_epoch + 1 in self.last_epochs:
            self._relabel(trainer, module, last=True)

    def _relabel(self, trainer: pl.Trainer, module: SelaviModule, last: bool = False) -> None:
        """Renew the bank; where a signal stops that, the run goes on behind the heads that are labelled."""
        self.survival.settle(trainer, module)
        with self.survival.saving_before(trainer, module):
            self._relabel_at_once(trainer, module, last)

    def _relabel_at_once(self, trainer: pl.Trainer, module: SelaviModule, last: bool) -> None:
        module.eval()
        # Where each process normalises its own batches, statistics differ.  A checkpoint has those of the first.
        take_from_first(module.model.buffers())
        kept = self.kept.table() if self.kept is not None and self.kept.is_whole() and not last else None

        def collect(pass_number: int) -> FeatureTable:
            self.survival.save_if_due(trainer, module)
            if kept is not None:  # the same for all heads
                return kept
            loader = trainer.datamodule.labelling_loader(pass_number)  # type: ignore[attr-defined]
            if isinstance(loader, RowReader) and not self._fits(module, len(loader.all_rows())):
                return module.encode_rows(loader, random=not last)
            encoded = module.encode(self._watched(loader), random=not last)
            table = collect_features(encoded, module.model.branch_features, module.device)
            self.survival.stop_together(module.device)
            return table

        def permute(branch: str, head: int, permutation: Tensor) -> None:
            module.model.permute_clusters(branch, head, permutation.to(module.device))

        part_steps = self.config.trainer.max_epochs * module.steps_per_epoch
        if trainer.global_step >= self.config.labelling.first_most * part_steps:
            module.label_bank.keeps_first = False
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            report, self.statistics = self.labeller.relabel(
                module.label_bank, collect, module.model.logits, permute, statistics=last
            )
        module.train()
        self.churn.append(report.churn)
        self.used_clusters = report.used_clusters
        nmi = self._nmi(module.label_bank)
        metrics = {
            "labelling/passes": report.num_passes,
            "labelling/marginal_error": report.marginal_error,
            "labelling/used_clusters": report.used_clusters,
            "labelling/seconds": report.seconds,
            "labelling/churn": report.churn,
            "labelling/nmi": nmi,
            "labelling/agreement": report.race.agreement,
        }
        for name, standing in report.race.modalities.items():
            metrics |= {f"labelling/{name}/{figure}": value for figure, value in vars(standing).items()}
        for logger in trainer.loggers:
            numbers = {name: float(value) for name, value in metrics.items() if value is not None}
            logger.log_metrics(numbers, trainer.global_step)
        self.progress.labelled(report, nmi, len(self.steps), trainer.global_step / self.steps[-1])

    def _give_first_labels(self, trainer: pl.Trainer, module: SelaviModule) -> bool:
        """Fill the bank as labelling.first says, and say what came out; return whether there are labels now."""
        bank, settings = module.label_bank, self.config.labelling
        part_steps = self.config.trainer.max_epochs * module.steps_per_epoch
        num_given = labellings_before(self.steps, settings.first_share, part_steps)
        source = Source(
            lambda pass_number: self._labelling_batches(trainer, pass_number),
            module.augment,
            module.device,
            lambda: self.survival.stop_together(module.device),
        )
        first = give_first_labels(self.config, bank, source, num_given)
        if not first.given:
            if rank() == 0 and first.text:
                say(first.text)
            return False
        nmi = self._nmi(bank)
        metrics = {"first/seconds": first.seconds, "first/agreement": first.agreement, "first/nmi": nmi}
        for logger in trainer.loggers:
            numbers = {name: value for name, value in metrics.items() if value is not None and not np.isnan(value)}
            logger.log_metrics(numbers, trainer.global_step)
        if rank() == 0:
            shown = "" if nmi is None else f", nmi {nmi:.3f}"
            replaced = "labelling 1" if num_given == 1 else f"labellings 1 to {num_given}"
            use = f"they are learned in place of {replaced} of {len(self.steps)}"
            say(f"{first.text}{shown}; {use if self.config.labelling_method.relabels else 'nothing changes them'}")
            self._keep_names(first.names)
        return True

    def _nmi(self, bank: LabelBank) -> float | None:
        """With people's labels, where there are some, in the process that says it."""
        return None if self.human_labels is None or rank() else mean_nmi(self.human_labels, bank.labels)

    def _keep_names(self, given: Sequence[tuple[int, int, str]]) -> None:
        """Write what the clusters were called in the table that they came from, for the page and for what follows."""
        path = RunFolder(self.config.run_dir).names
        if given and not path.exists():
            write_names(Names([decision(*one) for one in given]), path)

    def _fits(self, module: SelaviModule, num_clips: int) -> bool:
        """Whether the features of so many clips are kept, and not encoded anew for each head."""
        size = 4 * num_clips * sum(module.model.branch_features.values())
        return size <= 1e9 * self.config.labelling.memory_gb

    def _labelling_batches(self, trainer: pl.Trainer, pass_number: int) -> Iterator[ClipBatch]:
        return self._watched(trainer.datamodule.labelling_loader(pass_number))  # type: ignore[attr-defined]

    def _watched(self, batches: Iterable[ClipBatch]) -> Iterator[ClipBatch]:
        for batch in batches:
            self.survival.note_errors(batch)
            self.survival.stop_alone()
            yield batch

    def _warm_up_batch_norm(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        labelling = self.config.labelling
        whole = len(module.label_bank.ids) // world_size() // labelling.batch_size  # the same on every rank: SyncBN
        batches = islice(self._labelling_batches(trainer, 0), min(labelling.warmup_batches, max(1, whole)))
        module.train()
        torch.manual_seed(self.config.seed)
        torch.empty((), dtype=torch.int64).random_()  # as loaders once did: the labels of a seed stay what they were
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for _, features, _ in module.encode(batches, random=True):
                module.model.logits(features)


def mean_nmi(human_labels: np.ndarray, labels: Tensor) -> float | None:
    """Mean NMI of people's labels, as numbers (N,), and the clusters of each head that has labelled any clip.

    Args:
        human_labels: (N,) of number_labels.
        labels: (N, H) clusters, -1 for none; such clips are left out.

    Returns:
        None where no head has labelled any.
    """
    scores = []
    for head in labels.T.numpy():
        labelled = head >= 0
        if labelled.all() and len(head):
            scores.append(normalised_mutual_information(contingency_matrix(human_labels, head)))
        elif labelled.any():
            scores.append(normalised_mutual_information(contingency_matrix(human_labels[labelled], head[labelled])))
    return float(np.mean(scores)) if scores else None
