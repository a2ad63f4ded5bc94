"""Measure the features of a run with frozen encoders: nearest neighbours, a linear classifier, retrieval.

The probes learn from the training split and are measured on another split, of the run's clips or of others
(data.root=...).
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavi.cli import Command, Parser
from selavi.errors import UsageError
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.config import Config
    from selavi.runs.record import Run


@dataclass(frozen=True)
class ProbeArguments:
    """Which features, on which clips."""

    run: Path
    overrides: Sequence[str] = ()
    split: str = "test"
    views: int = 10
    folds: Sequence[str] | None = None
    group: str = ""
    untrained: bool = False


@dataclass(frozen=True)
class ProbeResult:
    """Scores of the features, as RUN/eval/probe_*.json holds them."""

    scores: dict[str, Any]
    path: Path


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    words = ("data.list=/lists/*list0{fold}.txt", "--folds", "1", "2", "3", "--group", "ucf101")
    parser.add_example(command("probe", "runs/vggsound", "data.root=/data/ucf101", *words))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo")
    parser.take_settings("settings for other clips, or for other windows of them", "data.NAME=VALUE")
    parser.add_argument("--split", help="clips to measure on (default: test)")
    about = "number of evenly spaced views of each clip; their features are averaged (default: 10)"
    parser.add_argument("--views", type=int, metavar="N", help=about)
    about = "folds of an official list; each in turn takes the place of {fold} in data.list"
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help=about)
    about = "how clips of one recording are recognised, which are kept together: ucf101, hmdb51 or a regular expression"
    parser.add_argument("--group", metavar="PATTERN", help=about)
    about = "also measure the same encoders before any training"
    parser.add_argument("--untrained", action="store_true", help=about)


def probe(arguments: ProbeArguments) -> ProbeResult:
    """Measure every fold, and write the scores into the run folder."""
    _check(arguments)
    from datamodules.index.moved import moved_to
    from selavi.commands.folds import fold_configs
    from selavi.commands.opening import relocate
    from selavi.evaluation.probes import check_request, describe_probes, write_probes
    from selavi.runs.record import load_run, on_other_clips

    overrides = list(arguments.overrides)
    run = load_run(arguments.run)
    root = None if arguments.folds else moved_to(run.manifest, overrides)
    run = relocate(run, root or "")
    configs: dict[str | None, Config] = {None: run.config}  # its manifest holds what its list said
    if root is None:
        configs = fold_configs(arguments.folds, lambda fold: on_other_clips(run, overrides, fold))
    config = next(iter(configs.values()))
    check_request(arguments.split, config.data.train_split, arguments.views)
    rows = []
    for fold, config in configs.items():
        rows += _probe_fold(run, config, fold, arguments)
    scores = describe_probes(rows, config, overrides, arguments.split, arguments.views)
    return ProbeResult(scores, write_probes(scores, run.folder))


def _check(arguments: ProbeArguments) -> None:
    """Refuse what cannot be done; what other clips hold is seen when they are listed."""
    from datamodules.index.holdout import GROUPS
    from selavi.commands.checks import at_least, run_clips, run_folder_to_write

    at_least(arguments, views=1)
    run_folder_to_write(arguments.run)
    if not arguments.overrides and not arguments.folds:
        run_clips(arguments.run, arguments.split, labelled=True)
    group = arguments.group
    try:
        re.compile(GROUPS.get(group, group))
    except re.error as error:
        raise UsageError(f"--group {group!r} is neither {' nor '.join(GROUPS)} nor a pattern: {error}") from error


def _probe_fold(run: "Run", config: "Config", fold: str | None, arguments: ProbeArguments) -> list[dict[str, Any]]:
    """A row for each kind of encoders and features."""
    from datamodules.clips import prepare_data
    from datamodules.index.holdout import hold_out, recordings_of
    from datamodules.index.manifest import select_split, usable
    from datamodules.loading.views import ClipLoaders
    from datamodules.stores.opening import open_media
    from selavi.commands.checks import require
    from selavi.evaluation.probes import probe_clips
    from selavi.inference.device import best_device
    from selavi.inference.encode import encode_clips
    from selavi.inference.load import load_model, untrained_model

    if config is run.config:
        manifest, media = run.manifest, open_media(config, run.manifest)
    else:
        manifest, media = prepare_data(config)
    select_split(manifest, arguments.split)  # before anything is encoded
    loaders = ClipLoaders(config, manifest, media)
    train_rows = usable(select_split(manifest, config.data.train_split))
    device = best_device(config.trainer.accelerator)
    labels = [label or "" for label in train_rows["label"].to_pylist()]
    held_out = hold_out(
        train_rows["id"].to_pylist(),
        labels,
        fraction=0.2,
        seed=config.seed,
        group=arguments.group,
        recordings=recordings_of(train_rows),
    )
    require(held_out.any(), "every class has one recording alone, so none can be held out to choose on: label more")
    makers = {"trained": load_model, "untrained": untrained_model} if arguments.untrained else {"trained": load_model}
    rows = []
    for encoders, make in makers.items():
        model, augment = make(run, device)
        sides = []
        for split in (config.data.train_split, arguments.split):
            loader, table = loaders.evaluation_loader(split, arguments.views)
            clips = encode_clips(model, augment, loader, len(table), arguments.views)
            sides.append((clips, table["label"].to_pylist()))
        (clips, clip_labels), (tested, tested_labels) = sides
        results = probe_clips(clips, clip_labels, held_out, tested, tested_labels, device)
        rows += [{"fold": fold, "encoders": encoders, "features": name, **row} for name, row in results.items()]
    return rows


def show(result: ProbeResult) -> None:
    """Print the scores, and where they are kept."""
    from selavi.evaluation.probes import format_probes

    print(format_probes(result.scores))
    print(f"\nfull figures: {result.path}", file=sys.stderr)


COMMAND = Command("probe", __doc__, ProbeArguments, add_arguments, probe, show)
