"""Train: learn encoders and label every clip.  Without arguments: the generated demo set."""

import argparse
import os
import sys
import time
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="selavi-train",
        description=__doc__,
        epilog="Example: python tools/train.py --config configs/small.yaml data.root=/videos heads.num_clusters=50",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIGS / "demo.yaml",
        help="YAML file; selavi's own are also found by name, such as vggsound (default: demo)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that go before those of the file"
    )
    return parser.parse_intermixed_args(argv)


def train(args: argparse.Namespace) -> None:
    """Build the parts, fit, say where the results are and what to do next."""
    from selavi.config import find_config, load_config

    config_path = find_config(args.config, CONFIGS)
    config = load_config(config_path, args.overrides)

    from datamodules.clips import ClipDataModule, prepare_data
    from datamodules.manifest import describe_bad
    from selavi.training.callbacks import LabellingCallback, Progress, StopOnSignal
    from selavi.training.module import SelaviModule
    from selavi.training.run import finish_run, make_trainer, next_steps, resume_point, start_run

    began = time.monotonic()
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    point = resume_point(config, check=first)
    if point.finished:
        print(f"{config.run_dir} is finished; nothing to train.{next_steps(config.run_dir)}", file=sys.stderr)
        return
    manifest, cache = prepare_data(config)
    data = ClipDataModule(config, manifest, cache)
    progress = Progress(config, data.ids)
    labelling = LabellingCallback(config, data.labels, progress)
    trainer = make_trainer(config, [labelling, progress, StopOnSignal()])
    module = SelaviModule(config, data.ids, data.steps_per_epoch(trainer.world_size))
    module.check_checkpoint(point.checkpoint)
    if trainer.is_global_zero:
        _lock = start_run(config, config_path, manifest)  # held until this function ends
        progress.announce(point.checkpoint, describe_bad(manifest))
    trainer.fit(module, datamodule=data, ckpt_path=point.checkpoint, weights_only=True)
    if trainer.is_global_zero:
        assert labelling.statistics is not None
        finish_run(config, module.label_bank, labelling.statistics, time.monotonic() - began)
        print(
            f"done in {time.monotonic() - began:.0f} s; labels of {len(data.ids)} clips are in "
            f"{config.run_dir}/labels.{next_steps(config.run_dir)}",
            file=sys.stderr,
        )


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)
    from selavi.cli import run_tool

    return run_tool(lambda: train(args))


if __name__ == "__main__":
    sys.exit(main())
