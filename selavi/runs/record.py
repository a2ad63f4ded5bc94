"""A run read back: its settings, clips and checkpoint, and what it came to."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from selavi.config import Config, load_config, load_run_config
from selavi.errors import UsageError
from selavi.guarded.json_file import read_json
from selavi.guarded.parquet import read_parquet
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import read_manifest
from selavi.wording import command


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
    files = RunFolder(folder)
    if not files.last_checkpoint.exists():
        raise UsageError(
            f"{folder} has no checkpoint yet (none is written before the first epoch ends); train on with resume=auto"
        )
    return Run(folder, config, read_manifest(files.manifest), read_checkpoint(files.last_checkpoint))


def on_other_clips(run: Run, overrides: Sequence[str], fold: str | None = None) -> Config:
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
    config = load_config(RunFolder(run.folder).settings, overrides)
    config.run_dir = str(run.folder)
    given = {override.partition("=")[0] for override in overrides}
    if "data.root" in given:
        # A demo set is not generated in a user's folder; a list and what folders mean belong to their own clips.
        for name, value in {"demo": False, "list": "", "source": "auto", "layout": "auto"}.items():
            if f"data.{name}" not in given:
                setattr(config.data, name, value)
        try:
            config.data.__post_init__()
        except ValueError as error:
            raise UsageError(str(error)) from error
    config.heads = replace(config.heads, num_heads=1, num_clusters=2)
    config.labelling = replace(config.labelling, head_groups=1, marginal="uniform")
    if fold is not None:
        if "{fold}" not in config.data.list:
            raise UsageError(
                f"folds need data.list with {{fold}} in the place of the number, such as "
                f"'data.list=/lists/*list0{{fold}}.txt'; got data.list={config.data.list!r}"
            )
        config.data.list = config.data.list.replace("{fold}", fold)
    return config


def read_status(run_dir: Path) -> dict[str, Any]:
    """What a run came to; empty where it is not finished.

    Raises:
        UsageError: status.json is damaged.
    """
    path = RunFolder(run_dir).status
    if not path.exists():
        return {}
    return read_json(path, "remove it, and train with resume=auto, which writes it again")


def read_verdict(run_dir: Path) -> str:
    """Whether a run's labels have settled, in words; empty where it is not finished or was made before this was kept.

    Raises:
        UsageError: status.json is damaged.
    """
    return str(read_status(run_dir).get("verdict", ""))


def next_steps(run_dir: str) -> str:
    """What to run after training."""
    splits = read_parquet(RunFolder(run_dir).manifest, ["split"])["split"].to_pylist()
    unseen = ("--split", "test") if "test" in splits else ()
    lines = [
        f"\nNext: measure   {command('evaluate', run_dir, *unseen)}",
        f"      browse    {command('export', run_dir)}",
        *_logged_figures(RunFolder(run_dir)),
    ]
    return "\n".join(lines)


def _logged_figures(folder: RunFolder) -> list[str]:
    """How to see what the loggers of trainer.loggers keep in the run folder, where they are extras."""
    lines = []
    if any(folder.wandb.glob("offline-run-*")):
        lines.append(f"      upload    wandb sync {shlex.quote(str(folder.wandb))}/offline-run-*")
    if folder.mlflow.exists():
        lines.append(f"      compare   mlflow ui --backend-store-uri {shlex.quote(folder.mlflow_address)}")
    return lines
