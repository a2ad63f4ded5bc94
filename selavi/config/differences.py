"""Settings against each other, against the defaults, and against what they need to have an effect."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selavi.config.files import RESOLVED, SETTINGS, as_dict, given_in_file, load_config
from selavi.config.sections import Config
from selavi.config.settings import Freedom
from selavi.modalities import MODALITIES

log = logging.getLogger("selavi")


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as a dict of keys such as heads.num_heads and labelling.weights.video; modalities are one."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and prefix + key != "modalities":
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def differing(saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, str]:
    """Each setting that must be the same when a run goes on, and is not: `heads.kind` -> `mlp then, linear now`.

    A setting that `saved` lacks is younger than the run.
    """
    before, now = earlier_settings() | flatten(saved), flatten(current)
    return {
        key: f"{before.get(key)} then, {now.get(key)} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and freedom(key) in ("", "told")
    }


def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say what is computed, where they differ from what runs did before there was the setting.

    So what is made of them for a run stays as it is when a setting is added.
    """
    earlier = earlier_settings()
    return {
        key: value for key, value in flatten(settings).items() if value != earlier.get(key) and freedom(key) != "always"
    }


def earlier_settings() -> dict[str, Any]:
    """Every setting by its key with its value in runs that were made before there was this setting."""
    return flatten(as_dict(Config())) | {key: entry.earlier for key, entry in SETTINGS.items() if entry.is_younger}


def freedom(key: str) -> Freedom:
    """Where a setting may differ from a run's first start; nowhere for one that is not there.

    The section of a modality with a name of its own has the settings of a kind.
    """
    name = key.rpartition(".")[2]
    homes = (key, *(f"{kind}.{name}" for kind in MODALITIES if "." in key))
    return next((SETTINGS[home].about.free for home in homes if home in SETTINGS), "")


def without_effect(config: Config, path: Path | None, overrides: Sequence[str], command: str = "train") -> str:
    """Name the settings that were given, are not the defaults, and have no effect in a run of `command`.

    Settings of the file are left out where the command line is what takes their effect: whoever takes a recipe for
    video and sound and says modalities=[audio] knows about its settings of frames.  So are those of a run's folder,
    where every setting stands.

    Args:
        config: what the file and the command line come to.
        path: the YAML file.
        overrides: of the command line.
        command: train or finetune.

    Returns:
        One line, such as `labelling.tol needs labelling.method=transport`; empty where all have an effect.
    """
    idle = _idle(config, command)
    keys = {override.partition("=")[0] for override in overrides}
    given = [key for key in idle if any(_is_part(key, other) for other in keys)]
    if path is not None and path.name != RESOLVED:
        of_file = given_in_file(path) & _idle(load_config(path), command).keys()
        given += [key for key in idle if key in of_file and key not in given]
    by_need: dict[str, list[str]] = {}
    for key in given:
        by_need.setdefault(idle[key], []).append(key)
    return "; ".join(f"{', '.join(keys)} need{'s' * (len(keys) == 1)} {need}" for need, keys in by_need.items())


def warn_of_settings_without_effect(config: Config, path: Path | None, overrides: Sequence[str], command: str) -> None:
    """Name them in one warning; the arguments are those of without_effect."""
    idle = without_effect(config, path, overrides, command)
    if idle:
        log.warning("settings without effect in this run: %s", idle)


def _idle(config: Config, command: str) -> dict[str, str]:
    """Settings that are not the defaults and have no effect, with the first need that is not met."""
    idle = {}
    for key, entry in SETTINGS.items():
        unmet = [need.text for need in entry.about.needs if not need.is_met(config, command)]
        if unmet and not entry.is_default(config):
            idle[key] = unmet[0]
    return idle


def _is_part(key: str, other: str) -> bool:
    """One is the other, or a part of it: labelling.weights.video of labelling.weights."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")
