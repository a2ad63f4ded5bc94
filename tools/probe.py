"""Measure a run's features with frozen encoders: nearest neighbours, a linear classifier, retrieval.

Learned from the training split, measured on another one; on the run's own clips or on others (data.root=...).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

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


def measure(run: Any, fold: str | None, args: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """One fold: its settings, and a row for each kind of encoders and features."""
    from datamodules.clips import ClipDataModule, cached, prepare_data
    from datamodules.holdout import hold_out
    from datamodules.moved import at_root, moved_to
    from selavi.evaluation.probes import best_device, check_request, encode_clips, probe_clips
    from selavi.training.run import load_model, on_other_clips, untrained_model

    root = moved_to(run.manifest, args.overrides) if fold is None else None
    config, manifest = at_root(run.config, run.manifest, root or "")
    if root is None:
        config = on_other_clips(run, args.overrides, fold)
    check_request(args.split, config.data.train_split, args.views)
    manifest, media = prepare_data(config) if root is None else (manifest, cached(config, manifest))
    data, device = ClipDataModule(config, manifest, media), best_device(config.trainer.accelerator)
    kinds = [label or "" for label in data.train_rows["label"].to_pylist()]
    held_out = hold_out(data.ids, kinds, fraction=0.2, seed=config.seed, group=args.group)
    rows = []
    for encoders, make in {"trained": load_model, "untrained": untrained_model}.items():
        if encoders == "trained" or args.untrained:
            model, augment = make(run, device)
            sides = []
            for split in (config.data.train_split, args.split):
                loader, table = data.evaluation_loader(split, args.views)
                sides.append((encode_clips(model, augment, loader, len(table), args.views), table["label"].to_pylist()))
            results = probe_clips(*sides[0], held_out, *sides[1], device)
            rows += [{"fold": fold, "encoders": encoders, "features": name, **row} for name, row in results.items()]
    return config, rows


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)

    def action() -> None:
        from selavi.evaluation.probes import describe_probes, format_probes, write_probes
        from selavi.training.run import load_run

        run = load_run(args.run)
        found = [measure(run, fold, args) for fold in args.folds or [None]]
        rows = [row for _, each in found for row in each]
        result = describe_probes(rows, found[0][0], args.overrides, args.split, args.views)
        print(format_probes(result))
        print(f"\nfull figures: {write_probes(result, run.folder)}", file=sys.stderr)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
