"""What a person sees of a training: one bar, and a line for each labelling."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.distributed import rank, world_size
from selavi.inference.device import device_words
from selavi.labelling.labeller import LabellingReport
from selavi.labelling.race import Race
from selavi.meter import Meter, say
from selavi.modalities import source_of
from selavi.training.module import SelaviModule
from selavi.training.objectives.batch_size import check_batch
from selavi.transfers import LateReading
from selavi.wording import duration, speed

LOST, LOST_AFTER = 0.98, 0.2
"""Share of ln K from which on a modality's cross-entropy says that it cannot learn the labels; share of the training
after which that is judged."""

RANDOM, RANDOM_FOR = 0.9, 3
"""Share of the churn of labels that are drawn anew at random, 1 - 1/K, from which on they change as if they were;
labellings in a row after which that is said."""


class Progress(pl.Callback):
    """One bar over the whole training with clips/s, loss and time left, and a line for each labelling.

    Where standard error is no terminal, a line every `every_s` seconds takes the bar's place.
    """

    def __init__(self, config: Config, ids: Sequence[str], every_s: float = 20.0) -> None:
        self.config, self.ids, self.every_s = config, ids, every_s
        self.meter: Meter | None = None
        self.labellings_left_s = 0.0
        self.smooth_loss = float("nan")
        self.empty_was_said = False
        self.losers: set[str] = set()
        self.random_labellings = 0
        self.reading = LateReading()

    def state_dict(self) -> dict[str, Any]:
        """The loss, which the verdict of a run speaks of."""
        self._take_loss()
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
        device = device_words(config.trainer)
        self.say(
            f"{len(self.ids)} training clips in {source_of(config)}, {' and '.join(config.kinds)}, "
            f"{config.heads.num_heads} heads of {config.heads.num_clusters} clusters, "
            f"{' + '.join(map(str, config.trainer.parts))} epochs, "
            f"{f'on {device}, ' if device else ''}into {config.run_dir}"
        )
        few = check_batch(config, world_size())
        if few:
            self.say(few)

    def on_train_start(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Open the bar."""
        if rank() == 0:
            total = self.config.trainer.all_epochs * module.steps_per_epoch
            self.meter = Meter("training", total, "steps", done=trainer.global_step, every_s=self.every_s)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: SelaviModule, outputs: Any, batch: ClipBatch, _: int
    ) -> None:
        """Advance the bar; it shows the loss up to the step before, so that nobody waits for this one's."""
        self._take_loss()
        self.reading.begin(outputs.get("mean_loss", outputs["loss"])[None], None)
        if self.meter is not None:
            steps_per_s = self.meter.pace.rate
            words = [f"epoch {trainer.current_epoch + 1}"]
            if steps_per_s is not None:
                words.append(f"{speed(steps_per_s * self.config.optim.batch_size * world_size())} clips/s")
            if np.isfinite(self.smooth_loss):
                words.append(f"loss {self.smooth_loss:.3f}")
            self.meter.advance(note=", ".join(words), later_s=self.labellings_left_s)

    def on_train_end(self, trainer: pl.Trainer, module: SelaviModule) -> None:
        """Close the bar, with the last loss."""
        self._take_loss()
        if self.meter is not None:
            self.meter.close()

    def on_exception(self, trainer: pl.Trainer, module: SelaviModule, exception: BaseException) -> None:
        """Close the bar."""
        self.on_train_end(trainer, module)

    def _take_loss(self) -> None:
        """Count the loss of the last step."""
        read = self.reading.end()
        if read is not None and np.isfinite(read[0][0]):  # else the batch was left out
            loss = read[0][0]
            self.smooth_loss = loss if np.isnan(self.smooth_loss) else 0.95 * self.smooth_loss + 0.05 * loss

    def labelled(self, report: LabellingReport, nmi: float | None, planned: int, trained: float) -> None:
        """Print what a labelling did; those ahead will take as long, and no step's time counts it.

        Args:
            report: of the labelling.
            nmi: with human labels, where there are some.
            planned: labellings of the run.
            trained: share of the training that is done.
        """
        self.labellings_left_s = report.seconds * max(0, planned - report.number - 1)
        if self.meter is not None:
            self.meter.pace.pause(report.seconds)
        if rank() == 0:
            churn = "" if np.isnan(report.churn) else f", churn {report.churn:.1%}"
            labels = "" if nmi is None else f", nmi {nmi:.3f}"
            wrong = "" if report.converged else ", NOT CONVERGED"
            error = "" if report.marginal_error is None else f", marginal error {report.marginal_error:.1e}"
            done = f"{report.num_passes} passes{error}{wrong}"
            unseen = f", {report.num_unseen} clips left as they are" if report.num_unseen else ""
            if report.keeps_first:
                needed = self.config.labelling.first_learned
                done = f"the first labels are kept, learned to {report.least_learned:.2f} of {needed:g} by one modality"
            self.say(
                f"labelling {report.number + 1}/{planned}: {done}, "
                f"{report.used_clusters:.1f}/{self.config.heads.num_clusters}"
                f" clusters used{churn}{labels}{unseen}, {duration(report.seconds)}"
            )
            if len(report.race.modalities) > 1:
                self.say(f"  {describe_race(report.race, self.config.heads.num_clusters)}")
            self._warn_of_losers(report.race, trained)
            if not report.keeps_first:
                self._warn_of_churn(report.churn, trained)
            empty = self.config.heads.num_clusters - report.used_clusters
            # The first labellings may well leave some empty.
            if empty and not self.empty_was_said and report.number >= planned // 4:
                self.empty_was_said = True
                sharper = "raise labelling.sharpness or " if self.config.labelling_method.has_plan else ""
                self.say(
                    f"{empty:.1f} of {self.config.heads.num_clusters} clusters hold no clip (mean over the heads); if "
                    f"it stays so, {sharper}lower heads.num_clusters or optim.lr"
                )

    def _warn_of_losers(self, race: Race, trained: float) -> None:
        """Warn, once a modality, where its heads know nothing of the labels after a fifth of the training."""
        chance = math.log(self.config.heads.num_clusters)
        for name, standing in race.modalities.items():
            if trained >= LOST_AFTER and standing.cross_entropy >= LOST * chance and name not in self.losers:
                self.losers.add(name)
                self.say(
                    f"{name} cannot learn the labels: its cross-entropy with them is {standing.cross_entropy:.2f}, and "
                    f"one that says nothing has ln {self.config.heads.num_clusters} = {chance:.2f}.  If it stays so, "
                    f"the labels hold nothing of what {name} can tell; {self._advice(name)}"
                )

    def _advice(self, loser: str) -> str:
        """What to try where one modality cannot learn the labels."""
        labelling, others = self.config.labelling, [name for name in self.config.kinds if name != loser]
        if labelling.votes == "raw" and len(self.config.kinds) > 1:
            return "try labelling.votes=equal, which gives all modalities the same say"
        if labelling.first == "random":
            return "try labelling.first=crafted, which gives every modality something to learn from the start"
        if others:
            return f"compare with a run without it, modalities=[{','.join(others)}]"
        return "try another optim.lr, or fewer clusters with heads.num_clusters"

    def _warn_of_churn(self, churn: float, trained: float) -> None:
        """Warn, once, where labels go on changing as if they were drawn at random."""
        chance = 1 - 1 / self.config.heads.num_clusters
        is_random = trained >= LOST_AFTER and churn >= RANDOM * chance
        self.random_labellings = self.random_labellings + 1 if is_random else 0
        if self.random_labellings == RANDOM_FOR:
            self.say(
                f"{RANDOM_FOR} labellings in a row changed nearly as many labels as drawing them anew would "
                f"({churn:.0%}; at random {chance:.0%}): nothing is learned between them; lower optim.lr, or "
                "labelling.num_labellings, so that there is more training from one to the next"
            )

    def say(self, line: str) -> None:
        """Print a line to standard error without breaking the bar."""
        say(line)


def describe_race(race: Race, num_clusters: int) -> str:
    """How the modalities stand to the labels and to each other, in one line."""
    parts = [
        f"{name} alone gives {standing.own_share:.0%} of the labels (cross-entropy {standing.cross_entropy:.2f}, "
        f"spread {standing.spread:.2f})"
        for name, standing in race.modalities.items()
    ]
    agreement = "" if race.agreement is None else f"; alone they agree to {race.agreement:.3f} (NMI)"
    return f"{', '.join(parts)}; ln K is {math.log(num_clusters):.2f}{agreement}"
