"""Weights read by name: of runs, of folders that selavi wrote, and of released files; no code of theirs is run."""

import logging
import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from selavi import __version__
from selavi.augment import Augment
from selavi.config import Config
from selavi.distributed import rank
from selavi.errors import UsageError
from selavi.labelling.rule import LabelRule, take_rule
from selavi.model import SelaviModel
from selavi.pretrained.hub import is_hub_folder, read_hub
from selavi.pretrained.official import convert_state
from selavi.pretrained.weights import SETTINGS, WEIGHTS, Pretrained, StoredWeights
from selavi.randomness import mix
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.tensor_files import read_tensors
from selavi.wording import command

log = logging.getLogger("selavi")


def load(path: Path | str, overrides: Sequence[str] = ()) -> Pretrained:
    """Read weights and rebuild their network.

    Args:
        path: a run folder; a folder of write_weights (or its .safetensors file) or of write_hub; a file of the official
            release (`.pth`, `.pth.tar`); or a file with an R(2+1)D-18 of torchvision or XDC, which has no heads.
        overrides: `section.key=value` settings that override those of the file, for example
            `modalities=[audio]` to take one encoder alone.

    Raises:
        UsageError: the file is missing, damaged, of no known kind, holds more than tensors and plain values, or
            does not fit the settings.
    """
    stored = read_stored(Path(path))
    config = stored.config(overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(config.seed, "model"))
        model = SelaviModel(config)
    prefixes = [f"encoders.{name}." for name in config.kinds]
    if stored.rule is not None:
        prefixes += [f"heads.{branch}." for branch in config.branches]
    _fill(model, prefixes, stored, config)
    _warn_of_licence(stored.licence)
    return Pretrained(model.eval(), Augment(config), config, stored.rule, stored.source, stored.licence)


def load_encoders(model: SelaviModel, config: Config, path: Path) -> list[str]:
    """Set the encoders of a model that the file has, and warn where the run's inputs are not what they expect.

    Args:
        model: changed in place; its heads stay.
        config: of the model.
        path: as in load.

    Returns:
        The modalities that were set.

    Raises:
        UsageError: as load, or the file has no encoder of the run's modalities.
    """
    stored = read_stored(path)
    theirs = stored.config()
    names = [name for name in config.kinds if name in theirs.modalities]
    if not names:
        raise UsageError(
            f"encoders.init={path} has {' and '.join(theirs.modalities)}, this run {' and '.join(config.kinds)}; "
            "choose other weights or modalities"
        )
    _fill(model, [f"encoders.{name}." for name in names], stored, config, theirs)
    augment = Augment(config)
    for name in names:
        for key in augment.expected_settings(name):
            ours, expected = attrgetter(key)(config), attrgetter(key)(theirs)
            if ours != expected and rank() == 0:
                log.warning(f"the {name} encoder of {path} was trained with {key}={expected}, this run has {ours}")
    _warn_of_licence(stored.licence)
    return names


def read_stored(path: Path) -> StoredWeights:
    """Read a file or folder of any of the kinds that load knows.

    Raises:
        UsageError: see load.
    """
    if path.is_dir():
        if (path / WEIGHTS).exists():
            return _read_own(path / WEIGHTS)
        if is_hub_folder(path):
            return read_hub(path)
        if RunFolder(path).last_checkpoint.exists():
            return _read_run(path)
        raise UsageError(f"{path} is neither a run with a checkpoint nor a folder with {WEIGHTS}")
    if path.suffix == ".safetensors":
        return read_hub(path.parent) if is_hub_folder(path.parent) else _read_own(path)
    return convert_state(path, _tensors_of(path, read_torch(path)))


def read_torch(path: Path) -> Any:
    """torch.load with weights_only=True: nothing that a file says is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise UsageError(f"{path} is not a file of torch.save, or it is damaged") from error
        raise UsageError(
            f"{path} holds more than tensors and plain values ({named[1]}): reading it would run code that the file "
            'names, so it is refused.  If you trust where it came from, keep its tensors alone: python -c "import '
            f"torch; c = torch.load('{path}', weights_only=False); torch.save(c.get('model', c), 'tensors.pth')\""
        ) from error
    except Exception as error:  # torch raises many types for a damaged file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} is not a file of torch.save, or it is damaged: {first}") from error


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors by name, themselves or under the key `model` or `state_dict`."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, expected tensors by name")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _read_own(path: Path) -> StoredWeights:
    settings = path.with_name(SETTINGS)
    if not settings.exists():
        raise UsageError(f"{path} needs {SETTINGS} beside it, as {command('convert')} writes both")
    tensors, metadata = read_tensors(path)
    rule = take_rule(tensors)
    source = metadata.get("source") or str(path)
    return StoredWeights(path, tensors, settings, [], rule, source, metadata.get("licence", ""))


def _read_run(folder: Path) -> StoredWeights:
    files = RunFolder(folder)
    checkpoint = read_checkpoint(files.last_checkpoint)
    state = checkpoint["state_dict"].items()
    weights = {name.removeprefix("model."): value for name, value in state if name.startswith("model.")}
    rule = LabelRule.from_tensors(checkpoint["label_bank"])
    source = f"run {folder.resolve().name} of selavi {__version__}"
    return StoredWeights(folder, weights, files.settings, [f"run_dir={folder}"], rule, source)


def _fill(
    model: SelaviModel, prefixes: Sequence[str], stored: StoredWeights, config: Config, theirs: Config | None = None
) -> None:
    """Copy the parameters under some prefixes, all of them and nothing else.

    Raises:
        UsageError: names or shapes differ; where `theirs` is given, with the settings of encoders that would fit.
    """
    mine = {name: value for name, value in model.state_dict().items() if name.startswith(tuple(prefixes))}
    given = {name: value for name, value in stored.state.items() if name.startswith(tuple(prefixes))}
    differing = [
        *(f"{name} is missing" for name in mine if name not in given),
        *(f"{name} is unknown" for name in given if name not in mine),
        *(
            f"{name} is {tuple(given[name].shape)}, expected {tuple(value.shape)}"
            for name, value in mine.items()
            if name in given and given[name].shape != value.shape
        ),
    ]
    if differing:
        fitting = _fitting_settings(prefixes, config, theirs) if theirs is not None else ""
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise UsageError(f"the weights of {stored.path} do not fit the settings: {differing[0]}{more}{fitting}")
    model.load_state_dict(given, strict=False)


def _fitting_settings(prefixes: Sequence[str], config: Config, theirs: Config) -> str:
    """The settings of encoders that would fit the file."""
    names = tuple(f"{prefix.split('.')[1]}_" for prefix in prefixes)
    pairs = [(key, value) for key, value in vars(theirs.encoders).items() if key.startswith(names)]
    other = [f"encoders.{key}={value}" for key, value in pairs if value != getattr(config.encoders, key)]
    return f"; they need {' '.join(other)}" if other else ""


def _warn_of_licence(licence: str) -> None:
    if licence and rank() == 0:
        log.warning(f"note: {licence}")
