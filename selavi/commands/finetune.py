"""Fine-tune the encoder of a finished run on labels; held-out training clips choose the epoch that is tested."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavi.cli import Command, Parser
from selavi.commands.recipes import find_recipe
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.config import Config
    from selavi.runs.record import Run


@dataclass(frozen=True)
class FinetuneArguments:
    """Which encoder, which clips, which settings."""

    run: Path
    config: Path
    folds: Sequence[str] | None = None
    split: str = "test"
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class FinetuneResult:
    """Accuracy on the clips tested on."""

    run_dir: Path
    split: str
    folds: dict[str, dict[str, Any]]
    """What eval/finetune_SPLIT.json holds, by `fold 1`, `fold 2` ..., or `all`."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    clips = ("data.root=/ucf101", "data.list=/lists/*list0{fold}.txt", "--folds", "1", "2", "3")
    words = ("runs/vggsound", "--config", "finetune_ucf101", *clips, "run_dir=runs/vggsound-ucf101")
    parser.add_example(command("finetune", *words))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder whose encoder is trained further")
    about = "YAML file, or the name of one of selavi's recipes"
    parser.add_argument("--config", type=Path, metavar="NAME", required=True, help=about)
    about = "folds of an official list; each in turn takes the place of {fold} in data.list"
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help=about)
    parser.add_argument("--split", help="clips to test on (default: test)")
    parser.take_settings("settings, which override those of the file")


def finetune(arguments: FinetuneArguments) -> FinetuneResult:
    """Fine-tune on each fold, or on all clips."""
    from selavi.commands.folds import fold_configs
    from selavi.config import load_config, warn_of_settings_without_effect
    from selavi.runs.record import load_run
    from selavi.training.finetune import finetune_config

    config_path = find_recipe(arguments.config)
    given = load_config(config_path, arguments.overrides)
    run = load_run(arguments.run)
    configs = fold_configs(arguments.folds, lambda fold: finetune_config(given, arguments.overrides, run, fold))
    warn_of_settings_without_effect(next(iter(configs.values())), config_path, arguments.overrides, "finetune")
    results = {
        f"fold {fold}" if fold else "all": _owned_fold(config, run, config_path, arguments.split)
        for fold, config in configs.items()
    }
    return FinetuneResult(Path(given.run_dir), arguments.split, results)


def _owned_fold(config: "Config", run: "Run", config_path: Path, split: str) -> dict[str, Any]:
    """A fold in a folder that belongs to this process, or to the first of several that train together."""
    from selavi.runs.launch import is_first
    from selavi.runs.lifetime import owned

    with owned(config.run_dir, is_first()):
        return _finetune_fold(config, run, config_path, split)


def _finetune_fold(config: "Config", run: "Run", config_path: Path, split: str) -> dict[str, Any]:
    """Train, choose the epoch, test; or read what was done before."""
    from datamodules.clips import ClipDataModule, prepare_data
    from datamodules.index.holdout import split_off
    from datamodules.index.manifest import select_split, usable
    from datamodules.index.moved import require_media_to_go_on, without_late_comers
    from selavi.runs.checkpoint import set_aside
    from selavi.runs.folder import RunFolder
    from selavi.runs.launch import is_first
    from selavi.runs.lifetime import start_run
    from selavi.runs.pulse import Pulse
    from selavi.runs.resume import resume_point
    from selavi.training import finetune as ft
    from selavi.training.callbacks import Poison, Progress, Saving, Survival
    from selavi.training.trainer import fit, make_trainer

    point = resume_point(config, is_first(), ft.KIND)
    if point.finished:
        return ft.read_finetuning(config, split)
    make_trainer(config, [], ft.KIND)  # refuses what this machine cannot do, before the media are looked at
    begun = RunFolder(config.run_dir).manifest
    if point.checkpoint:
        require_media_to_go_on(config, begun)
    manifest, media = prepare_data(config)
    if point.checkpoint:
        manifest = without_late_comers(manifest, begun, config.data.train_split)
    manifest = split_off(manifest, config.data.train_split, ft.VALIDATION, **ft.holding_out(config))
    settings = config.finetune
    tested = select_split(manifest, split)
    data = ClipDataModule(config, manifest, media)
    batches, held_out = data.loaders.evaluation_loader(ft.VALIDATION, settings.validation_views)
    progress = Progress(config, data.ids)
    saving = Saving(config)
    pulse = Pulse(config.run_dir)
    poison = Poison(config, data.ids)
    survival = Survival(config, data.ids, saving, pulse, poison)
    validation = ft.Validation(config, lambda: batches, held_out["label"].to_pylist(), progress.say)
    trainer = make_trainer(config, [validation, progress, poison, survival, saving], ft.KIND)
    labels = data.train_rows["label"].to_pylist()
    module = ft.FinetuneModule(config, run, labels, data.steps_per_epoch(trainer.world_size))
    module.check_checkpoint(point.saved)
    if trainer.is_global_zero:
        start_run(config, config_path, manifest)
        set_aside(point.saved)
        progress.say(f"{len(data.ids)} clips to learn from, {len(held_out)} held out; into {config.run_dir}")
    checkpoint = point.checkpoint
    del point  # the checkpoint that it holds would stay in memory for the whole training
    with survival.watching():
        fit(trainer, module, data, checkpoint, pulse)
    best = ft.load_best(module)
    loader, rows = data.loaders.evaluation_loader(split, settings.test_views, settings.test_crops)
    test = module.score(loader, rows["label"].to_pylist(), settings.test_views * settings.test_crops)
    return ft.finish_finetuning(module, best, test, split, len(tested) - len(usable(tested)))


def show(result: FinetuneResult) -> None:
    """Print the accuracies, and where the rest is."""
    from selavi.training.finetune import format_finetuning

    print(format_finetuning(result.folds))
    print(f"\nfull figures: eval/finetune_{result.split}.json in {result.run_dir}", file=sys.stderr)


COMMAND = Command("finetune", __doc__, FinetuneArguments, add_arguments, finetune, show)
