"""What a newcomer waits for: the steps of `make demo` one by one, each from nothing, and what has to be installed.

python benchmarks/newcomer.py                  times on a machine with nothing beside it; README and docs/results
python benchmarks/newcomer.py --sizes          only the sizes; times that were measured earlier stay
python benchmarks/newcomer.py --download       also fetches every package, to weigh the download (gigabytes)
python benchmarks/newcomer.py --trial trainer.max_epochs=1     a trial with a few clips, published nowhere
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from common import PAGES, RESULTS, ROOT, fill, machine, markdown_table
from packaging.requirements import Requirement

from selavi.runs.lifetime import environment
from selavi.wording import byte_size, duration

COMPILE = """
import torch
from selavi.labelling.solver.marginals import make_marginal
from selavi.labelling.solver.transport import assign
assign(torch.randn(200_000, 8).log_softmax(1), make_marginal("uniform", 8), sharpness=20)
"""
GENERATE = """
import sys
from pathlib import Path
from datamodules.clips import DEMO_CLIPS_PER_CLASS
from datamodules.synthetic import generate
generate(Path(sys.argv[1]), clips_per_class={"train": 4, "test": 2} if sys.argv[2:] else DEMO_CLIPS_PER_CLASS)
"""
STEPS = {
    "generate": "generate the videos",
    "train": "read them, train, label",
    "measure": "measure the clusters of unseen clips",
    "export": "write the tables and the page",
}
"""Step -> what it does, in the order of `make demo`."""


def time_steps(folder: Path, trial: Sequence[str]) -> dict[str, float]:
    """Seconds of each step, in folders of its own, start of Python included.

    `compile` is no step of the demo, whose table of scores is small: the solver compiles itself for a large one, once
    on a machine, and its seconds are the difference between a first and a second process that solves.

    Raises:
        subprocess.CalledProcessError: a step failed; its own message has been printed.
    """
    surroundings = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "compiled"), "PYTHONPATH": str(ROOT)}
    run, media = str(folder / "run"), str(folder / "media")

    def seconds(*arguments: str) -> float:
        began = time.monotonic()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=surroundings, check=True)
        return time.monotonic() - began

    first, second = seconds("-c", COMPILE), seconds("-c", COMPILE)
    settings = ["data.demo=false", f"data.root={media}", f"data.cache_dir={folder / 'cache'}", f"run_dir={run}", *trial]
    return {
        "compile": first - second,
        "generate": seconds("-c", GENERATE, media, *(["few"] if trial else [])),
        "train": seconds("tools/train.py", "--config", "configs/demo.yaml", *settings),
        "measure": seconds("tools/cluster_eval.py", run, "--split", "test", "--yardsticks"),
        "export": seconds("tools/export_clusters.py", run, "--split", "test"),
    }


def required(name: str = "selavi") -> dict[str, str]:
    """Every package that selavi needs on this machine, with its version: what is required, and what that requires."""
    packages: dict[str, str] = {}
    waiting = [(name, "")]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # optional on this machine
            continue
        packages[found.metadata["Name"].lower().replace("_", "-")] = found.version
        for line in found.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, wanted) for wanted in ("", *needed.extras)]
    return packages


def installed_bytes(packages: Mapping[str, str]) -> dict[str, int]:
    """Bytes on the disk of each package, by the list of its files."""
    sizes = {}
    for name in packages:
        paths = (Path(file.locate()) for file in metadata.distribution(name).files or ())
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
    return sizes


def download_bytes(packages: Mapping[str, str], folder: Path) -> int:
    """Bytes that pip fetches for these versions, selavi itself left out."""
    wanted = [f"{name}=={version}" for name, version in packages.items() if name != "selavi"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--dest", str(folder), *wanted]
    subprocess.run(command, check=True)
    return sum(path.stat().st_size for path in folder.iterdir())


def measure_sizes(download: bool) -> dict[str, Any]:
    """What is installed, in bytes, the largest packages by name."""
    packages = required()
    sizes = installed_bytes(packages)
    largest = dict(sorted(sizes.items(), key=lambda entry: -entry[1])[:8])
    result: dict[str, Any] = {"packages": len(packages), "installed": sum(sizes.values()), "largest": largest}
    if download:
        with tempfile.TemporaryDirectory() as folder:
            result["download"] = download_bytes(packages, Path(folder))
    return result


def page(result: Mapping[str, Any]) -> str:
    """docs/results/newcomer.md."""
    sizes, steps = result["sizes"], result["steps"]
    largest = [[name, byte_size(size)] for name, size in sizes["largest"].items()]
    waits = "Not measured yet."
    if steps is not None:
        rows = [[what, duration(steps[name])] for name, what in STEPS.items()]
        rows.append(["together", duration(_together(steps))])
        waits = markdown_table(["step", "time"], rows) + "\n\n" + _machine(result["timed_on"])
        waits += "\n\nThe first labelling of a large set also compiles the solver, once on a machine: "
        waits += f"{duration(steps['compile'])}."
    download = f" The download is {byte_size(sizes['download'])}." if "download" in sizes else ""
    return f"""# What a newcomer waits for

`make demo` installs {sizes["packages"]} packages, {byte_size(sizes["installed"])} on the disk.{download} The largest:

{markdown_table(["package", "on the disk"], largest)}

Then it does this, the first time on a machine:

{waits}

`python benchmarks/newcomer.py` measures it.
"""


def readme_numbers(result: Mapping[str, Any]) -> str:
    """What README.md says of it."""
    sizes, steps = result["sizes"], result["steps"]
    download = f"{byte_size(sizes['download'])} to download, " if "download" in sizes else ""
    installed = byte_size(sizes["installed"])
    lines = f"The first command sets up `.venv`: {download}{installed} on the disk, nearly all of it PyTorch for GPUs."
    if steps is not None:
        parts = ", ".join(f"{duration(steps[name])} to {what}" for name, what in STEPS.items())
        lines += f"\nThen it takes {duration(_together(steps))}: {parts} ([where](docs/results/newcomer.md))."
    return lines


def _together(steps: Mapping[str, float]) -> float:
    """Seconds of all steps of the demo."""
    return sum(steps[name] for name in STEPS)


def _machine(timed_on: Mapping[str, Any]) -> str:
    found = timed_on["machine"]
    return (
        f"Measured on {found['processor']}, {found['cores']} cores, {found['memory_gb']:g} GB of memory; "
        f"commit {str(timed_on['git_commit'])[:12]}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", action="store_true", help="measure no times")
    parser.add_argument("--download", action="store_true", help="fetch every package to weigh the download")
    parser.add_argument("--trial", nargs="+", default=[], metavar="KEY=VALUE", help="change the run, publish nothing")
    args = parser.parse_args()
    kept = RESULTS / "newcomer.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {"steps": None, "timed_on": None}
    sizes = measure_sizes(args.download)
    if not args.download and "download" in before.get("sizes", {}):
        sizes["download"] = before["sizes"]["download"]
    result = {"sizes": sizes, "steps": before["steps"], "timed_on": before["timed_on"]}
    if not args.sizes:
        with tempfile.TemporaryDirectory(prefix="selavi-newcomer-") as folder:
            result["steps"] = time_steps(Path(folder), args.trial)
        result["timed_on"] = {"machine": machine(), "git_commit": environment()["git_commit"]}
    print(page(result))
    if not args.trial:
        kept.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (PAGES / "newcomer.md").write_text(page(result), encoding="utf-8")
        readme = ROOT / "README.md"
        filled = fill(readme.read_text(encoding="utf-8"), "newcomer", readme_numbers(result))
        readme.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
