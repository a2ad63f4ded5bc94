"""What ends a training early: signals."""

import os
import signal
from typing import Any

import pytorch_lightning as pl
import torch

from selavi.batch import ClipBatch
from selavi.distributed import all_sum, rank, world_size
from selavi.errors import Interrupted
from selavi.runs.folder import RunFolder
from selavi.training.module import SelaviModule


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
