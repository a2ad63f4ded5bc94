"""Measure a run's features with frozen encoders: nearest neighbours, a linear classifier, retrieval.

Learned from the training split, measured on another one; on the run's own clips or on others (data.root=...).
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    example = "Example: python tools/probe.py runs/vggsound data.root=/data/ucf101 "
    example += "'data.list=/lists/*list0{fold}.txt' --folds 1 2 3 --group ucf101"
    parser = Parser("probe", __doc__, example)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="other clips, or other windows of them")
    parser.add_argument("--split", default="test", help="clips to measure on (default: test)")
    parser.add_argument("--views", type=int, default=10, help="evenly spaced views averaged for a clip (default: 10)")
    parser.add_argument("--folds", nargs="+", help="of an official list: each takes the place of {fold} in data.list")
    parser.add_argument("--group", default="", help="ucf101, hmdb51 or a regular expression: clips of one recording")
    parser.add_argument("--untrained", action="store_true", help="also the same encoders before any training")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)

    def action() -> None:
        from tools._folds import check_probe, fold_configs

        check_probe(args)
        from datamodules.index.moved import moved_to
        from selavi.evaluation.probes import check_request, describe_probes, format_probes, write_probes
        from selavi.runs.record import load_run, on_other_clips
        from tools._moved import relocate
        from tools._probing import measure

        run = load_run(args.run)
        root = None if args.folds else moved_to(run.manifest, args.overrides)
        run = relocate(run, root or "")
        configs = fold_configs(
            args.folds, lambda fold: on_other_clips(run, args.overrides, fold) if root is None else run.config
        )
        config = next(iter(configs.values()))
        check_request(args.split, config.data.train_split, args.views)
        rows = [row for fold, config in configs.items() for row in measure(run, config, fold, args)]
        result = describe_probes(rows, config, args.overrides, args.split, args.views)
        print(format_probes(result))
        print(f"\nfull figures: {write_probes(result, run.folder)}", file=sys.stderr)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
