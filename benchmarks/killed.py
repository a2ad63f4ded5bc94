"""A training, its evaluation and its gallery, killed at random moments and started again: what is lost?

    python benchmarks/killed.py                      50 times SIGKILL, 30 times SIGTERM; results, page
    python benchmarks/killed.py --kills 4 --terms 2  a trial; printed, not published

A run is the chain train, cluster_eval, export_clusters on a small generated set.  Five times in each run a signal goes
to all of its processes, at a moment drawn over half the length of an unbroken chain, and the same chain is started
again with resume=auto.  Then it is left to end, and compared with the unbroken one.  Runs that are done are kept in
benchmarks/results/killed.json, so this goes on where it stopped.
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
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from common import RESULTS, ROOT, machine, markdown_table, show_page

from datamodules.synthetic import generate
from selavi.atomic import write_text
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
TIMES = 5
"""Signals a run."""
SAVE_EVERY_S = 2.0
SETTINGS = (
    *("trainer.max_epochs=12", "labelling.num_labellings=16", f"trainer.save_every_s={SAVE_EVERY_S:g}"),
    *("trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "data.demo=false", "resume=auto"),
    "labelling.features=fresh",
)
FINE = {"SIGKILL": (-signal.SIGKILL,), "SIGTERM": (75, -signal.SIGTERM)}
"""How a process may end at a signal; one that has just begun does not watch for SIGTERM yet."""


def commands(folder: Path, media: Path) -> list[list[str]]:
    """The chain that makes a run's gallery."""
    train = ["tools/train.py", "--config", "configs/demo.yaml", f"data.root={media}", f"run_dir={folder}", *SETTINGS]
    return [
        train,
        ["tools/cluster_eval.py", str(folder), "--split", "test"],
        ["tools/export_clusters.py", str(folder), "--split", "test"],
    ]


def live(chain: Sequence[Sequence[str]], number: int = 0, until_s: float = float("inf")) -> dict[str, Any]:
    """Run a chain until it ends, or until a signal.

    Args:
        chain: tools with their arguments.
        number: the signal.
        until_s: when it comes.

    Returns:
        The tool that was hit (none if the chain had ended), how that ended, when it began and when it was hit.
    """
    began = time.time()
    for command in chain:
        tool_began = time.time()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
            try:
                code = process.wait(max(0.0, until_s - (time.time() - began)) if until_s < 1e9 else None)
            except subprocess.TimeoutExpired:
                hit = time.time()
                os.killpg(process.pid, number)
                code = process.wait(120)
                if code:
                    return {"tool": Path(command[0]).stem, "code": code, "began": tool_began, "hit": hit}
            if code:
                output.seek(0)
                raise SystemExit(f"{' '.join(command)} ended with {code}:\n{output.read()[-3000:]}")
    return {"tool": "", "seconds": time.time() - began}


def state(folder: Path) -> dict[str, Any]:
    """How far the checkpoint of a run has come, and when it was written."""
    path = RunFolder(folder).last_checkpoint
    if not path.exists():
        return {"step": 0, "written": 0.0}
    content = read_checkpoint(path)
    return {"step": content["global_step"], "written": path.stat().st_mtime}


def try_run(name: str, seed: int, unbroken: Path, media: Path, length_s: float, work: Path) -> dict[str, Any]:
    """Send a run TIMES signals, let it end, and compare it with the unbroken one."""
    moments = random.Random(f"{name} {seed}")
    folder = work / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    chain = commands(folder, media)
    lives = []
    while len(lives) < TIMES:
        life = live(chain, SIGNALS[name], moments.uniform(0.0, length_s / 2))
        if not life["tool"]:
            continue  # the chain is complete, and is gone through again
        life |= state(folder)
        kept = life["written"] > life["began"]
        life["lost_s"] = life["hit"] - life["written"] if kept and life["tool"] == "train" else None
        life["is_fine"] = life["code"] in FINE[name]
        lives.append(life)
        print(f"{name} {seed}: {life}", file=sys.stderr)
    live(chain)
    return {
        "signal": name,
        "seed": seed,
        "lives": lives,
        "labels_equal": labels(folder).equals(labels(unbroken)),
        "scores_equal": scores(folder) == scores(unbroken),
        "litter": sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tmp*")),
    }


def labels(folder: Path) -> Any:
    """The label table of the training clips."""
    return pq.read_table(RunFolder(folder).path / "labels" / "train.parquet").replace_schema_metadata(None)


def scores(folder: Path) -> Any:
    """What cluster_eval wrote of the clusters."""
    return json.loads((folder / "eval" / "metrics_test.json").read_text(encoding="utf-8"))


def page(result: Mapping[str, Any]) -> str:
    """docs/results/killed.md."""
    rows = []
    for name in SIGNALS:
        runs = [run for run in result["runs"] if run["signal"] == name]
        lives = [life for run in runs for life in run["lives"]]
        lost = [life["lost_s"] for life in lives if life["lost_s"] is not None]
        rows.append(
            [
                name,
                str(len(lives)),
                ", ".join(f"{tool} {sum(life['tool'] == tool for life in lives)}" for tool in TOOLS),
                f"{sum(life['is_fine'] for life in lives)}",
                f"{sum(run['labels_equal'] for run in runs)} of {len(runs)}",
                f"{sum(run['scores_equal'] for run in runs)} of {len(runs)}",
                f"{max(lost):.1f}" if lost else "none",
                str(sum(len(run["litter"]) for run in runs)),
            ]
        )
    header = ["signal", "times", "hit", "ended as it should", "equal labels", "equal scores", "most lost, s", "litter"]
    return PAGE.format(
        table=markdown_table(header, rows),
        every=f"{SAVE_EVERY_S:g}",
        length=f"{result['length_s']:.0f}",
        processor=result["machine"]["processor"],
        cores=result["machine"]["cores"],
    )


TOOLS = ("train", "cluster_eval", "export_clusters")
PAGE = """# Killed at random moments

What is lost when a run is killed, again and again?

A run is the chain train, cluster_eval, export_clusters on a small generated set ({length} s when it is left alone). At
random moments, up to half that time after its start, a signal goes to all of its processes, five times a run, and the
same chain is started again with `resume=auto`. At last it is left to end, and its labels and its scores are compared
with those of a run that was never disturbed. `trainer.save_every_s` is {every}.

{table}

- *hit*: which tool was at work. *ended as it should*: SIGKILL by the signal; SIGTERM with exit code 75, or by the
  signal where Python had not begun to run the tool.
- *most lost*: from the last checkpoint to SIGKILL, where the training had written one since it was started. One that
  comes at SIGTERM is later than the signal: the time is below 0. A checkpoint is begun at the first step after
  `trainer.save_every_s`, and the step and the writing come on top of it.
- *litter*: temporary files left in the run folder at the end.

Measured on {processor}, {cores} cores, without a GPU, by `python benchmarks/killed.py`; raw figures:
[killed.json](../../benchmarks/results/killed.json).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs, a multiple of 5 (default: 50)")
    parser.add_argument("--terms", type=int, default=30, help="SIGTERMs, a multiple of 5 (default: 30)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "selavi-benchmark-killed"))
    args = parser.parse_args()
    is_trial = (args.kills, args.terms) != (50, 30)
    store = (args.work if is_trial else RESULTS) / "killed.json"
    media, unbroken = args.work / "media", args.work / "unbroken"
    generate(media, seed=5, clips_per_class={"train": 12, "test": 4}, progress=False)
    shutil.rmtree(unbroken, ignore_errors=True)
    length_s = live(commands(unbroken, media))["seconds"]
    print(f"unbroken: {length_s:.0f} s", file=sys.stderr)
    result: dict[str, Any] = {"length_s": length_s, "machine": machine(), "runs": []}
    if store.exists() and not is_trial:
        result["runs"] = json.loads(store.read_text(encoding="utf-8"))["runs"]
    done = {(run["signal"], run["seed"]) for run in result["runs"]}
    for name, count in (("SIGKILL", args.kills), ("SIGTERM", args.terms)):
        for seed in range(-(-count // TIMES)):
            if (name, seed) in done:
                continue
            result["runs"].append(try_run(name, seed, unbroken, media, length_s, args.work))
            write_text(store, json.dumps(result, indent=1) + "\n")
    show_page("killed", page(result), is_trial)


if __name__ == "__main__":
    main()
