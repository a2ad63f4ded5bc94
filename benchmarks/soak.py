"""A long training, watched every second, and the same with random signals: does it take ever more, is anything lost?

    python benchmarks/soak.py                results, page: 20 minutes unbroken, and about twice that with signals
    python benchmarks/soak.py --minutes 3    a trial; printed, not published

The length in epochs is measured first.  The unbroken training shows whether one process grows over many epochs,
labellings and checkpoints.  All processes of the other one get SIGTERM or SIGUSR1 at random moments, and it is started
again: does each take as much as the one before, and are the labels at the end those of the unbroken one?
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import pyarrow.parquet as pq
import torch
from common import RESULTS, ROOT, TINY, machine, markdown_table, show_page

from datamodules.synthetic import generate
from selavi.atomic import write_text
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder

MINUTES = 20.0
LIVES = 20
"""So many processes make the training with signals, on average."""
EPOCHS_A_LABELLING = 8
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SETTINGS = (*TINY, "data.num_workers=1", "trainer.save_every_s=2", "trainer.log_every_n_steps=1", "resume=auto")
NUM_BLOCKS, STUDENT = 20, 2.101
"""Blocks of samples whose medians a trend is fitted to; the 97.5 % point of Student's t for 18 degrees of freedom."""
WARM_UP = 0.25
"""Share of a training, from its first checkpoint on, that is left out before."""
MOST_GROWTH = {"memory_mb": 0.02, "main_mb": 0.02, "files": 0.01}
"""Largest growth over the watched time, as a share of the middle, that counts as flat."""


@dataclass(frozen=True)
class Sample:
    """What the processes of a training have at one moment."""

    at_s: float
    processes: int
    main_mb: float
    """Resident memory of the process that trains."""
    memory_mb: float
    """Of all of them together; what they share counts for each."""
    files: int
    """Open ones of all of them."""


@dataclass
class Life:
    """One process of a training, from its start to its end."""

    signal: str = ""
    code: int = 0
    samples: list[Sample] = field(default_factory=list)
    first_checkpoint_s: float | None = None
    """When this process wrote its first one."""


def command(folder: Path, media: Path, epochs: int) -> list[str]:
    """The training."""
    places = [f"data.root={media}", f"data.cache_dir={media}-cache", f"run_dir={folder}"]
    length = [f"trainer.max_epochs={epochs}", f"labelling.num_labellings={max(2, epochs // EPOCHS_A_LABELLING)}"]
    return [sys.executable, "tools/train.py", "--config", "configs/demo.yaml", *places, *SETTINGS, *length]


def live(words: Sequence[str], folder: Path, number: int = 0, until_s: float = float("inf")) -> Life:
    """Train and watch until the process ends; at `until_s` it gets a signal.

    Raises:
        SystemExit: it ended in another way than it should.
    """
    life, began, began_at, checkpoint = Life(), time.monotonic(), time.time(), RunFolder(folder).last_checkpoint
    with tempfile.TemporaryFile("w+") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        while process.poll() is None:
            now_s = time.monotonic() - began
            life.samples += sample(process.pid, now_s)
            if life.first_checkpoint_s is None and checkpoint.exists() and checkpoint.stat().st_mtime > began_at:
                life.first_checkpoint_s = now_s
            if now_s >= until_s and not life.signal:
                life.signal = signal.Signals(number).name
                os.killpg(process.pid, number)
            time.sleep(1.0)
        life.code = process.returncode
        output.seek(0)
        if life.code not in ((0, 75, -number) if life.signal else (0,)):
            raise SystemExit(f"{' '.join(words)} ended with {life.code}:\n{output.read()[-3000:]}")
    return life


def sample(session: int, at_s: float) -> list[Sample]:
    """What the processes of a session have now; empty where it has just ended."""
    memory_mb, files = {}, 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.joinpath("stat").read_text().rpartition(")")[2].split()[3] != str(session):
                continue
            pages = int(path.joinpath("statm").read_text().split()[1])
            files += len(os.listdir(path / "fd"))
        except OSError:  # it has ended meanwhile
            continue
        memory_mb[path.name] = pages * os.sysconf("SC_PAGESIZE") / 1e6
    main_mb = memory_mb.get(str(session), 0.0)
    return [Sample(at_s, len(memory_mb), main_mb, sum(memory_mb.values()), files)] if main_mb else []


def watched(life: Life) -> dict[str, Any]:
    """Trends of a training's samples behind its warm-up, fitted to the medians of blocks."""
    begin_s = life.first_checkpoint_s or 0.0
    trained = [entry for entry in life.samples if entry.at_s > begin_s]
    kept = trained[int(WARM_UP * len(trained)) :]
    size = max(1, len(kept) // NUM_BLOCKS)
    blocks = [kept[number * size : (number + 1) * size] for number in range(NUM_BLOCKS)]
    hours = [mean(entry.at_s for entry in block) / 3600 for block in blocks]
    result: dict[str, Any] = {"samples": len(kept), "hours": kept[-1].at_s / 3600 - kept[0].at_s / 3600}
    for name in MOST_GROWTH:
        medians = [float(median(getattr(entry, name) for entry in block)) for block in blocks]
        slope, margin = trend(hours, medians)
        result[name] = {"blocks": medians, "per_hour": slope, "margin": margin}
    return result


def trend(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The slope of the line of least squares, and half of its 95 % interval."""
    middle, height = mean(times), mean(values)
    squares = sum((time - middle) ** 2 for time in times)
    slope = sum((time - middle) * (value - height) for time, value in zip(times, values, strict=True)) / squares
    rest = sum((value - height - slope * (time - middle)) ** 2 for time, value in zip(times, values, strict=True))
    return slope, STUDENT * (rest / (len(times) - 2) / squares) ** 0.5


def is_flat(name: str, watched: Mapping[str, Any]) -> bool:
    """Whether what is watched grows by no more than MOST_GROWTH over the time, by the upper end of the interval."""
    entry = watched[name]
    growth = (entry["per_hour"] + entry["margin"]) * watched["hours"]
    return bool(growth <= MOST_GROWTH[name] * median(entry["blocks"]))


def plateau(life: Life) -> dict[str, float] | None:
    """What a process had in the end; None for one that has hardly trained."""
    begin_s = life.first_checkpoint_s
    trained = [entry for entry in life.samples if begin_s is not None and entry.at_s > begin_s + 3]
    if len(trained) < 5:
        return None
    last = trained[len(trained) // 2 :]
    return {name: float(median(getattr(entry, name) for entry in last)) for name in MOST_GROWTH}


def soak(words: Sequence[str], folder: Path, useful_s: float, startup_s: float) -> list[dict[str, Any]]:
    """Train with random signals until the training has ended; what became of each process."""
    draws, lives = random.Random(0), []
    while not RunFolder(folder).status.exists():
        number, until_s = draws.choice(SIGNALS), draws.uniform(0.0, 2 * (startup_s + useful_s / LIVES))
        life = live(words, folder, number, until_s)
        seconds = life.samples[-1].at_s if life.samples else 0.0
        lives.append({"signal": life.signal, "code": life.code, "seconds": seconds, "plateau": plateau(life)})
        print(lives[-1], file=sys.stderr, flush=True)
    return lives


def outcome(folder: Path) -> tuple[Any, Mapping[str, torch.Tensor]]:
    """The label table of the training clips, and the weights."""
    files = RunFolder(folder)
    table = pq.read_table(files.labels("train")).replace_schema_metadata(None)
    return table, read_checkpoint(files.last_checkpoint)["state_dict"]


def compare(one: Path, other: Path) -> dict[str, bool]:
    """Whether two runs have come to the same."""
    (table, weights), (other_table, other_weights) = outcome(one), outcome(other)
    same = all(torch.equal(value, other_weights[name]) for name, value in weights.items())
    return {"labels_equal": table.equals(other_table), "weights_equal": same}


def page(result: Mapping[str, Any]) -> str:
    """docs/results/soak.md."""
    watched, lives = result["unbroken"], result["lives"]
    rows = []
    for name, words in NAMES.items():
        entry = watched[name]
        blocks, unit = entry["blocks"], "" if name == "files" else " MB"
        rows.append(
            [
                words,
                f"{blocks[0]:.0f}{unit}",
                f"{blocks[-1]:.0f}{unit}",
                f"{min(blocks):.0f} to {max(blocks):.0f}{unit}",
                f"{entry['per_hour']:+.1f} ± {entry['margin']:.1f}{unit}",
                "flat" if is_flat(name, watched) else "GROWS",
            ]
        )
    levels = [life["plateau"] for life in lives if life["plateau"] is not None]
    of_lives = [
        [
            words,
            f"{levels[0][name]:.0f}",
            f"{levels[-1][name]:.0f}",
            f"{min(level[name] for level in levels):.0f} to {max(level[name] for level in levels):.0f}",
        ]
        for name, words in NAMES.items()
    ]
    stopped = [life for life in lives if life["signal"]]
    counts = ", ".join(f"{sum(life['signal'] == number.name for life in lives)} {number.name}" for number in SIGNALS)
    codes = ", ".join(
        f"{sum(life['code'] == code for life in stopped)} with {code}"
        for code in sorted({life["code"] for life in stopped})
    )
    return PAGE.format(
        minutes=f"{result['seconds'] / 60:.0f}",
        epochs=f"{result['epochs']:,}",
        labellings=result["labellings"],
        samples=f"{watched['samples']:,}",
        watched=f"{60 * watched['hours']:.0f}",
        trends=markdown_table(["", "first", "last", "range", "an hour", ""], rows),
        share=f"{100 * MOST_GROWTH['memory_mb']:.0f}",
        share_files=f"{100 * MOST_GROWTH['files']:.0f}",
        counts=counts,
        lives=len(lives),
        codes=codes,
        levels=len(levels),
        table=markdown_table(["", "first process", "last", "range"], of_lives),
        labels="equal" if result["labels_equal"] else "NOT equal",
        weights="equal" if result["weights_equal"] else "NOT equal",
        processor=result["machine"]["processor"],
        cores=result["machine"]["cores"],
        date=result["date"],
        command=result["command"],
    )


NAMES = {
    "main_mb": "resident memory of the process that trains",
    "memory_mb": "of all its processes, shared pages counted in each",
    "files": "open files of all its processes",
}
PAGE = """# A soak

Does a long training take ever more memory or open files, and does anything get lost when it is stopped again and again?

A tiny training on generated clips, with one loader process, of {epochs} epochs with a checkpoint after each and every
2 s, and {labellings} labellings: {minutes} min when it is left alone. Its processes are looked at every second.

## One process, unbroken

{samples} samples over {watched} min, behind the start and a quarter of the training. *first*, *last*: of the medians of
20 blocks of samples; *an hour*: slope of the line through them, with its 95 % interval. *flat*: the upper end of that
interval is a growth over the watched time of at most {share} % of the memory, {share_files} % of the files.

{trends}

## With random signals

The same training with {counts} to all of its processes at random moments, and started again with
`resume=auto` each time: {lives} processes, of those stopped {codes}. What {levels} of them had in the second half of
their training (the others hardly trained):

{table}

The labels in the end, with their confidence, are {labels} to those of the unbroken training, and the weights are
{weights}, to the last bit.

Measured on {processor}, {cores} cores, without a GPU, {date}, by `{command}`; other work ran on the machine. Raw
figures: [soak.json](../../benchmarks/results/soak.json).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of the unbroken one (default: {MINUTES:g})")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "selavi-benchmark-soak"))
    args = parser.parse_args()
    media, trial, unbroken, broken = (args.work / name for name in ("media", "trial", "unbroken", "broken"))
    for folder in (trial, unbroken, broken):
        shutil.rmtree(folder, ignore_errors=True)
    generate(media, seed=5, clips_per_class={"train": 8, "test": 2}, progress=False)
    num_tried = 4 * EPOCHS_A_LABELLING
    life = live(command(trial, media, num_tried), trial)
    startup_s = life.first_checkpoint_s or 0.0
    epochs = round(60 * args.minutes / (life.samples[-1].at_s - startup_s) * num_tried)
    print(f"{epochs} epochs; the start takes {startup_s:.0f} s", file=sys.stderr, flush=True)
    life = live(command(unbroken, media, epochs), unbroken)
    seconds = life.samples[-1].at_s
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": "python benchmarks/soak.py" + f" --minutes {args.minutes:g}" * (args.minutes != MINUTES),
        "machine": machine(),
        "epochs": epochs,
        "labellings": max(2, epochs // EPOCHS_A_LABELLING),
        "seconds": seconds,
        "unbroken": watched(life),
    }
    print(result, file=sys.stderr, flush=True)
    result["lives"] = soak(command(broken, media, epochs), broken, seconds - startup_s, startup_s)
    result |= compare(unbroken, broken)
    is_trial = args.minutes != MINUTES
    write_text((args.work if is_trial else RESULTS) / "soak.json", json.dumps(result, indent=1) + "\n")
    show_page("soak", page(result), is_trial)


if __name__ == "__main__":
    main()
