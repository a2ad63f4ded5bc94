"""The run folder: refuse or resume, write down where a run came from, read it back."""

import json
import logging
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from selavi.atomic import hold, next_free, write_atomically, write_text
from selavi.config import Config, load_config, load_run_config, save_config
from selavi.errors import UsageError
from selavi.runs.checkpoint import last_checkpoint, read_checkpoint
from selavi.scores.verdict import Verdict
from selavi.wording import command

log = logging.getLogger("selavi")


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on: nowhere (start), at a checkpoint, or it is done."""

    checkpoint: Path | None
    finished: bool


def resume_point(config: Config, check: bool = True) -> ResumePoint:
    """Decide by `resume` and by what the run folder holds; `check=False` (other ranks) refuses nothing.

    Raises:
        UsageError: `never` and the folder is not empty; `must` and there is no checkpoint; a file is in its place;
            there is no encoders.init.
    """
    run_dir, weights = Path(config.run_dir), config.encoders.init
    if check and weights and not Path(weights).exists():
        raise UsageError(f"encoders.init={weights}: no such file or folder; name a run, or weights, to start from")
    if run_dir.exists() and not run_dir.is_dir():
        raise UsageError(f"run_dir={run_dir} is a file; give a folder, new or of an earlier run")
    checkpoint = last_checkpoint(run_dir)
    if config.resume == "never":
        if check and run_dir.exists() and any(run_dir.iterdir()):
            raise UsageError(
                f"{run_dir} exists and is not empty; say resume=auto to go on with it, "
                "or run_dir=... to start another run"
            )
        return ResumePoint(None, False)
    if (run_dir / "status.json").exists():
        return ResumePoint(checkpoint, True)
    if checkpoint.exists():
        return ResumePoint(checkpoint, False)
    if check and config.resume == "must":
        raise UsageError(
            f"resume=must, but there is no checkpoint {checkpoint}; say resume=auto to start the run, or check run_dir"
        )
    return ResumePoint(None, False)


def start_run(config: Config, config_path: Path | None, manifest: pa.Table) -> IO[str]:
    """Create the run folder and write config.yaml (as given), config.resolved.yaml, env.json, manifest.parquet.

    Returns:
        The folder's lock: keep it open while the run goes on.

    Raises:
        UsageError: another process trains in this folder.
    """
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = hold(run_dir / ".lock")
    if lock is None:
        raise UsageError(f"another process is training in {run_dir}; wait for it, or say run_dir=... for another run")
    if config_path is not None:
        write_text(run_dir / "config.yaml", config_path.read_text(encoding="utf-8"))
    save_config(config, run_dir / "config.resolved.yaml")
    write_text(run_dir / "env.json", json.dumps(environment(), indent=2) + "\n")
    with write_atomically(run_dir / "manifest.parquet") as temporary:
        pq.write_table(manifest, temporary)
    metrics = run_dir / "metrics.csv"
    if metrics.exists():  # the logger would delete it: keep what earlier parts of the run logged
        metrics.rename(next_free(metrics))
    return lock


def finish_run(config: Config, seconds: float, verdict: Verdict) -> None:
    """Write status.json, which says that the run is done and what it came to; its labels are written before it."""
    status = {
        "state": "finished",
        "epochs": config.trainer.max_epochs,
        "seconds": round(seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "labels": verdict.state,
        "verdict": verdict.text,
    }
    write_text(Path(config.run_dir) / "status.json", json.dumps(status, indent=2) + "\n")


def read_verdict(run_dir: Path) -> str:
    """Whether a run's labels have settled, in words; empty where it is not finished or was made before this was kept.

    Raises:
        UsageError: status.json is damaged.
    """
    path = run_dir / "status.json"
    if not path.exists():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("verdict", ""))
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"cannot read {path}: {error}; is it damaged?") from error


@dataclass(frozen=True)
class Run:
    """A run as it lies on disk."""

    folder: Path
    config: Config
    manifest: pa.Table
    checkpoint: dict[str, Any]


def load_run(folder: Path) -> Run:
    """Read a run's settings, manifest and newest checkpoint.

    Raises:
        UsageError: the folder is not a run, or it has no checkpoint yet.
    """
    config = load_run_config(folder)
    if not last_checkpoint(folder).exists():
        raise UsageError(
            f"{folder} has no checkpoint yet (none is written before the first epoch ends); train on with resume=auto"
        )
    manifest = pq.read_table(folder / "manifest.parquet")
    return Run(folder, config, manifest, read_checkpoint(last_checkpoint(folder)))


def on_other_clips(run: Run, overrides: list[str], fold: str | None = None) -> Config:
    """A run's settings for clips that it was not trained on: only where the clips are and how they are cut changes.

    Args:
        run: whose encoders will see them.
        overrides: `data.key=value` and `video.key=value`; nothing but data.cache_dir is kept of the run's own data
            where data.root is among them.
        fold: takes the place of {fold} in data.list.

    Raises:
        UsageError: other settings, which belong to the encoders; or no {fold} in data.list.
    """
    for override in overrides:
        if not override.startswith(("data.", "video.", "labelling.batch_size=")):
            raise UsageError(
                f"{override} cannot be changed: the encoders of {run.folder} were trained with it; "
                "data.*, video.* and labelling.batch_size can"
            )
    if any(override.startswith("data.root=") for override in overrides):
        # A demo set is not generated in a user's folder; a list and what folders mean belong to their own clips.
        overrides = ["data.demo=false", "data.list=", "data.source=auto", "data.layout=auto", *overrides]
    unclustered = ["heads.num_heads=1", "heads.num_clusters=2", "labelling.head_groups=1", "labelling.marginal=uniform"]
    config = load_config(run.folder / "config.resolved.yaml", [*unclustered, *overrides])
    config.run_dir = str(run.folder)
    if fold is not None:
        if "{fold}" not in config.data.list:
            raise UsageError(
                f"folds need data.list with {{fold}} in the place of the number, such as "
                f"'data.list=/lists/*list0{{fold}}.txt'; got data.list={config.data.list!r}"
            )
        config.data.list = config.data.list.replace("{fold}", fold)
    return config


def next_steps(run_dir: str) -> str:
    """What to run after training."""
    splits = pq.read_table(Path(run_dir) / "manifest.parquet", columns=["split"])["split"].to_pylist()
    unseen = ("--split", "test") if "test" in splits else ()
    return f"\nNext: measure   {command('evaluate', run_dir, *unseen)}\n      browse    {command('export', run_dir)}"


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process."""
    versions = {}
    for name in (
        "selavi",
        "torch",
        "torchvision",
        "torchaudio",
        "pytorch-lightning",
        "omegaconf",
        "av",
        "numpy",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a package"
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _git_commit() -> str | None:
    """Commit of the source this process runs from, with + where files were changed."""
    folder = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        state = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if state.stdout.strip() else "")
