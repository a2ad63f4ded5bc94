"""Print every setting of a run, and where it came from: the defaults, a file or the command line.

What is printed is a configuration itself: `--config FILE` reads it.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selavi.cli import Command, Parser
from selavi.commands.recipes import find_recipe, recipe_names
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.config import Config

Origin = Literal["default", "file", "command line"]


@dataclass(frozen=True)
class ConfigArguments:
    """Which settings."""

    recipe: Path
    overrides: Sequence[str] = ()
    changed: bool = False


@dataclass(frozen=True)
class ConfigResult:
    """The settings, and where each came from."""

    config: "Config"
    path: Path
    """The file that was read."""
    origins: dict[str, Origin]
    """By key, such as heads.num_clusters."""
    without_effect: str
    """Settings that were given and change nothing, with what they need; empty where all have an effect."""
    changed: bool
    """Whether only those that are not the defaults are shown."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_note(f"Recipes: {', '.join(recipe_names())}. Every setting is explained in docs/configuration.md.")
    parser.add_example(command("config", "small", "data.root=/videos", "--changed"))
    about = "name of one of selavi's recipes, a YAML file, or a run folder"
    parser.add_argument("recipe", type=Path, metavar="NAME", help=about)
    parser.add_argument("--changed", action="store_true", help="print only the settings that are not the defaults")
    parser.take_settings("settings, which override those of the file")


def config(arguments: ConfigArguments) -> ConfigResult:
    """Read the settings and tell where each came from."""
    from selavi.config import RESOLVED, given_in_file, load_config, settings_of, without_effect

    of_run = arguments.recipe / RESOLVED
    path = of_run if of_run.is_file() else find_recipe(arguments.recipe)
    settings = load_config(path, arguments.overrides)
    in_file = _with_parents(given_in_file(path))
    on_line = _with_parents({override.partition("=")[0] for override in arguments.overrides})
    origins: dict[str, Origin] = {}
    for key in settings_of(settings):
        origins[key] = "command line" if key in on_line else "file" if key in in_file else "default"
    idle = without_effect(settings, path, arguments.overrides)
    return ConfigResult(settings, path, origins, idle, arguments.changed)


def _with_parents(keys: set[str]) -> set[str]:
    """labelling.weights.video says something of labelling.weights, too."""
    return keys | {key.rpartition(".")[0] for key in keys}


def show(result: ConfigResult) -> None:
    """Print the settings as YAML."""
    print("\n".join(_lines(result)))
    if result.without_effect:
        print(f"without an effect: {result.without_effect}", file=sys.stderr)


def _lines(result: ConfigResult) -> Iterator[str]:
    from selavi.config import settings_of

    yield f"# {result.path}"
    section = ""
    for key, entry in settings_of(result.config).items():
        if result.changed and entry.is_default(result.config):
            continue
        if entry.section != section:
            section = entry.section
            yield f"{section}:"
        line = f"{'  ' * bool(section)}{entry.field.name}: {_as_yaml(entry.value(result.config))}"
        yield f"{line:50}  # {result.origins[key]}"


def _as_yaml(value: Any) -> str:
    """A value on one line of a configuration, where ${ would refer to another setting."""
    import yaml

    from selavi.config import escape

    plain = list(value) if isinstance(value, tuple) else escape(value) if isinstance(value, str) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, sort_keys=False, width=math.inf)
    return text.removesuffix("...\n").strip()


COMMAND = Command("config", __doc__, ConfigArguments, add_arguments, config, show)
