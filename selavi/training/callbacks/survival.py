"""What ends a training early: signals, a loss that is not finite, clips that cannot be decoded."""

import csv
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.distributed import all_sum, gather_rows, rank, world_size
from selavi.errors import DataError, Interrupted, NumericError
from selavi.filesystem import may_pass, why_gone
from selavi.runs.folder import RunFolder
from selavi.runs.pulse import Pulse
from selavi.training.callbacks.poison import Poison, halve_rate
from selavi.training.callbacks.saving import Saving
from selavi.transfers import LateReading, send

WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(Exception):
    """A signal has come, and this is a place to stop at."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(frozen=True)
class Wants:
    """What the end of a step asks for."""

    stop: bool = False
    save: bool = False

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return self.stop or self.save

    def __or__(self, other: "Wants") -> "Wants":
        return Wants(self.stop or other.stop, self.save or other.save)


class Survival(pl.Callback):
    """Ends a run where it must end, with a checkpoint of all that was done.

    SIGTERM, SIGUSR1 and the keyboard end it after the current step; where several processes train together, after the
    next one, for the flags of a step, which they add in one sum, are read while the next is under way.  The moment one
    comes it is acknowledged on standard error; a second one ends the process at once, and the last checkpoint stays.
    In a labelling, a single process stops at the next batch, several after the pass over the clips: they must all stop
    at the same place.

    Clips that could not be decoded, by any process, are listed in RUN/bad_clips.csv, and end it when they are too many.
    Several processes tell one another of theirs after each step, and after each pass of a labelling.

    What only the device knows of a step, whether its loss and its gradient are finite, is read a step later, too; but
    nothing is saved, and no epoch and no labelling begins or ends, before it was.

    Args:
        config: the whole configuration.
        ids: ids of the training clips; a batch's `index` counts them.
        saving: writes the checkpoints.
        pulse: says that this process is alive.
        poison: looks at the gradients.
    """

    def __init__(self, config: Config, ids: Sequence[str], saving: Saving, pulse: Pulse, poison: Poison) -> None:
        self.config, self.ids, self.saving, self.pulse, self.poison = config, ids, saving, pulse, poison
        self.reading = LateReading()
        self.faults: dict[int, str] = {}
        self.new_faults: dict[int, str] = {}
        self.received = 0
        self.watches = False

    def state_dict(self) -> dict[str, Any]:
        """The clips that could not be decoded: they count against the budget of the whole run."""
        return {"faults": dict(self.faults)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up, but for those that may be well by now."""
        self.faults = {row: reason for row, reason in state_dict["faults"].items() if not may_pass(reason)}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for signals while the block trains; in a thread of its own no signal arrives."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in WATCHED}
        self.watches = True
        try:
            yield
        finally:
            self.watches = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take over from Lightning, whose handlers end with exit code 0."""
        if self.watches:
            for number in WATCHED:
                signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: ClipBatch, _: int
    ) -> None:
        """All ranks save or stop at the same step, for whatever befell any of them."""
        self.pulse.beat()
        self.note_errors(batch)
        wants = self._read(module.device)
        self._begin_reading(trainer, module, outputs["loss"])
        if world_size() == 1:  # nobody else needs to hear of it
            wants |= self._own_wants()
        if wants.any or trainer.is_last_batch:
            self._act(trainer, module, wants)

    def settle(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Wait for what the last step was like, and save or stop where that asks for it; every rank must come here.

        Raises:
            NumericError: its loss or its gradient is not finite.
            Interrupted: a signal had come.
        """
        self._act(trainer, module, Wants())

    def _act(self, trainer: pl.Trainer, module: pl.LightningModule, wants: Wants) -> None:
        """Do what is wanted, once it is certain that the last step was sound."""
        self.poison.settle()
        wants |= self._read(module.device)
        if wants.any:
            self.saving.save(trainer, module)
        if wants.stop:
            raise self._interrupted(self.received, trainer)

    def _own_wants(self) -> Wants:
        """What this process wants."""
        return Wants(bool(self.received), self.saving.is_due())

    def _begin_reading(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        """Start to read this step's flags, of all processes, and whether this one's loss is finite."""
        is_faulty = ~loss.detach().isfinite() & (self.config.trainer.on_nan == "stop")
        own = is_faulty.float()[None]
        wants = self._own_wants()
        flags = torch.tensor([wants.stop, wants.save, len(self.new_faults)], dtype=torch.float32)
        total = all_sum(torch.cat([own, send(flags, module.device)]))
        self.reading.begin(torch.cat([own, total]), trainer.global_step)

    def _read(self, device: torch.device) -> Wants:
        """What the processes wanted at the end of the step whose flags are under way; nothing where none are.

        Raises:
            NumericError: a loss of that step is not finite.
            DataError: too many clips could not be decoded.
        """
        read = self.reading.end()
        if read is None:
            return Wants()
        (is_faulty, num_faulty, stop, save, num_bad), step = read
        if num_bad:
            self._count_errors(device)
        if num_faulty:  # though the gradient was finite; see Poison
            whose = "" if is_faulty else ", in another process"
            raise NumericError(
                f"the loss is not finite at step {step}{whose}; lower optim.lr: {halve_rate(self.config)}"
            )
        return Wants(bool(stop), bool(save))

    @contextmanager
    def saving_before(self, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
        """Write a checkpoint where a signal stops what the block does, which must be fit to go on from there."""
        try:
            yield
        except Stopped as stopped:
            self.saving.save(trainer, module)
            raise self._interrupted(stopped.number, trainer) from None

    @contextmanager
    def stopping_before(self) -> Iterator[None]:
        """Write no checkpoint where a signal stops what the block does, which is done anew."""
        try:
            yield
        except Stopped as stopped:
            raise self._interrupted(stopped.number) from None

    def save_if_due(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write a checkpoint if it is time to; every rank must come here."""
        if all_sum(torch.tensor([float(self.saving.is_due())], device=module.device)).item():
            self.saving.save(trainer, module)

    def stop_together(self, device: torch.device) -> None:
        """Raise Stopped on every rank if any has received a signal; every rank must come here."""
        received, num_bad = all_sum(torch.tensor([self.received, len(self.new_faults)], device=device)).tolist()
        if num_bad:
            self._count_errors(device)
        if received:
            raise Stopped(self.received)

    def stop_alone(self) -> None:
        """Raise Stopped if a signal has come and no other rank waits for this one."""
        self.pulse.beat()
        if self.received and world_size() == 1:
            raise Stopped(self.received)

    def note_errors(self, batch: ClipBatch) -> None:
        """Remember clips that could not be decoded; a single process counts them at once."""
        self.new_faults |= {index: reason for index, reason in batch.errors if index not in self.faults}
        if self.new_faults and world_size() == 1:
            self._count_errors(torch.device("cpu"))

    def _count_errors(self, device: torch.device) -> None:
        """Bring together what all processes have met since the last time; each of them must come here.

        Raises:
            DataError: on all of them, where the clips are more than data.max_bad_fraction of the whole set.
        """
        new = {index: reason for index, reason in _exchange(self.new_faults, device) if index not in self.faults}
        self.faults |= new
        self.new_faults = {}
        path = RunFolder(self.config.run_dir).bad_clips
        if new and rank() == 0:
            with path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows((self.ids[index], reason) for index, reason in new.items())
        if len(self.faults) > self.config.data.max_bad_fraction * len(self.ids):
            raise DataError(
                f"{len(self.faults)} of {len(self.ids)} training clips could not be decoded "
                f"(data.max_bad_fraction={self.config.data.max_bad_fraction}); they are listed in {path}"
                f"{self._advise()}"
            )

    def _advise(self) -> str:
        """What to do about clips that may be well the next time; empty where none may be."""
        num_passing = sum(map(may_pass, self.faults.values()))
        if not num_passing:
            return ""
        root, advice = self.config.data.root, "the same command with resume=auto goes on from the last checkpoint"
        reason = "" if "://" in root else why_gone(root)
        if reason:
            return f". The media folder {root} is gone ({reason}): bring it back, or say data.root=NEW, and {advice}"
        return f". {num_passing} of them may be well the next time: {advice}, and tries them again"

    def _note(self, number: int, frame: object) -> None:
        if self.received:  # the second signal does not wait
            raise self._interrupted(number)
        self.received = number
        if rank() == 0:
            again = "; press Ctrl-C again to stop now" if number == signal.SIGINT else ""
            # Written past Python's buffers, which the interrupted code may be writing to.
            os.write(2, f"\nstopping after this step{again}\n".encode())

    def _interrupted(self, number: int, saved: pl.Trainer | None = None) -> Interrupted:
        """The error that ends the run: after all that the trainer has done was saved, or at once."""
        kept = RunFolder(self.config.run_dir).last_checkpoint
        if saved is not None:
            advice = f"{saved.global_step} steps of it are kept in {kept}: go on with resume=auto"
        elif kept.exists():
            advice = f"what was done until its last checkpoint is kept in {kept}: go on with resume=auto"
        else:
            advice = "there is no checkpoint yet, so nothing of the training is kept: resume=auto starts it anew"
        if number == signal.SIGINT:
            return Interrupted(f"stopped by the keyboard; {advice}", exit_code=130)
        return Interrupted(f"stopped by a signal; {advice}")


def _exchange(faults: dict[int, str], device: torch.device) -> list[tuple[int, str]]:
    """The faults of all processes, in the order of their ranks."""
    text = "".join(f"{json.dumps(entry)}\n" for entry in faults.items())
    sent = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
    lines = bytes(gather_rows(sent).tolist()).splitlines()
    return [(index, reason) for index, reason in map(json.loads, lines)]
