"""Train: learn encoders and label every clip.  Without arguments: the generated demo set."""

import argparse
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import CONFIGS, Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    epilog = f"Recipes of selavi's own: {names}. Every setting is explained in docs/configuration.md. "
    epilog += "Example: python tools/train.py --config small data.root=/videos heads.num_clusters=50 run_dir=runs/mine"
    parser = Parser("train", __doc__, epilog)
    about = "YAML file, or the name of one of selavi's own recipes (default: demo)"
    parser.add_argument("--config", type=Path, default=CONFIGS / "demo.yaml", help=about)
    about = "settings that override the file's"
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help=about)
    return parser.parse_intermixed_args(argv)


def train(args: argparse.Namespace) -> None:
    """Build the parts, fit, say where the results are and what to do next."""
    from selavi.config import find_config, load_config

    config_path = find_config(args.config, CONFIGS)
    config = load_config(config_path, args.overrides)

    from datamodules.clips import ClipDataModule, prepare_data
    from datamodules.index.manifest import describe_bad
    from selavi.results.labels import write_labels
    from selavi.runs.launch import is_first
    from selavi.runs.lifetime import finish_run, start_run
    from selavi.runs.record import next_steps
    from selavi.runs.resume import resume_point
    from selavi.training.callbacks import LabellingCallback, Progress, StopOnSignal
    from selavi.training.module import SelaviModule
    from selavi.training.trainer import make_trainer
    from selavi.wording import duration

    began = time.monotonic()
    point = resume_point(config, check=is_first())
    if point.finished:
        print(f"{config.run_dir} is finished; nothing to train.{next_steps(config.run_dir)}", file=sys.stderr)
        return
    make_trainer(config, [])  # refuses what this machine cannot do, before the media are looked at
    manifest, cache = prepare_data(config)
    data = ClipDataModule(config, manifest, cache)
    progress, stop = Progress(config, data.ids), StopOnSignal(config.run_dir)
    labelling = LabellingCallback(config, data.labels, progress, stop)
    trainer = make_trainer(config, [stop, labelling, progress])
    module = SelaviModule(config, data.ids, data.steps_per_epoch(trainer.world_size))
    module.check_checkpoint(point.checkpoint)
    if trainer.is_global_zero:
        _lock = start_run(config, config_path, manifest)  # held until this function ends
        progress.announce(point.checkpoint, describe_bad(manifest))
    trainer.fit(module, datamodule=data, ckpt_path=point.checkpoint, weights_only=True)
    if trainer.is_global_zero:
        statistics = vars(labelling.final_statistics())
        seconds, verdict = time.monotonic() - began, labelling.verdict()
        bank = module.label_bank
        write_labels(Path(config.run_dir), config.data.train_split, bank.ids, bank.labels, statistics)
        finish_run(config, seconds, verdict)
        results = f"labels of {len(data.ids)} clips are in {config.run_dir}/labels."
        print(f"done in {duration(seconds)}; {results}\n{verdict.text}{next_steps(config.run_dir)}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)
    return run_tool(lambda: train(args))


if __name__ == "__main__":
    sys.exit(main())
