"""tools/train.py that a signal stops after a step: python stopped_at.py STEP [words of tools/train.py].

Several processes hear of it at the end of the step after that in which it comes.
"""

import signal
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from selavi.training.callbacks import Survival
from tools import train

after_step = Survival.on_train_batch_end


def stop(self: Survival, trainer: Any, *words: Any) -> None:
    """Let the signal have come where the step is done."""
    if trainer.global_step == int(sys.argv[1]) - (trainer.world_size > 1):
        self.received = signal.SIGTERM
    after_step(self, trainer, *words)


Survival.on_train_batch_end = stop  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(train.main(sys.argv[2:]))
