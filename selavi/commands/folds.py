"""Folds of an official list, each with settings of its own; imports no torch."""

from collections.abc import Callable, Sequence

from selavi.commands.checks import list_file, require
from selavi.config import Config


def fold_configs(folds: Sequence[str] | None, settings: Callable[[str | None], Config]) -> dict[str | None, Config]:
    """Settings of every fold (None: of no fold), whose lists can be read, before the first fold is worked on.

    Raises:
        UsageError: a fold that is a setting, or a list that cannot be read.
    """
    for fold in folds or ():
        require("=" not in fold, f"--folds: {fold} is a setting, not a fold; write settings before --folds")
    names: list[str | None] = [*folds] if folds else [None]
    configs = {name: settings(name) for name in names}
    for config in configs.values():
        list_file(config.data.list, config.data.source)
    return configs
