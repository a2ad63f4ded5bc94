"""What tools/probe.py and tools/finetune.py refuse before the first fold is worked on; imports no torch."""

import argparse
import re
from collections.abc import Callable, Sequence

from datamodules.index.holdout import GROUPS
from selavi.config import Config
from selavi.errors import UsageError
from tools._checks import at_least, list_file, require, run_clips


def check_probe(args: argparse.Namespace) -> None:
    """Raise UsageError for what tools/probe.py cannot do; what other clips are there is seen when they are listed."""
    at_least(args, views=1)
    if not args.overrides and not args.folds:
        run_clips(args.run, args.split, labelled=True)
    try:
        re.compile(GROUPS.get(args.group, args.group))
    except re.error as error:
        raise UsageError(f"--group {args.group!r} is neither {' nor '.join(GROUPS)} nor a pattern: {error}") from error


def fold_configs(
    folds: Sequence[str | None] | None, settings: Callable[[str | None], Config]
) -> dict[str | None, Config]:
    """Settings of every fold (None: of no fold), whose lists can be read, before the first fold is worked on."""
    for fold in folds or ():
        told = f"--folds: {fold} is a setting, not a fold; write settings before --folds"
        require(fold is None or "=" not in fold, told)
    configs = {fold: settings(fold) for fold in folds or [None]}
    for config in configs.values():
        list_file(config.data.list, config.data.source)
    return configs
