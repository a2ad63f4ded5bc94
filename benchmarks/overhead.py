"""What surviving costs: a step of training with the looks at gradients, signals and processes, and without.

    python benchmarks/overhead.py            results, page
    python benchmarks/overhead.py --pairs 50 a trial; printed, not published

One training, in which steps come in pairs: one step with the callbacks Poison and Survival (with its Pulse), as
tools/train.py has them, and one without, in an order drawn for each pair.  A step lasts from the end of the one before
it to its own end, so the loading of its batch is part of it.  Steps at the end of an epoch, where a checkpoint is
written, and with a labelling are left out; checkpoints are timed by themselves.
"""

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from common import RESULTS, ROOT, TINY, machine, markdown_table, show_page

from datamodules.clips import ClipDataModule, prepare_data
from datamodules.synthetic import generate
from selavi.atomic import write_text
from selavi.config import Config, load_config
from selavi.distributed import rank
from selavi.runs.pulse import Pulse
from selavi.training.callbacks import LabellingCallback, Poison, Progress, Saving, Survival
from selavi.training.module import SelaviModule
from selavi.training.trainer import fit, make_trainer

PAIRS = 200
MOST = 1.0
"""Percent of a step that surviving may cost."""


@dataclass(frozen=True)
class Size:
    """A training whose steps are timed."""

    words: str
    config: str
    settings: tuple[str, ...]
    processes: int = 1
    pairs: int = 1
    """So many times the pairs asked for: short steps vary more, and cost less."""


SIZES = {
    "small": Size(
        "configs/small.yaml, 64 clips a step",
        "small",
        ("heads.num_clusters=8", "labelling.first=random", "optim.schedule=constant"),
    ),
    "tiny": Size("tiny networks, 8 clips a step", "demo", (*TINY, "optim.schedule=constant"), pairs=3),
    "tiny-two": Size(
        "the same on two processes, 4 clips each",
        "demo",
        (*TINY, "optim.schedule=constant", "optim.batch_size=4", "trainer.strategy=ddp", "trainer.devices=2"),
        processes=2,
        pairs=2,
    ),
}
COMMON = ("labelling.num_labellings=2", "trainer.save_every_s=1e9", "data.demo=false")


class Switch(pl.Callback):
    """Takes callbacks out of the trainer for every other step, and notes how long steps last.

    Last in the list, so what it does at a step's end holds for all of the next one.

    Args:
        switched: the callbacks that it takes out.
        num_pairs: of steps with and without them; then training ends.
    """

    def __init__(self, switched: Sequence[pl.Callback], num_pairs: int) -> None:
        self.switched, self.num_pairs = switched, num_pairs
        self.draws = random.Random(0)  # the same on every process
        self.order: list[bool] = []
        self.half: dict[bool, tuple[float, float]] = {}
        self.pairs: list[dict[bool, tuple[float, float]]] = []
        self.is_disturbed = True  # the first step comes with all that is done once
        self.num_labellings = 0
        self.last = 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep the list as it is with all of them."""
        self.all = trainer.callbacks
        self.without = [callback for callback in self.all if callback not in self.switched]
        self.order = self._draw()

    def on_train_batch_end(self, trainer: pl.Trainer, module: SelaviModule, *_: Any) -> None:
        """Note the step, and choose what the next one is like."""
        now = time.perf_counter(), time.process_time()
        if module.label_bank.num_labellings != self.num_labellings:
            self.num_labellings, self.is_disturbed = module.label_bank.num_labellings, True
        if self.is_disturbed:  # the pair begins anew
            self.half, self.order = {}, self._draw()
        else:
            self.half[self.order[len(self.half)]] = now[0] - self.last[0], now[1] - self.last[1]
        if len(self.half) == 2:
            self.pairs.append(self.half)
            self.half, self.order = {}, self._draw()
        self.is_disturbed = False
        trainer.callbacks = self.all if self.order[len(self.half)] else self.without  # type: ignore[attr-defined]
        trainer.should_stop = len(self.pairs) >= self.num_pairs
        self.last = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave out the step after a checkpoint."""
        self.is_disturbed = True

    def _draw(self) -> list[bool]:
        return self.draws.sample([True, False], 2)


def timed(target: Any, name: str) -> list[float]:
    """Let a method note the seconds that it takes, in the list returned."""
    method, seconds = getattr(target, name), []

    def run(*args: Any) -> Any:
        began = time.perf_counter()
        result = method(*args)
        seconds.append(time.perf_counter() - began)
        return result

    setattr(target, name, run)
    return seconds


def measure(size: Size, config: Config, num_pairs: int) -> dict[str, Any]:
    """Train, and time steps with and without what makes runs survive."""
    torch.set_num_threads(1)
    manifest, media = prepare_data(config)
    data = ClipDataModule(config, manifest, media)
    progress, saving, pulse = Progress(config, data.ids), Saving(config), Pulse(config.run_dir)
    poison = Poison(config, data.ids)
    survival = Survival(config, data.ids, saving, pulse, poison)
    hooks = [timed(poison, "on_before_optimizer_step"), timed(survival, "on_train_batch_end")]
    saves = timed(saving, "save")
    switch = Switch([poison, survival], num_pairs)
    labelling = LabellingCallback(config, data.labels, progress, survival)
    trainer = make_trainer(config, [labelling, progress, poison, survival, saving, switch])
    module = SelaviModule(config, data.ids, data.steps_per_epoch(trainer.world_size))
    with survival.watching():
        fit(trainer, module, data, None, pulse)
    return {
        "pairs": [{"with": pair[True], "without": pair[False]} for pair in switch.pairs],
        "hooks_s": [sum(parts) for parts in zip(*hooks, strict=True)],
        "saves_s": saves,
        "steps_per_epoch": module.steps_per_epoch,
        "num_parameters": sum(parameter.numel() for parameter in module.parameters()),
    }


def summarise(name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Medians and intervals of what `measure` has noted."""
    pairs = measured["pairs"]
    result: dict[str, Any] = {"size": name, "pairs": len(pairs), "hooks_us": 1e6 * median(measured["hooks_s"])}
    for place, clock in enumerate(("wall", "cpu")):
        with_s, without_s = ([pair[mode][place] for pair in pairs] for mode in ("with", "without"))
        differences = [a - b for a, b in zip(with_s, without_s, strict=True)]
        low, high = median_interval(differences)
        result[clock] = {
            "with_ms": 1e3 * median(with_s),
            "without_ms": 1e3 * median(without_s),
            "difference_us": 1e6 * median(differences),
            "interval_us": [1e6 * low, 1e6 * high],
        }
    result |= {"saves": len(measured["saves_s"]), "save_ms": 1e3 * median(measured["saves_s"])}
    return result | {name: measured[name] for name in ("steps_per_epoch", "num_parameters")}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a median, from the order of the values alone (binomial, normal approximation)."""
    ordered, half = sorted(values), 0.98 * math.sqrt(len(values))
    low, high = math.floor(len(values) / 2 - half), math.ceil(len(values) / 2 + half)
    return ordered[max(0, low)], ordered[min(len(values) - 1, high)]


def run_size(name: str, num_pairs: int, work: Path) -> dict[str, Any]:
    """Measure one size in processes of its own."""
    size, out, folder = SIZES[name], work / f"{name}.json", work / f"run-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size.processes)]
    launcher = torchrun if size.processes > 1 else []
    words = ["--one", name, "--pairs", str(num_pairs * size.pairs), "--work", str(work)]
    subprocess.run([sys.executable, *launcher, "benchmarks/overhead.py", *words], cwd=ROOT, check=True)
    return summarise(name, json.loads(out.read_text(encoding="utf-8")))


def run_one(name: str, num_pairs: int, work: Path) -> None:
    """Measure one size in this process, which may be one of several; the first writes the figures."""
    size = SIZES[name]
    places = [f"data.root={work / 'media'}", f"data.cache_dir={work / 'cache'}", f"run_dir={work / f'run-{name}'}"]
    epochs = f"trainer.max_epochs={100 * num_pairs}"
    config = load_config(ROOT / "configs" / f"{size.config}.yaml", [*size.settings, *COMMON, *places, epochs])
    measured = measure(size, config, num_pairs)
    if rank() == 0:
        write_text(work / f"{name}.json", json.dumps(measured))


def page(result: Mapping[str, Any]) -> str:
    """docs/results/overhead.md."""
    rows, shares, saves = [], [], []
    for entry in result["sizes"]:
        words = SIZES[entry["size"]].words
        wall, cpu = entry["wall"], entry["cpu"]
        rows.append(
            [
                words,
                str(entry["pairs"]),
                f"{wall['without_ms']:.2f}",
                f"{wall['with_ms']:.2f}",
                shown(wall),
                shown(cpu),
                f"{entry['hooks_us']:.0f}",
            ]
        )
        hooks = 0.1 * entry["hooks_us"] / wall["without_ms"]
        shares.append([words, percent(wall), percent(cpu), f"{hooks:.2f} %", verdict(wall)])
        epoch_ms = entry["steps_per_epoch"] * wall["without_ms"]
        saves.append(
            [
                words,
                f"{entry['num_parameters']:,}",
                str(entry["saves"]),
                f"{entry['save_ms']:.1f}",
                f"{100 * entry['save_ms'] / 600e3:.3f} %",
                f"{100 * entry['save_ms'] / epoch_ms:.2f} % of {epoch_ms / 1e3:.2f} s",
            ]
        )
    header = [
        "steps",
        "pairs",
        "without, ms",
        "with, ms",
        "difference, us",
        "of processor time, us",
        "in callbacks, us",
    ]
    return PAGE.format(
        times=markdown_table(header, rows),
        shares=markdown_table(
            ["steps", "of time", "of processor time", "in callbacks", f"{MOST:g} % of time?"], shares
        ),
        saves=markdown_table(
            ["steps", "parameters", "checkpoints", "one takes, ms", "of 600 s", "of an epoch here"], saves
        ),
        processor=result["machine"]["processor"],
        cores=result["machine"]["cores"],
        torch=result["torch"],
        date=result["date"],
    )


def shown(clock: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    low, high = clock["interval_us"]
    return f"{clock['difference_us']:.0f} ({low:.0f} to {high:.0f})"


def percent(clock: Mapping[str, Any]) -> str:
    """A difference with its interval, in percent of the step without."""
    low, high = (0.1 * value / clock["without_ms"] for value in clock["interval_us"])
    return f"{0.1 * clock['difference_us'] / clock['without_ms']:.2f} % ({low:.2f} to {high:.2f})"


def verdict(clock: Mapping[str, Any]) -> str:
    """Where a difference with its interval stands to MOST."""
    low, high = (0.1 * value / clock["without_ms"] for value in clock["interval_us"])
    return "less" if high <= MOST else "more" if low > MOST else "the pairs do not tell"


PAGE = """# What surviving costs

How much longer is a step because its gradient is looked at, signals are watched and processes tell each other of them?

In one training, steps come in pairs, in an order drawn for each pair: one with the callbacks `Poison` and `Survival`,
as `selavi train` has them, one without. A step lasts from the end of the one before to its own end. Steps at the end of
an epoch and those with a labelling are left out. One thread a process.

{times}

Medians; *difference*: median over the pairs, with the 95 % interval of that median. *processor time*: of the process,
in place of time on the clock. *in callbacks*: the two callbacks timed by themselves; on several processes that is
mostly waiting for the others, which without them comes later in the step.

In percent of the step without:

{shares}

In one process the callbacks take about as long whatever the batch: the longer a step, the smaller their share.

A checkpoint is written at the end of each epoch and every `trainer.save_every_s` (600 s). Looking whether all numbers
are finite, checksums and flushing to disk are part of its time:

{saves}

Measured on {processor}, {cores} cores, without a GPU, torch {torch}, {date}, by `python benchmarks/overhead.py`; other
work ran on the machine. Raw figures: [overhead.json](../../benchmarks/results/overhead.json).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"of steps of the small size (default: {PAIRS})")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="default: all")
    parser.add_argument("--one", choices=SIZES, help="measure this one here; used by the benchmark itself")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "selavi-benchmark-overhead"))
    args = parser.parse_args()
    if args.one:
        run_one(args.one, args.pairs, args.work)
        return
    is_trial = args.pairs != PAIRS or args.sizes != list(SIZES)
    generate(args.work / "media", seed=5, clips_per_class={"train": 48, "test": 2}, progress=False)
    sizes = [run_size(name, args.pairs, args.work) for name in args.sizes]
    result = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "torch": torch.__version__, "sizes": sizes}
    store = (args.work if is_trial else RESULTS) / "overhead.json"
    write_text(store, json.dumps(result, indent=1) + "\n")
    show_page("overhead", page(result), is_trial)


if __name__ == "__main__":
    main()
