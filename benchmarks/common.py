"""What the benchmarks that train share: run the tools as a user would, once, and keep the figures.

A run lies in runs/benchmarks/SLUG/NAME-DIGEST, where the digest stands for its settings; a finished one is used
again, a stopped one goes on from its last checkpoint, and its minutes are those of all its parts.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from selavi.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "results"
TINY = (
    *("video.num_frames=2", "video.decode_size=32", "video.size=24", "audio.sample_rate=8000", "audio.num_mels=32"),
    *(
        "audio.num_fft=256",
        "encoders.video_width=4",
        "encoders.audio_width=8",
        "heads.num_heads=2",
        "heads.dropout=0.1",
    ),
    *("labelling.first=random", "labelling.batch_size=16", "labelling.warmup_batches=2", "optim.batch_size=8"),
    *("trainer.accelerator=cpu", "data.demo=false", "data.num_workers=0", "labelling.features=fresh"),
)
"""Settings over those of the demo with which a step takes a hundredth of a second, and the labels of a run that was
stopped are those of one that was not."""
FIGURES = ("nmi", "ami", "ari", "accuracy", "purity", "mean_entropy", "used_clusters", "n")


@dataclass(frozen=True)
class Job:
    """One training and its measurements."""

    slug: str
    """Folder of the benchmark under runs/benchmarks."""
    name: str
    row: str
    """Jobs of one row differ in the seed alone and are averaged."""
    seed: int
    config: str
    overrides: tuple[str, ...]
    splits: tuple[str, ...]
    yardsticks: bool = False
    """Also let K-means cluster on trivial features."""

    def train_command(self) -> list[str]:
        """Arguments of tools/train.py, without the run folder; $NAMES stand for folders of the environment."""
        return ["tools/train.py", "--config", self.config, *self.overrides, f"seed={self.seed}"]

    def run_dir(self) -> Path:
        """The run's folder, relative to the repository."""
        told = "\n".join([(ROOT / self.config).read_text(encoding="utf-8"), *self.train_command()])
        digest = hashlib.blake2b(told.encode(), digest_size=4).hexdigest()
        return Path("runs", "benchmarks", self.slug, f"{self.name}-{digest}")


def run_job(job: Job, folders: Mapping[str, Path]) -> dict[str, Any]:
    """Train and measure, go on with what was stopped, or find it done; returns the job's figures.

    Args:
        job: what to run.
        folders: what the $NAMES of its overrides stand for.

    Raises:
        SystemExit: a tool failed; its own message has been printed.
    """
    run_dir, kept = job.run_dir(), ROOT / job.run_dir() / "benchmark.json"
    if kept.exists():
        print(f"{run_dir} is done", file=sys.stderr)
        return {**json.loads(kept.read_text(encoding="utf-8")), "row": job.row}
    train_s = _train(job, folders)
    commands = [shown([*job.train_command(), f"run_dir={run_dir}"])]
    measured: dict[str, Any] = {}
    for split in job.splits:
        command = ["tools/cluster_eval.py", str(run_dir), "--split", split]
        command += ["--yardsticks"] if job.yardsticks else []
        run_tool(command, folders)
        commands.append(shown(command))
        metrics = json.loads((ROOT / run_dir / "eval" / f"metrics_{split}.json").read_text(encoding="utf-8"))
        measured[split] = {
            "chosen": _figures(metrics["chosen"]),
            "oracle": _figures(metrics["oracle"]),
            "mean_of_heads": {name: mean(entry[name] for entry in metrics["heads"]) for name in FIGURES},
            **({"yardsticks": metrics["yardsticks"]} if job.yardsticks else {}),
        }
    result = {
        "name": job.name,
        "row": job.row,
        "seed": job.seed,
        "commands": commands,
        "train_seconds": round(train_s, 1),
        "environment": environment(ROOT / run_dir),
        "splits": measured,
    }
    kept.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _train(job: Job, folders: Mapping[str, Path]) -> float:
    """Train, or go on with a training that was stopped; the seconds of all its parts."""
    run_dir = job.run_dir()
    folder, words = ROOT / run_dir, [*job.train_command(), f"run_dir={run_dir}"]
    spent = folder / "benchmark_seconds.txt"
    if RunFolder(folder).last_checkpoint.exists():
        words.append("resume=auto")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    before_s = float(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
    began = time.monotonic()
    try:
        run_tool(words, folders)
    finally:
        train_s = before_s + time.monotonic() - began
        if folder.exists():
            spent.write_text(f"{train_s}", encoding="utf-8")
    return train_s


def publish(name: str, title: str, runs: Sequence[Mapping[str, Any]], page: str) -> None:
    """Write benchmarks/results/NAME.json and docs/results/NAME.md."""
    save_runs(name, title, runs)
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text(page, encoding="utf-8")
    print(f"wrote benchmarks/results/{name}.json and docs/results/{name}.md", file=sys.stderr)


def show_page(name: str, text: str, is_trial: bool) -> None:
    """Print docs/results/NAME.md, and write it unless it is of a trial."""
    print(text)
    if not is_trial:
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")


def save_runs(name: str, title: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]  # no place of this machine
    result = {
        "title": title,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "date": time.strftime("%Y-%m-%d"),
        "runs": list(runs),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def load_runs(name: str) -> list[dict[str, Any]]:
    """The runs of benchmarks/results/NAME.json."""
    return list(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["runs"])


def fill(text: str, name: str, numbers: str) -> str:
    """Put `numbers` between the two comments that mark their place in a Markdown text."""
    begin, end = f"<!-- numbers: {name} -->\n", f"<!-- end: {name} -->"
    before, _, rest = text.partition(begin)
    if end not in rest:
        raise ValueError(f"found no place for numbers between {begin.strip()} and {end}")
    return f"{before}{begin}{numbers.strip()}\n{end}{rest.split(end, 1)[1]}"


def machine() -> dict[str, Any]:
    """Processor, cores and memory, as far as the system says."""
    return {
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(int((_first_value("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 1e6, 1),
    }


def measured_here() -> dict[str, Any]:
    """What describe_machine says of figures that were measured on this machine's processor, with this code."""
    from selavi.runs import lifetime

    here = lifetime.environment()
    return {key: here[key] for key in ("python", "versions", "git_commit")} | {"machine": machine(), "device": "cpu"}


def describe_machine(runs: Sequence[Mapping[str, Any]]) -> str:
    """One sentence for a results page."""
    made = runs[0]["environment"]
    found = made["machine"]
    versions = made["versions"]
    device = "no GPU" if made["device"] == "cpu" else made["device"]
    commits = sorted({_short(run["environment"]["git_commit"]) for run in runs})
    return (
        f"Measured on {found['processor']}, {found['cores']} cores, {found['memory_gb']:g} GB of memory, {device}; "
        f"Python {made['python']}, torch {versions['torch']}, PyAV {versions['av']}; commit {', '.join(commits)}."
    )


def describe_seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """Which seeds, and how cells show them."""
    seeds = sorted({run["seed"] for run in runs})
    named = ", ".join(map(str, seeds))
    return f"Seed {named}." if len(seeds) == 1 else f"Seeds {named}, in this order in every cell."


def rows_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Runs of each row, in the order of their first appearance."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        rows.setdefault(run["row"], []).append(run)
    return rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left and the others to the right."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, *rows]]
    lines.insert(1, "|---|" + "---:|" * (len(header) - 1))
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Every value, and the mean of several."""
    each = " ".join(f"{value:.3f}" for value in values)
    return each if len(values) == 1 else f"{each} (mean {mean(values):.3f})"


def mean_and_range(values: Sequence[float]) -> str:
    """0.93 (0.90 to 0.95), two digits; the mean alone where all are alike."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"{mean(values):.2f}" + ("" if low == high else f" ({low} to {high})")


def processor_seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Processor time of each way, medians of rounds in which they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            taken[name].append(time.process_time() - began)
    return {name: median(values) for name, values in taken.items()}


def run_tool(arguments: Sequence[str], folders: Mapping[str, Path]) -> None:
    """Run a tool from the repository's root; $NAMES in its arguments stand for folders.

    Raises:
        SystemExit: it failed; its own message has been printed.
    """
    print("\n$ " + shown(arguments), file=sys.stderr, flush=True)
    real = list(arguments)
    for name, folder in folders.items():
        real = [argument.replace(f"${name}", str(folder)) for argument in real]
    code = subprocess.run([sys.executable, *real], cwd=ROOT).returncode
    if code:
        sys.exit(code)


def shown(arguments: Sequence[str]) -> str:
    """A command as one would type it."""
    return " ".join(["python", *(f"'{part}'" if "[" in part else part for part in arguments)])


def _short(commit: str | None) -> str:
    """The first digits, with the + that marks changed files."""
    return "unknown" if commit is None else commit[:12] + "+" * commit.endswith("+")


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("head", *FIGURES)}


def environment(run_dir: Path) -> dict[str, Any]:
    """What a run was trained with, and this machine."""
    found = json.loads((run_dir / "env.json").read_text(encoding="utf-8"))
    return {"machine": machine()} | {name: found[name] for name in ("python", "versions", "git_commit", "device")}


def _first_value(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
