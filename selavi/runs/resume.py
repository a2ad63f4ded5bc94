"""Where a run goes on: from nothing, from a checkpoint, or for more epochs after its end."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selavi.config import (
    SETTINGS,
    Config,
    as_dict,
    differing,
    flatten,
    freedom,
    given_in_file,
    load_config,
    load_run_config,
)
from selavi.errors import UsageError
from selavi.guarded.json_file import as_written
from selavi.runs.checkpoint import REFITTED, Saved, newest_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.record import read_status
from selavi.wording import command

log = logging.getLogger("selavi")


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on: nowhere (start), at a checkpoint, or it is done."""

    saved: Saved | None
    finished: bool

    @property
    def checkpoint(self) -> Path | None:
        """The file."""
        return None if self.saved is None else self.saved.path


def resume_point(config: Config, check: bool = True, kind: str = "label_bank") -> ResumePoint:
    """Decide by `resume` and by what the run folder holds; `check=False` (other ranks) refuses nothing.

    Epochs that were added to the run in the folder (`more_of`) are taken over into `config`.

    Args:
        config: of the run.
        check: refuse what cannot be done.
        kind: of the checkpoint; see read_checkpoint.

    Raises:
        UsageError: `never` and the folder is not empty; `must` and there is no checkpoint; a file is in its place;
            there is no encoders.init; the run's status, or every checkpoint, is damaged.
    """
    folder, weights = RunFolder(config.run_dir), config.encoders.init
    if check and weights and not Path(weights).exists():
        raise UsageError(f"encoders.init={weights}: no such file or folder; name a run, or weights, to start from")
    if folder.path.exists() and not folder.path.is_dir():
        raise UsageError(f"run_dir={folder.path} is a file; give a folder, new or of an earlier run")
    if config.resume == "never":
        if check and folder.path.exists() and any(path != folder.lock for path in folder.path.iterdir()):
            raise UsageError(
                f"{folder.path} exists and is not empty; say resume=auto to go on with it, "
                "or run_dir=... to start another run"
            )
        return ResumePoint(None, False)
    if folder.settings.exists():
        if not config.trainer.more_epochs:
            config.trainer.more_epochs = load_run_config(folder.path).trainer.more_epochs
        _keep_to_earlier_settings(config, folder, check)
    if is_finished(config):
        return ResumePoint(None, True)
    saved = newest_checkpoint(folder, kind)
    if saved is not None:
        return ResumePoint(saved, False)
    if check and config.resume == "must":
        raise UsageError(
            f"resume=must, but there is no checkpoint {folder.last_checkpoint}; say resume=auto to start the run, or "
            "check run_dir"
        )
    return ResumePoint(None, False)


def _keep_to_earlier_settings(config: Config, folder: RunFolder, warns: bool) -> None:
    """Let a run that is older than some settings go on as it began, where nothing else was chosen for them."""
    named, saved = given_in_file(folder.settings), load_run_config(folder.path)
    kept = []
    for key, entry in SETTINGS.items():
        was_default = entry.about.earlier_saved and entry.value(saved) == entry.earlier
        if entry.is_younger and (key not in named or was_default) and entry.is_default(config):
            entry.set(config, entry.earlier)
            kept.append(f"{key}={entry.earlier}")
    if kept and warns:
        log.warning(f"{folder.path} was begun by an earlier version and goes on as it began: {', '.join(kept)}")


def is_finished(config: Config) -> bool:
    """Whether the run in `run_dir` has been trained for all the epochs that its settings name."""
    folder = RunFolder(config.run_dir)
    if not folder.status.exists():
        return False
    planned = config.trainer.all_epochs
    status = read_status(folder.path)
    with as_written(folder.status):
        return int(status.get("epochs", planned)) >= planned


def more_of(folder: Path, epochs: int, overrides: Sequence[str] = ()) -> Config:
    """The settings with which a run, finished or stopped, goes on for more epochs than it was planned for.

    The same call again goes on with epochs that were added but not finished; it does not add them twice.

    Args:
        folder: the run.
        epochs: how many to add.
        overrides: `section.key=value` for settings that may change on resume.

    Raises:
        UsageError: the folder is not a run, or there is nothing to add.
    """
    if epochs < 1:
        raise UsageError(f"--more must be at least 1, got {epochs}")
    load_run_config(folder)  # says what is wrong with a folder that is no run
    config = load_config(RunFolder(folder).settings, overrides)
    config.run_dir, config.resume = str(folder), "must"
    added = config.trainer.more_epochs
    if added[-1:] != [epochs] or is_finished(config):
        config.trainer.more_epochs = [*added, epochs]
    return config


def changed_settings(folder: Path, overrides: Sequence[str]) -> Config:
    """The settings of a run, and what is to be changed of them from its last checkpoint on.

    Raises:
        UsageError: the folder is not a run, nothing is to be changed, or it cannot be.
    """
    load_run_config(folder)  # says what is wrong with a folder that is no run
    keys = [override.partition("=")[0] for override in overrides]
    may_change = [key for key in SETTINGS if freedom(key) == "told"]
    refused = [key for key in keys if not freedom(key)]
    if refused or not keys:
        what = f"{', '.join(refused)} cannot be changed" if refused else "--change needs settings"
        raise UsageError(f"{what}; a run may go on with others of {', '.join(may_change)}")
    config = load_config(RunFolder(folder).settings, overrides)
    config.run_dir, config.resume = str(folder), "must"
    return config


def check_settings_of(checkpoint: Mapping[str, Any], config: Config, may_change: bool = False) -> list[str]:
    """Refuse a checkpoint that no training goes on from, or none with these settings; see check_same_settings.

    Raises:
        UsageError: it was refitted, or settings differ that must not.
    """
    if REFITTED in checkpoint:
        source = checkpoint[REFITTED]
        raise UsageError(
            f"{config.run_dir} has new heads on the encoders of {source}, and no training goes on with them; "
            f"train that run longer ({command('train', source, '--more', '10')}) and refit it again"
        )
    return check_same_settings(checkpoint["config"], config, may_change)


def check_same_settings(saved: Mapping[str, Any], config: Config, may_change: bool = False) -> list[str]:
    """Compare a checkpoint's settings with those that its run is to go on with.

    Args:
        saved: in the checkpoint.
        config: now.
        may_change: whether the user said --change.

    Returns:
        What changes, such as `optim.lr: 0.1 then, 0.05 now`.

    Raises:
        UsageError: settings differ that must not.
    """
    differences = differing(saved, as_dict(config))
    changes = [f"{key}: {words}" for key, words in differences.items()]
    are_changeable = all(freedom(key) == "told" for key in differences)
    if not differences or (may_change and are_changeable):
        return changes
    advice = "use the same ones, or another run_dir"
    if are_changeable:
        now = flatten(as_dict(config))
        settings = [f"{key}={now[key]}" for key in differences]
        advice += f"; to change them on purpose: {command('train', config.run_dir, '--change', *settings)}"
    longer = config.trainer.max_epochs - int(saved.get("trainer", {}).get("max_epochs", config.trainer.max_epochs))
    if longer > 0:
        advice += f"; to train it longer: {command('train', config.run_dir, '--more', str(longer))}"
    raise UsageError(f"the checkpoint was made with other settings ({'; '.join(changes)}); {advice}")
