"""Loader processes that training and labelling share, against some for each: memory, and whether switching costs time.

    python benchmarks/shared_loaders.py              five rounds, 4 minutes of a quiet machine; results and page
    python benchmarks/shared_loaders.py --rounds 1   printed, not kept

Two epochs of clips of the demo set's kind, decoded from their files, with a labelling in the middle of each, read as
fast as two loader processes can; nothing is trained.  *shared*: as in a run; *each its own*: a loader for training and
one for labelling with two processes each, of which two wait while the others work.  A measurement is a process of its
own; the ways take turns in each round.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from common import PAGES, RESULTS, ROOT, describe_machine, markdown_table, measured_here

from datamodules.clips import ClipDataModule, prepare_data
from datamodules.loading.views import Batches
from datamodules.processes import own_memory
from datamodules.synthetic import generate
from selavi.config import load_config

STORE = RESULTS / "shared_loaders.json"
PLACE = ROOT / "runs" / "benchmarks" / "shared_loaders"
WAYS = ("shared", "each its own")
WORKERS = 2


def read(way: str) -> dict[str, float]:
    """Processes, their memory, and seconds of each epoch with a labelling in its middle."""
    settings = [f"data.root={PLACE / 'media'}", f"data.cache_dir={PLACE / 'cache'}", "data.demo=false"]
    settings += ["data.cache_gb=0", f"data.num_workers={WORKERS}"]
    config = load_config(ROOT / "configs" / "demo.yaml", settings)
    data = ClipDataModule(config, *prepare_data(config))
    if way == "shared":
        training, labelling = data.train_dataloader(), data.labelling_loader(0)
    else:
        training = data.loaders.training_loader(data.train_rows)
        labelling, _ = data.loaders.labelling_loader(data.train_rows)
    seconds, clips = [], 0
    for _ in range(2):
        began = time.perf_counter()
        epoch = iter(training)
        clips = count(islice(epoch, len(training) // 2)) + count(iter(labelling)) + count(epoch)
        seconds.append(time.perf_counter() - began)
    sizes = [own_memory(pid) for pid in process_ids(training) | process_ids(labelling)]
    return {
        "processes": len(sizes),
        "memory_mb": sum(sizes) / 2**20,
        "first_s": seconds[0],
        "second_s": seconds[1],
        "clips": clips,
    }


def count(batches: Iterator[Any]) -> int:
    """Clips of some batches, which are let go."""
    return sum(len(batch.index) for batch in batches)


def process_ids(loader: Batches) -> set[int]:
    """Those of its loader processes."""
    return {process.pid for process in loader.processes._processes()}  # type: ignore[union-attr, misc]


def measure(rounds: int) -> list[dict[str, dict[str, float]]]:
    """What each way takes, in each round."""
    generate(PLACE / "media", clips_per_class={"train": 40, "test": 2}, progress=False)
    taken = []
    for number in range(rounds):
        order = WAYS if number % 2 == 0 else WAYS[::-1]
        taken.append({way: json.loads(_output(way)) for way in order})
        print(taken[-1], file=sys.stderr, flush=True)
    return taken


def _output(way: str) -> str:
    command = [sys.executable, str(Path(__file__).resolve()), "--read", way]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def page(result: Mapping[str, Any]) -> str:
    """docs/results/shared_loaders.md."""
    rows = []
    for way in WAYS:
        of_way = [taken[way] for taken in result["rounds"]]
        middle = {name: median(one[name] for one in of_way) for name in of_way[0]}
        seconds = [f"{middle[name]:.1f}" for name in ("first_s", "second_s")]
        rows.append([way, f"{middle['processes']:.0f}", f"{middle['memory_mb']:,.0f}", *seconds])
    ratios = [taken["shared"]["second_s"] / taken["each its own"]["second_s"] for taken in result["rounds"]]
    clips = result["rounds"][0]["shared"]["clips"]
    return f"""# Loader processes that training and labelling share

{(__doc__ or "").split(chr(10) * 2)[2].strip()}

{markdown_table(["loader processes", "number", "memory of their own, MiB", "first epoch, s", "second epoch, s"], rows)}

Medians of {len(ratios)} rounds; {clips:,} clips an epoch and its labelling; the first one has the start of the
processes. The second epoch takes {median(ratios):.2f} times as long with shared ones ({min(ratios):.2f} to
{max(ratios):.2f}). {describe_machine([result])} By `python benchmarks/shared_loaders.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--read", choices=WAYS, help="for itself: one measurement")
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.read)))
        return
    rounds = measure(args.rounds)
    if args.rounds < 5:
        return
    result = {"date": time.strftime("%Y-%m-%d"), "environment": measured_here(), "rounds": rounds}
    STORE.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (PAGES / "shared_loaders.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
