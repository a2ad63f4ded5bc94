"""Equal seeds give equal labels before and after a change of the code: fingerprints of short runs.

    git worktree add ../before COMMIT && python benchmarks/same_labels.py --checkout ../before
    python benchmarks/same_labels.py          trains what is not in the table yet, then compares

Each run is trained and measured by the tools of a checkout; its fingerprint is a digest of every column of its labels,
of the training clips and of the unseen ones.  The table benchmarks/results/same_labels.json holds them by the commit of
the checkout.  Fingerprints are comparable on one machine with one version of torch only, so both commits are run anew
where these differ from the table's.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from selavi.evaluation.compare import RECIPES

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "same_labels.json"

SHORT = ("trainer.max_epochs=2", "labelling.num_labellings=6")
RUNS: dict[str, tuple[str, ...]] = {
    "demo": ("--config", "demo"),
    "AV-objects": ("--config", "small", "data.root=$DATA/avobjects", "heads.num_clusters=9", *SHORT),
    "AV-digits": (
        "--config",
        "small",
        "data.root=$DATA/avdigits",
        "heads.num_clusters=10",
        "audio.shift_time=0.5",
        *SHORT,
    ),
    **{f"recipe {name}": ("--config", "demo", *SHORT, *settings) for name, settings in RECIPES.items()},
}


def fingerprint(run_dir: Path) -> dict[str, str]:
    """A digest of each split's labels, with every column."""
    digests = {}
    for path in sorted((run_dir / "labels").glob("*.parquet")):
        table = pq.read_table(path).combine_chunks()
        text = json.dumps(table.to_pydict())
        digests[path.stem] = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return digests


def train(checkout: Path, name: str, data: Path, work: Path) -> dict[str, str]:
    """Fingerprint of one run, trained with the tools of a checkout unless it is there."""
    run_dir = (work / name.replace(" ", "-")).resolve()
    settings = [word.replace("$DATA", str(data.resolve())) for word in RUNS[name]]
    if "demo" in RUNS[name]:
        settings.append(f"data.root={work.resolve() / 'media'}")
    # PYTHONPATH: what is installed may be another checkout
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    commands = (
        ["tools/train.py", *settings, f"run_dir={run_dir}", "resume=auto"],
        ["tools/cluster_eval.py", str(run_dir), "--split", "test"],
    )
    for command in commands:
        subprocess.run([sys.executable, *command], cwd=checkout, env=environment, check=True)
    return fingerprint(run_dir)


def commit_of(checkout: Path) -> str:
    """The checkout's commit, with + where files were changed."""
    words = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    return subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()


def differences(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Runs whose fingerprints differ between the first commit of the table and any other."""
    first, *others = table
    return [
        f"{name}: {table[first][name]} at {first}, {table[other][name]} at {other}"
        for other in others
        for name in table[first]
        if name in table[other] and table[other][name] != table[first][name]
    ]


def main() -> int:
    """Train, write the table after each run, say what differs; exit code 1 where something does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkout", type=Path, default=ROOT, help="folder of the commit to train with (default: this)"
    )
    parser.add_argument(
        "--runs", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NAME", help="(default: all)"
    )
    parser.add_argument(
        "--work", type=Path, help="folder of the runs (default: runs/same_labels/COMMIT of this checkout)"
    )
    args = parser.parse_args()
    data = Path(os.environ.get("SELAVI_TESTDATA", ROOT.parent / "shared")) / "data"
    commit = commit_of(args.checkout)
    work = args.work or ROOT / "runs" / "same_labels" / commit
    kept = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    machine = {"machine": platform.processor() or platform.machine(), "torch": version("torch")}
    digests = kept.get("commits", {})
    for name in args.runs:
        if any("$DATA" in word for word in RUNS[name]) and not data.is_dir():
            print(f"{name} is left out: no folder {data}; set SELAVI_TESTDATA", file=sys.stderr)
            continue
        if name in digests.get(commit, {}) and not commit.endswith("+"):
            continue
        digests.setdefault(commit, {})[name] = train(args.checkout, name, data, work)
        TABLE.write_text(json.dumps({**machine, "commits": digests}, indent=2) + "\n", encoding="utf-8")
    different = differences(digests)
    print("\n".join(different) or f"{len(digests[commit])} runs, equal labels at {', '.join(digests)}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
