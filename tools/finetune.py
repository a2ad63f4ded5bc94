"""Fine-tune a finished run's encoder on labels; held-out training clips choose the epoch, which is tested once."""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import CONFIGS, Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    example = "Example: python tools/finetune.py runs/vggsound --config finetune_ucf101 data.root=/ucf101 "
    example += "'data.list=/lists/*list0{fold}.txt' --folds 1 2 3 run_dir=runs/vggsound-ucf101"
    parser = Parser("finetune", __doc__, example)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder whose encoder is trained on")
    parser.add_argument("--config", type=Path, required=True, help="YAML file, or one of selavi's own by its name")
    parser.add_argument("--folds", nargs="+", help="of an official list: each takes the place of {fold} in data.list")
    parser.add_argument("--split", default="test", help="clips to test on (default: test)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that override the file's")
    return parser.parse_intermixed_args(argv)


def fine_tune(config: Any, run: Any, config_path: Path, split: str) -> dict[str, Any]:
    """One fold: train, choose the epoch, test; or find it done."""
    from datamodules.clips import ClipDataModule, prepare_data
    from datamodules.index.holdout import split_off
    from datamodules.index.manifest import select_split, usable
    from selavi.runs.launch import is_first
    from selavi.runs.lifetime import start_run
    from selavi.runs.resume import resume_point
    from selavi.training import finetune as ft
    from selavi.training.callbacks import Progress, StopOnSignal
    from selavi.training.trainer import make_trainer

    point = resume_point(config, check=is_first())
    if point.finished:
        return ft.read_finetuning(config, split)
    manifest, media = prepare_data(config)
    manifest = split_off(manifest, config.data.train_split, ft.VALIDATION, **ft.holding_out(config))
    settings, tested = config.finetune, select_split(manifest, split)
    data = ClipDataModule(config, manifest, media)
    batches, held_out = data.evaluation_loader(ft.VALIDATION, settings.validation_views)
    progress, stop = Progress(config, data.ids), StopOnSignal(config.run_dir)
    validation = ft.Validation(config, lambda: batches, held_out["label"].to_pylist(), progress.say)
    trainer = make_trainer(config, [stop, validation, progress], ft.KIND)
    labels, steps = data.train_rows["label"].to_pylist(), data.steps_per_epoch(trainer.world_size)
    module = ft.FinetuneModule(config, run, labels, steps)
    module.check_checkpoint(point.checkpoint)
    if trainer.is_global_zero:
        _lock = start_run(config, config_path, manifest)  # held until this function ends
        progress.say(f"{len(data.ids)} clips to learn from, {len(held_out)} held out; into {config.run_dir}")
    trainer.fit(module, datamodule=data, ckpt_path=point.checkpoint, weights_only=True)
    best = ft.load_best(module)
    loader, rows = data.evaluation_loader(split, settings.test_views, settings.test_crops)
    test = module.score(loader, rows["label"].to_pylist(), settings.test_views * settings.test_crops)
    return ft.finish_finetuning(module, best, test, split, len(tested) - len(usable(tested)))


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)

    def action() -> None:
        from selavi.config import find_config, load_config
        from selavi.runs.record import load_run
        from selavi.training.finetune import finetune_config, format_finetuning
        from tools._folds import fold_configs

        path = find_config(args.config, CONFIGS)
        given, run = load_config(path, args.overrides), load_run(args.run)
        configs = fold_configs(args.folds, lambda fold: finetune_config(given, args.overrides, run, fold))
        results = {f"fold {key}" if key else "all": fine_tune(configs[key], run, path, args.split) for key in configs}
        print(format_finetuning(results))
        print(f"\nfull figures: eval/finetune_{args.split}.json in {given.run_dir}", file=sys.stderr)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
