"""A run's start and its end: the files that say where it came from and what it came to."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from selavi.atomic import hold, holder, is_held, next_free, sweep, write_text
from selavi.config import Config, save_config
from selavi.errors import UsageError
from selavi.guarded.parquet import write_parquet
from selavi.runs.folder import RunFolder
from selavi.scores.verdict import Verdict


@contextmanager
def owned(run_dir: Path | str, is_first: bool = True) -> Iterator[None]:
    """Be the one process that writes a run while the block runs; what it left half written before is removed.

    A folder that is made for it, and in which nothing was written, is removed again.

    Args:
        run_dir: the run's folder, new or of an earlier run.
        is_first: of several processes that train together, the first one owns the folder for all.

    Raises:
        UsageError: another process trains in this folder, or it is a file.
    """
    folder = RunFolder(run_dir)
    if not is_first:
        yield
        return
    if folder.path.exists() and not folder.path.is_dir():
        raise UsageError(f"run_dir={folder.path} is a file; give a folder, new or of an earlier run")
    made = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = hold(folder.lock)
    if lock is None:
        raise _in_use(folder)
    with lock:
        for path in folder.written_in_training():
            sweep(path)
        try:
            yield
        finally:
            if made and list(folder.path.iterdir()) == [folder.lock]:
                folder.lock.unlink()
                for path in made:
                    path.rmdir()


def require_free(run_dir: Path | str) -> None:
    """Refuse a folder in which another process trains, without taking it.

    Raises:
        UsageError: so it is.
    """
    folder = RunFolder(run_dir)
    if is_held(folder.lock):
        raise _in_use(folder)


def _in_use(folder: RunFolder) -> UsageError:
    return UsageError(
        f"{holder(folder.lock)}, is training in {folder.path}; wait for it, or say run_dir=... for another run"
    )


def start_run(config: Config, config_path: Path | None, manifest: pa.Table) -> None:
    """Write config.yaml (as given), config.resolved.yaml, env.json and manifest.parquet into an owned folder."""
    folder = RunFolder(config.run_dir)
    folder.path.mkdir(parents=True, exist_ok=True)
    if config_path is not None:
        write_text(folder.given_settings, config_path.read_text(encoding="utf-8"))
    save_config(config, folder.settings)
    write_text(folder.environment, json.dumps(environment(), indent=2) + "\n")
    write_parquet(manifest, folder.manifest)
    if folder.metrics.exists():  # the logger would delete it: keep what earlier parts of the run logged
        folder.metrics.rename(next_free(folder.metrics))


def note_changes(run_dir: Path, step: int, changes: Sequence[str]) -> None:
    """Add to RUN/changes.json which settings a run goes on with from a step."""
    path = RunFolder(run_dir).changes
    noted = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    noted.append({"step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "settings": list(changes)})
    write_text(path, json.dumps(noted, indent=2) + "\n")


def finish_run(config: Config, seconds: float, verdict: Verdict) -> None:
    """Write status.json, which says that the run is done and what it came to; its labels are written before it."""
    status = {
        "state": "finished",
        "epochs": config.trainer.all_epochs,
        "seconds": round(seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "labels": verdict.state,
        "verdict": verdict.text,
    }
    write_text(RunFolder(config.run_dir).status, json.dumps(status, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process."""
    import torch

    versions = {}
    for name in ("selavi", "torch", "torchvision", "torchaudio", "pytorch-lightning", "omegaconf", "av", "numpy"):
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
