"""Train encoders and label every clip.  Without arguments: on the generated demo set."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selavi.cli import Command, Parser
from selavi.commands.recipes import RECIPES, find_recipe, has_labellings_of_recipe, recipe_names
from selavi.errors import UsageError
from selavi.filesystem import user_path
from selavi.wording import command, duration

if TYPE_CHECKING:
    from selavi.commands.dry_run import DryRun
    from selavi.config import Config

DEMO = RECIPES / "demo.yaml"


@dataclass(frozen=True)
class TrainArguments:
    """What to train, and how."""

    config: Path = DEMO
    overrides: Sequence[str] = ()
    """Settings; with `more`, also the folder of the run, which run_dir=... names as well."""
    more: int | None = None
    """Epochs for which a run goes on that is finished or was stopped, with its own settings."""
    change: bool = False
    """Whether the run in the folder goes on with the settings of `overrides` in place of its own."""
    dry_run: bool = False
    """Whether to say what the training would need, and write nothing."""


@dataclass(frozen=True)
class TrainResult:
    """Where the labels are, and whether they have settled."""

    run_dir: Path
    num_clips: int
    """0: the run was finished before, or another process of it reports."""
    seconds: float
    verdict: str
    reports: bool
    """Whether this process says what came out: one of those that train together does."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    words = ("--config", "small", "data.root=/videos", "heads.num_clusters=50", "run_dir=runs/mine")
    parser.add_note(f"Recipes: {', '.join(recipe_names())}. Every setting is explained in docs/configuration.md.")
    parser.add_example(command("train", *words), command("train", "runs/mine", "--more", "20"))
    about = "YAML file, or the name of one of selavi's recipes (default: demo)"
    parser.add_argument("--config", type=Path, metavar="NAME", help=about)
    about = "continue a run, given by its folder, for this many more epochs: RUN --more 20"
    parser.add_argument("--more", type=int, metavar="EPOCHS", help=about)
    about = "continue a run, given by its folder, with other settings: RUN --change optim.lr=0.01"
    parser.add_argument("--change", action="store_true", help=about)
    about = "try a step and a labelling, say what memory, disk and time the training needs, and write nothing"
    parser.add_argument("--dry-run", action="store_true", help=about)
    parser.take_settings("settings, which override those of the file")


def run(arguments: TrainArguments) -> "TrainResult | DryRun":
    """Train, or try what that would need."""
    if not arguments.dry_run:
        return train(arguments)
    if arguments.more is not None or arguments.change:
        option = "--change" if arguments.change else "--more"
        raise UsageError(f"--dry-run looks at a run with the settings that it is given; {option} takes those of RUN")

    from selavi.commands.dry_run import dry_run

    config, path = _settings(arguments)
    words = () if arguments.config == DEMO else ("--config", str(arguments.config))
    return dry_run(config, path, (*words, *arguments.overrides))


def train(arguments: TrainArguments) -> TrainResult:
    """Build the parts and fit."""
    config, config_path = _settings(arguments)

    from selavi.runs.launch import is_first
    from selavi.runs.lifetime import owned

    with owned(config.run_dir, is_first()):
        return _train(config, config_path, is_first(), arguments.change)


def _train(config: "Config", config_path: Path | None, is_first: bool, may_change: bool) -> TrainResult:
    """Train in a folder that belongs to this process, or to the first of several that train together."""
    from datamodules.clips import ClipDataModule, prepare_data
    from datamodules.index.manifest import describe_bad
    from datamodules.index.moved import require_media_to_go_on, without_late_comers
    from selavi.results.labels import write_labels
    from selavi.runs.checkpoint import set_aside
    from selavi.runs.folder import RunFolder
    from selavi.runs.lifetime import finish_run, note_changes, start_run
    from selavi.runs.pulse import Pulse
    from selavi.runs.record import read_verdict
    from selavi.runs.resume import resume_point
    from selavi.training.callbacks import LabellingCallback, Poison, Progress, Saving, Survival
    from selavi.training.first.give import check_first
    from selavi.training.forecast import warn_of_labellings
    from selavi.training.module import SelaviModule
    from selavi.training.trainer import fit, make_trainer

    began = time.monotonic()
    run_dir = Path(config.run_dir)
    point = resume_point(config, check=is_first)
    if point.finished:
        return TrainResult(run_dir, 0, 0.0, read_verdict(run_dir), reports=True)
    make_trainer(config, [])  # refuses what this machine cannot do, before the media are looked at
    if not point.checkpoint:
        check_first(config, reads=is_first)
    begun = RunFolder(run_dir).manifest
    if point.checkpoint:
        require_media_to_go_on(config, begun)
    manifest, media = prepare_data(config)
    if point.checkpoint:
        manifest = without_late_comers(manifest, begun, config.data.train_split)
    data = ClipDataModule(config, manifest, media)
    manifest = data.manifest  # of many clips in a file, which needs no memory of its own
    progress = Progress(config, data.ids)
    saving = Saving(config)
    pulse = Pulse(config.run_dir)
    poison = Poison(config, data.ids)
    survival = Survival(config, data.ids, saving, pulse, poison)
    labelling = LabellingCallback(config, data.labels, progress, survival)
    trainer = make_trainer(config, [labelling, progress, poison, survival, saving])
    module = SelaviModule(config, data.ids, data.steps_per_epoch(trainer.world_size), may_change)
    module.check_checkpoint(point.saved)
    if trainer.is_global_zero:
        start_run(config, config_path, manifest)
        set_aside(point.saved)
        if point.saved is not None and module.changes:
            note_changes(run_dir, point.saved.content["global_step"], module.changes)
        progress.announce(point.checkpoint, describe_bad(manifest))
        warning = warn_of_labellings(config, module.steps_per_epoch)
        if warning and point.checkpoint is None and not has_labellings_of_recipe(config, config_path):
            progress.say(warning)
    checkpoint = point.checkpoint
    del point  # the checkpoint that it holds would stay in memory for the whole training
    with survival.watching():
        fit(trainer, module, data, checkpoint, pulse)
    if not trainer.is_global_zero:
        return TrainResult(run_dir, 0, 0.0, "", reports=False)
    seconds = time.monotonic() - began
    verdict = labelling.verdict()
    bank = module.label_bank
    write_labels(
        run_dir, config.data.train_split, bank.ids, bank.labels, vars(labelling.final_statistics()), bank.probe
    )
    finish_run(config, seconds, verdict)
    return TrainResult(run_dir, len(data.ids), seconds, verdict.text, reports=True)


def _settings(arguments: TrainArguments) -> "tuple[Config, Path | None]":
    """The run's settings, and the file that they come from; none where a run goes on with its own."""
    from selavi.config import load_config, warn_of_settings_without_effect
    from selavi.runs.resume import changed_settings, more_of

    if arguments.more is None and not arguments.change:
        path = find_recipe(arguments.config)
        config = load_config(path, arguments.overrides)
        warn_of_settings_without_effect(config, path, arguments.overrides, "train")
        return config, path
    if arguments.change and arguments.more is not None:
        raise UsageError("say --change first, and --more when that part of the training has ended")
    settings = [word for word in arguments.overrides if "=" in word]
    folders = [user_path(word) for word in arguments.overrides if "=" not in word]
    folders += [Path(load_config(None, [word]).run_dir) for word in settings if word.startswith("run_dir=")]
    if len(folders) != 1 or arguments.config != DEMO:
        option = "--change" if arguments.change else "--more"
        raise UsageError(f"{option} goes on with a run and its own settings: name its folder, and no --config")
    if arguments.more is None:
        return changed_settings(folders[0], [word for word in settings if not word.startswith("run_dir=")]), None
    return more_of(folders[0], arguments.more, settings), None


def show(result: "TrainResult | DryRun") -> None:
    """Say where the results are and what to do next."""
    from selavi.runs.record import next_steps

    if not isinstance(result, TrainResult):
        result.show()
        return
    if not result.reports:
        return
    refit = f"\n      refit     {command('refit', result.run_dir)}   (new heads in minutes, often better labels)"
    steps = next_steps(str(result.run_dir)) + refit
    if not result.num_clips:
        longer = command("train", result.run_dir, "--more", "10")
        print(f"{result.run_dir} is finished; nothing to train ({longer} trains it longer).{steps}", file=sys.stderr)
        return
    labels = f"labels of {result.num_clips} clips are in {result.run_dir}/labels."
    print(f"done in {duration(result.seconds)}; {labels}\n{result.verdict}{steps}", file=sys.stderr)


COMMAND = Command("train", __doc__, TrainArguments, add_arguments, run, show)
