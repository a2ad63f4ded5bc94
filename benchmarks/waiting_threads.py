"""How threads wait for each other: a training step on an idle and on a busy machine, by OMP_WAIT_POLICY.

    python benchmarks/waiting_threads.py              five rounds, 6 minutes of a quiet machine; results and page
    python benchmarks/waiting_threads.py --rounds 1   printed, not kept

OpenMP's threads wait for each other at the end of every operation of torch.  Left to itself its library lets them spin,
which is fast as long as each has a core of its own.  OMP_WAIT_POLICY=PASSIVE lets them sleep.  GOMP_SPINCOUNT=1000 lets
them spin for a moment first; the commands of selavi choose it where the user has set neither.  A step is forward,
backward and the optimiser on 8 clips of configs/demo.yaml, in a process of its own, with a thread for each core; `busy`
is beside one process a core that computes without end.  Ways take turns in each round.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from common import PAGES, RESULTS, ROOT, describe_machine, markdown_table, measured_here

from selavi.commands.main import SPINS

STORE = RESULTS / "waiting_threads.json"
WAYS: dict[str, dict[str, str]] = {
    "nothing": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": SPINS},
}
CHILD = """
import json, sys, time
from pathlib import Path
import torch
from selavi.config import load_config
from selavi.model import SelaviModel
config = load_config(Path("configs/demo.yaml"), ["data.root=unused", "data.demo=false"])
torch.manual_seed(0)
model = SelaviModel(config).train()
optimiser = torch.optim.SGD(model.parameters(), 0.01)
video = torch.randn(8, 3, config.video.num_frames, config.video.size, config.video.size)
audio = torch.randn(8, 1, config.audio.num_mels, 96)
present = {name: torch.ones(8, dtype=torch.bool) for name in ("video", "audio")}
walls, processors = [], []
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end or len(walls) < 4:
    began = time.monotonic(), time.process_time()
    logits = model({"video": video, "audio": audio}, present)
    loss = sum(values.square().mean() for values in logits.values())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    walls.append(time.monotonic() - began[0])
    processors.append(time.process_time() - began[1])
print(json.dumps([sorted(walls[1:])[len(walls) // 2 - 1], sorted(processors[1:])[len(walls) // 2 - 1]]))
"""


def step_seconds(way: str, seconds: float) -> tuple[float, float]:
    """Median wall and processor time of a step in a new process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    surroundings = kept | WAYS[way] | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(seconds)]
    said = subprocess.run(command, cwd=ROOT, env=surroundings, check=True, capture_output=True, text=True).stdout
    wall, processor = json.loads(said.splitlines()[-1])
    return wall, processor


def measure(rounds: int, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Load and way -> wall and processor time of a step in each round."""
    taken: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for load in ("idle", "busy"):
            others = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
                for _ in range(os.cpu_count() or 1 if load == "busy" else 0)
            ]
            try:
                for way in WAYS:
                    taken.setdefault(f"{load}, {way}", []).append(step_seconds(way, seconds))
                    print(load, way, taken[f"{load}, {way}"][-1], file=sys.stderr, flush=True)
            finally:
                for other in others:
                    other.kill()
    return taken


def page(result: Mapping[str, Any]) -> str:
    """docs/results/waiting_threads.md."""
    rows = []
    for load in ("idle", "busy"):
        for way in WAYS:
            walls, processors = zip(*result["rounds"][f"{load}, {way}"], strict=True)
            rows.append(
                [load, way, *(f"{value * 1000:,.0f}" for value in (*map(median, (walls, processors)), max(walls)))]
            )
    return f"""# How threads wait

{(__doc__ or "").split(chr(10) * 2)[2].strip()}

{markdown_table(["machine", "set", "step, ms", "its processor time, ms", "worst round's step, ms"], rows)}

The first two are medians over the rounds. Spinning beside other work has no steady price: threads wait for one that the
system has put aside, for as long as that lasts. {describe_machine([result])} By `python benchmarks/waiting_threads.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of steps in each process")
    args = parser.parse_args()
    taken = measure(args.rounds, args.seconds)
    if args.rounds < 5:
        return
    result = {"date": time.strftime("%Y-%m-%d"), "environment": measured_here(), "rounds": taken}
    STORE.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (PAGES / "waiting_threads.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
