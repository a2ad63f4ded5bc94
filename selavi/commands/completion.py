"""Completion in the shell, by argcomplete: commands, options, recipes and settings."""

import argparse
from collections.abc import Sequence
from typing import Any

from selavi.commands.recipes import recipe_names


def complete(names: Sequence[str]) -> None:
    """Answer the shell, which asks by variables of the environment, and end the process.

    Args:
        names: of the commands.
    """
    import argcomplete

    from selavi.commands.main import find_command

    parser = argparse.ArgumentParser("selavi")
    commands = parser.add_subparsers()
    for name in names:
        commands.choices[name] = _with_completers(find_command(name).parser())
    argcomplete.autocomplete(parser)


def _with_completers(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    from argcomplete.completers import FilesCompleter

    def recipes(prefix: str, **_: Any) -> list[str]:
        return [*recipe_names(), *FilesCompleter()(prefix)]

    for action in parser._actions:
        if action.dest == "overrides":
            action.completer = _settings  # type: ignore[attr-defined]
        elif action.dest in ("config", "recipe"):
            action.completer = recipes  # type: ignore[attr-defined]
    return parser


def _settings(prefix: str, **_: Any) -> list[str]:
    from selavi.config import SETTINGS

    return [f"{key}=" for key in SETTINGS if key.startswith(prefix)]
