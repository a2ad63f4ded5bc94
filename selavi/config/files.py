"""Settings read from files and the command line, and written.  The only user of OmegaConf.

Precedence: the defaults < the YAML file < `section.key=value` on the command line.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from difflib import get_close_matches
from os.path import isfile
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from selavi.config.sections import Config
from selavi.config.settings import Setting, all_settings, require
from selavi.errors import UsageError
from selavi.filesystem import expand
from selavi.modalities import MODALITIES, named, section_of
from selavi.wording import command

SETTINGS: dict[str, Setting] = {entry.key: entry for entry in all_settings(Config)}
"""Every setting of a run by its key, such as heads.num_clusters; those of a modality by its kind."""
_FIELDS: dict[str, Any] = {entry.name: entry.type for entry in fields(Config)}
RESOLVED = "config.resolved.yaml"
"""The file in a run folder in which every setting stands."""
_FIRST_LINE, _LAST_LINE = "# Every setting.  The last line says that nothing was cut off.", "# End of the settings."
_RESOLVER = re.compile(r"(?<!\\)(?:\\\\)*\$\{[^}]*:")
"""A reference with a resolver, such as ${oc.env:HOME}; behind an odd number of backslashes it is text."""


def find_config(path: Path, shipped: Path) -> Path:
    """A configuration file as named, or one of selavi's own by its name or by configs/NAME.yaml from anywhere.

    Raises:
        UsageError: there is no such file; the message lists selavi's own.
    """
    for candidate in (path, shipped / path.name, shipped / f"{path.name}.yaml"):
        if isfile(candidate):
            return candidate
    own = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
    raise UsageError(f"no configuration file {path}; give a path, or one of selavi's own: {own}")


def load_config(path: Path | None, overrides: Sequence[str] = (), *, is_complete: bool = False) -> Config:
    """Merge defaults, a YAML file and `section.key=value` overrides.

    Settings that are text (paths, names, words) are taken as they are written, from the first `=` on; the others are
    read as YAML.  `${...}` refers to another setting in a file, and means nothing on the command line.  Nothing
    outside of the file can be referred to: it may come from anybody, and what it says is written into the run.

    Args:
        path: a YAML file; a run's RESOLVED one is complete.
        overrides: of the command line.
        is_complete: file and overrides name every setting that there was when they were written, so that a younger one
            takes the value that stands for what was done before.

    Raises:
        UsageError: unreadable file, unknown key (the message names the nearest one), wrong type or value, a reference
            to the environment or through any other resolver of OmegaConf.
    """
    for override in overrides:
        if "=" not in override:
            raise UsageError(
                f"expected section.key=value, got {override!r}; a path with blanks stands in quotes: "
                'data.root="/my videos"'
            )
    modalities = _given_modalities(path, overrides)
    own = _own_kinds(modalities)
    settings = settings_with(own)
    texts, others = _split_overrides(overrides, settings)
    try:
        layers = list[Any]()
        if is_complete or (path is not None and path.name == RESOLVED):
            younger = [f"{key}={entry.earlier}" for key, entry in SETTINGS.items() if entry.is_younger]
            layers.append(OmegaConf.from_dotlist(younger))
        for override in others:
            _refuse_resolvers(override, "the command line")
        if path is not None:
            _require_whole(path, is_complete or path.name == RESOLVED)
            _refuse_resolvers_of(path)
            loaded = OmegaConf.load(path)
            if not OmegaConf.is_dict(loaded):
                raise UsageError(f"{path}: expected `section:` and `key: value` lines, found a list or text")
            texts = {**_texts_of_file(path, settings), **texts}
            layers.append(loaded)
        layers.append(OmegaConf.from_dotlist(others))
        for layer in layers:
            _check_kinds(OmegaConf.to_container(layer), settings)
        for key, text in texts.items():
            # ??? alone would be a missing value; all texts are set once more, as they are, when all is merged.
            OmegaConf.update(layers[-1], key, "?" if text == "???" else escape(text))
        merged = _merge(layers, modalities, own)
        if not OmegaConf.select(merged, "run_dir"):
            texts["run_dir"] = merged.run_dir = f"runs/{path.stem}" if path is not None else "runs/run"
        config = _as_config(OmegaConf.to_object(merged), own)
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        raise UsageError(_in_file(path, overrides, _explain(error))) from error
    except ValueError as error:
        raise UsageError(_in_file(path, overrides, str(error))) from error
    for key, text in texts.items():
        chosen = settings[key]
        chosen.set(config, expand(text) if chosen.about.path else text)
    return config


def settings_with(own: Mapping[str, str]) -> dict[str, Setting]:
    """Every setting by its key, with those of modalities with names of their own: name -> the section of its kind."""
    entries = [
        (name, entry) for name, section in own.items() for entry in SETTINGS.values() if entry.section == section
    ]
    return SETTINGS | {f"{name}.{entry.field.name}": replace(entry, section=name) for name, entry in entries}


def settings_of(config: Config) -> dict[str, Setting]:
    """Every setting of a run by its key, with those of modalities that have names of their own."""
    return settings_with({name: section_of(config.kinds[name]) for name in config.own})


def _given_modalities(path: Path | None, overrides: Sequence[str]) -> Any:
    """What file and command line say of the modalities; None for nothing, or what cannot be read.

    A mapping on the command line adds to one in the file; anything else replaces it.
    """
    given: Any = None
    with suppress(OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException, AttributeError):
        given = _plain_node(OmegaConf.load(path)).get("modalities") if path is not None else None
    with suppress(OmegaConfBaseException, YAMLError):
        words = [word for word in overrides if re.match(r"modalities[.=]", word)]
        on_line = _plain_node(OmegaConf.from_dotlist(words)).get("modalities")
        both = isinstance(given, dict) and isinstance(on_line, dict)
        given = {**given, **on_line} if both else given if on_line is None else on_line
    return given


def _plain_node(node: Any) -> Any:
    return OmegaConf.to_container(node)


def _own_kinds(modalities: Any) -> dict[str, str]:
    """Name -> section of its kind, of modalities that have names of their own; what is wrong is refused by Config."""
    kinds = dict[str, str]()
    with suppress(UsageError):
        kinds = named(modalities, taken=_FIELDS) if isinstance(modalities, dict) else kinds
    return {name: section_of(kind) for name, kind in kinds.items() if name != kind}


def _merge(layers: Sequence[Any], modalities: Any, own: Mapping[str, str]) -> Any:
    """Merge the defaults with each layer.

    A modality with a name of its own has the merged settings of its kind, then those under its name.
    """
    sections = [(name, _FIELDS[section], field(default_factory=_FIELDS[section])) for name, section in own.items()]
    schema: Any = OmegaConf.structured(make_dataclass("Config", sections, bases=(Config,)) if own else Config)
    if modalities is not None:
        schema.modalities = modalities
        for layer in layers:
            layer.pop("modalities", None)
    merged: Any = OmegaConf.merge(schema, *layers)
    if own:
        inherited = OmegaConf.create({name: merged[section] for name, section in own.items()})
        merged = OmegaConf.merge(schema, inherited, *layers)
    return merged


def _as_config(merged: Any, own: Iterable[str]) -> Config:
    settings = {name: getattr(merged, name) for name in _FIELDS}
    config = Config(**settings | {"own": {name: getattr(merged, name, None) for name in own}})
    weights = config.labelling.weights
    names = tuple(config.kinds)
    require(not weights.keys() - {*MODALITIES, *names}, "labelling.weights", f"a weight for each of {names}", weights)
    return config


def _in_file(path: Path | None, overrides: Sequence[str], message: str) -> str:
    """A message that names the file, where nothing but the file can be meant."""
    return f"{path}: {message}" if path is not None and not overrides and str(path) not in message else message


def _require_whole(path: Path, is_complete: bool) -> None:
    """Refuse what save_config wrote and is no longer whole: what is cut off would be a default in silence."""
    lines = path.read_text(encoding="utf-8").splitlines()
    was_cut = lines[:1] == [_FIRST_LINE] and lines[-1] != _LAST_LINE
    if was_cut or (is_complete and not any(map(str.strip, lines))):
        raise UsageError(f"{path} is damaged, its end is missing: bring back a whole one, such as from a backup")


def load_run_config(folder: Path) -> Config:
    """The settings of a run, which lies in `folder` now, whatever it was called when it was trained.

    Raises:
        UsageError: the folder is not a run; or as load_config.
    """
    path = folder / RESOLVED
    if not path.exists():
        raise UsageError(
            f"{folder} is not a run folder: it has no {RESOLVED}; "
            f"give the folder that {command('train')} named at its end"
        )
    config = load_config(path)
    config.run_dir = str(folder)
    return config


def save_config(config: Config, path: Path) -> None:
    """Write every setting as YAML; load_config reads it back to an equal Config."""
    from selavi.atomic import write_text

    settings = OmegaConf.to_yaml(OmegaConf.create(_plain_config(config, escape)))
    write_text(path, f"{_FIRST_LINE}\n{settings}{_LAST_LINE}\n")


def as_dict(config: Config) -> dict[str, Any]:
    """Return the settings as plain nested dicts and lists, fit for a checkpoint."""
    return _plain_config(config, str)


def _plain_config(config: Config, write: Callable[[str], str]) -> dict[str, Any]:
    plain = _plain(config, write)
    return plain | plain.pop("own")


def _plain(value: Any, write: Callable[[str], str]) -> Any:
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name), write) for entry in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(entry, write) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, write) for entry in value]
    return write(value) if isinstance(value, str) else value


def _split_overrides(overrides: Sequence[str], settings: Mapping[str, Setting]) -> tuple[dict[str, str], list[str]]:
    """The settings that are text, by key and as they are written, and the other overrides."""
    texts, others = {}, []
    for override in overrides:
        key, _, text = override.partition("=")
        if key not in settings or not settings[key].is_text:
            others.append(override)
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{key}={text!a} is not UTF-8; rename the file or folder") from error
        texts[key] = text
    return texts, others


def _texts_of_file(path: Path, settings: Mapping[str, Setting]) -> dict[str, str]:
    """The settings of a YAML file that are text, as they are written: 007, 1e3 and on are names as well.

    Not those with `${`, which may refer to others, and those that are null.
    """
    return {
        key: node.value
        for key, node in _nodes(path)
        if key in settings and settings[key].is_text and isinstance(node, yaml.ScalarNode)
        if "${" not in node.value and not node.tag.endswith(":null")
    }


def given_in_file(path: Path) -> set[str]:
    """Keys of the settings that a YAML file names."""
    return {key for key, _ in _nodes(path)}


def _refuse_resolvers_of(path: Path) -> None:
    waiting, seen = [_compose(path)], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias, which OmegaConf follows within limits
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            _refuse_resolvers(node.value, f"{path}, line {node.start_mark.line + 1}")
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _refuse_resolvers(text: str, where: str) -> None:
    if _RESOLVER.search(text):
        raise UsageError(
            f"{where}: {text!r} refers to something outside of the file, which is refused, as a file may come from "
            "anybody and what it says is kept in the run; write the value itself, or give it on the command line, "
            "where the shell knows $HOME.  ${section.key} refers to another setting; \\${ is just that text"
        )


def _compose(path: Path) -> yaml.Node | None:
    try:
        with path.open(encoding="utf-8") as file:
            return yaml.compose(file, Loader=yaml.SafeLoader)
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def _nodes(path: Path) -> Iterator[tuple[str, yaml.Node]]:
    """The entries of a YAML file and of the sections in it, by key."""
    root = _compose(path)
    for name, node in root.value if isinstance(root, yaml.MappingNode) else ():
        if not isinstance(node, yaml.MappingNode):
            yield name.value, node
            continue
        yield from ((f"{name.value}.{inner.value}", value) for inner, value in node.value)


def escape(text: str) -> str:
    """A text as OmegaConf has to read it so that nothing in it refers to another setting."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _explain(error: OmegaConfBaseException) -> str:
    """What OmegaConf found, in one line; for an unknown key the settings that could be meant."""
    full_key = str(error.full_key or "")
    if not isinstance(error, ConfigKeyError):
        return str(error).splitlines()[0] + (f" (setting {full_key})" if full_key else "")
    leaf = str(error.key)
    section, prefix = (error.object_type or Config), full_key[: len(full_key) - len(leaf)]
    names = [entry.name for entry in fields(section) if "about" in entry.metadata]
    homes: dict[str, list[str]] = {name: [prefix + name] for name in names}
    for home, entry in SETTINGS.items():
        if entry.field.name not in names:
            homes.setdefault(entry.field.name, []).append(home)
    near = get_close_matches(leaf, homes, 1, cutoff=0.7)
    if "." in leaf:
        advice = f"in a file the part before the dot is a section: `{leaf.split('.')[0]}:` and its settings indented"
    elif near:
        advice = f"did you mean {' or '.join(homes[near[0]])}?"
    else:
        advice = f"{prefix.rstrip('.') or 'a configuration'} has {', '.join(names)}"
    return f"unknown setting {full_key or '(no name)'}; {advice}"


def _check_kinds(layer: Any, settings: Mapping[str, Setting]) -> None:
    """Refuse what OmegaConf would convert in silence or name no key for: sections, lists, mappings and booleans."""
    require("own" not in layer, "own", "a section of the name of a modality", layer.get("own"))
    for key, entry in settings.items():
        values = layer.get(entry.section, {}) if entry.section else layer
        require(isinstance(values, dict), entry.section, f"a section of settings such as {key}", repr(values))
        if entry.field.name in values:
            _check_kind(key, entry.field.type, values[entry.field.name])


def _check_kind(key: str, kind: Any, value: Any) -> None:
    origin = get_origin(kind) or kind
    if origin is tuple:
        count = len(get_args(kind))
        fits = isinstance(value, list) and len(value) == count
        fits = fits and all(isinstance(number, int | float) for number in value)
        require(fits, key, f"a list of {count} numbers", repr(value))
    elif origin is list:
        require(isinstance(value, list), key, "a list such as [a, b]", repr(value))
    elif origin is dict:
        require(isinstance(value, dict), key, "a mapping such as {a: 1, b: 2}", repr(value))
    elif origin is bool:
        require(isinstance(value, bool), key, "true or false", repr(value))
