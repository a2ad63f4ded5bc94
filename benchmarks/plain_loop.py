"""A step of a run beside the same step in a plain PyTorch loop, on the CPU.

    python benchmarks/plain_loop.py             results, page
    python benchmarks/plain_loop.py --steps 5   a trial; printed, not published

A run as tools/train.py makes it, but for its loader: Lightning, with the callbacks that look at each step, over one
batch again and again.  After each of its steps, the last callback makes one in a plain loop over the same batch, with
a model, an augmentation and an optimiser of its own.  So steps of both take turns in one process.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from common import RESULTS, ROOT, TINY, machine, markdown_table, show_page
from gpu import Repeated
from overhead import median_interval

from selavi.atomic import write_text
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config, load_config
from selavi.model import SelaviModel
from selavi.runs.pulse import Pulse
from selavi.training.callbacks import Poison, Progress, Saving, Survival
from selavi.training.module import SelaviModule
from selavi.training.objectives.cross_entropy import selavi_loss
from selavi.training.optim import limit_gradient, make_optimizer
from selavi.training.speed import synthetic_batch
from selavi.training.trainer import make_trainer

STEPS = 100
WARM = 3
"""Steps that are not counted."""
SIZES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "small": ("configs/small.yaml, 64 clips a step", "small", ("heads.num_clusters=8",)),
    "demo": ("configs/demo.yaml, 32 clips a step", "demo", ("data.demo=false",)),
    "tiny": ("tiny networks, 8 clips a step", "demo", TINY),
}
"""In words, the configuration, and settings over it."""


class PlainLoop:
    """Augment, encode, compare with labels, step: what a run does with a batch, and nothing else."""

    def __init__(self, config: Config, labels: torch.Tensor) -> None:
        torch.manual_seed(0)
        self.config, self.labels = config, labels
        self.model, self.augment = SelaviModel(config), Augment(config)
        self.optimizer = make_optimizer(self.model, config.optim, config.optim.batch_size)

    def step(self, batch: ClipBatch) -> None:
        """One step of training."""
        logits = self.model(self.augment(batch, random=True), batch.present)
        present = self.model.branch_present(batch.present)
        loss = selavi_loss(logits, self.labels[batch.index], present, reduce=self.config.loss.reduce)
        self.optimizer.zero_grad()
        loss.backward()
        limit_gradient(self.optimizer, self.config.trainer.gradient_clip_val)
        self.optimizer.step()


class Turns(pl.Callback):
    """The last callback: notes how long the run's step took, and lets the plain loop make one.

    Args:
        plain: the plain loop.
    """

    def __init__(self, plain: PlainLoop) -> None:
        self.plain = plain
        self.pairs: list[dict[str, tuple[float, float]]] = []
        self.last = clocks()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: ClipBatch, *_: Any
    ) -> None:
        """See above."""
        of_run = since(self.last)
        began = clocks()
        self.plain.step(batch)
        self.pairs.append({"run": of_run, "plain": since(began)})
        self.last = clocks()


def clocks() -> tuple[float, float]:
    """Seconds on the clock, and of the process."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Seconds that have passed on both."""
    now = clocks()
    return now[0] - began[0], now[1] - began[1]


def measure(name: str, num_steps: int, folder: Path) -> dict[str, Any]:
    """Steps of one size: seconds of each, of the run and of the plain loop."""
    words, base, settings = SIZES[name]
    more = (*settings, f"run_dir={folder / name}", "trainer.max_epochs=1", "trainer.accelerator=cpu")
    config = load_config(ROOT / "configs" / f"{base}.yaml", list(more))
    batch = synthetic_batch(config, config.optim.batch_size)
    ids = [f"clip{number}" for number in range(config.optim.batch_size)]
    module = SelaviModule(config, ids, WARM + num_steps)
    bank = module.label_bank
    bank.labels = torch.randint_like(bank.labels, config.heads.num_clusters)
    bank.num_labellings = 1
    poison = Poison(config, ids)
    survival = Survival(config, ids, Saving(config), Pulse(config.run_dir), poison)
    turns = Turns(PlainLoop(config, bank.labels.long()))
    trainer = make_trainer(config, [Progress(config, ids), poison, survival, turns])
    trainer.fit(module, train_dataloaders=Repeated(batch, WARM + num_steps))
    return {"size": name, "words": words, "pairs": turns.pairs[WARM:]}


def summarise(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Medians of both, and of the ratio of each pair with its interval; on both clocks."""
    result: dict[str, Any] = {"words": measured["words"], "steps": len(measured["pairs"])}
    for place, clock in enumerate(("wall", "cpu")):
        run, plain = ([pair[way][place] for pair in measured["pairs"]] for way in ("run", "plain"))
        ratios = [a / b for a, b in zip(run, plain, strict=True)]
        result[clock] = {
            "run_ms": 1e3 * median(run),
            "plain_ms": 1e3 * median(plain),
            "ratio": median(ratios),
            "interval": median_interval(ratios),
        }
    return result


def page(result: Mapping[str, Any]) -> str:
    """docs/results/plain_loop.md."""
    rows = []
    for entry in result["sizes"]:
        wall, cpu = entry["wall"], entry["cpu"]
        times = [f"{wall['plain_ms']:.1f}", f"{wall['run_ms']:.1f}"]
        rows.append([entry["words"], str(entry["steps"]), *times, _ratio(wall), _ratio(cpu)])
    header = ["steps", "pairs", "plain loop, ms", "a run, ms", "run / plain", "of processor time"]
    return f"""# A step beside a plain loop

How much longer is a step of training in a run than in a plain PyTorch loop of the same model, augmentation, loss and
optimiser? A run has Lightning's loop, the label bank and its weights, the schedule of the learning rate, and the
callbacks that show and check; no checkpoint is written here. Both work on one batch that lies in memory, so nothing
here waits for a decoder; their steps take turns in one process. One thread.

{markdown_table(header, rows)}

Medians; the ratios are medians over the pairs, with their 95 % interval.

Measured on {result["machine"]["processor"]}, {result["machine"]["cores"]} cores, without a GPU, torch
{result["torch"]}, {result["date"]}, by `python benchmarks/plain_loop.py`.
"""


def _ratio(clock: Mapping[str, Any]) -> str:
    low, high = clock["interval"]
    return f"{clock['ratio']:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each size (default: {STEPS})")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="default: all")
    args = parser.parse_args()
    is_trial = args.steps != STEPS or args.sizes != list(SIZES)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sizes = [summarise(measure(name, args.steps, Path(folder))) for name in args.sizes]
        result = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "torch": torch.__version__, "sizes": sizes}
        if not is_trial:
            write_text(RESULTS / "plain_loop.json", json.dumps(result, indent=1) + "\n")
    show_page("plain_loop", page(result), is_trial)


if __name__ == "__main__":
    main()
