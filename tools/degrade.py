"""Measure how clusters hold when picture or sound is degraded: NMI against severity, for several runs."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    example = "Example: python tools/degrade.py SeLaVi=runs/both video=runs/video --kmeans video+audio"
    parser = Parser("degrade", __doc__, example, movable=True)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="run folders; runs of one NAME are averaged")
    about, kinds = "also K-means on features of these modalities", ("video", "audio", "video+audio")
    parser.add_argument("--kmeans", nargs="+", default=[], choices=kinds, help=about)
    parser.add_argument("--corruptions", nargs="+", default=[], metavar="NAME", help="a wrong name lists all (default)")
    parser.add_argument("--split", default="test", help="clips to measure on (default: test)")
    parser.add_argument("--views", type=int, default=3, help="evenly spaced views of each clip (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of noise and holes (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/degradation"), help="folder (default: %(default)s)")
    return parser.parse_with_root(argv)


def measure_group(group: list[tuple[str, Any]], table: Any, args: argparse.Namespace) -> None:
    """Measure runs that read the same clips in the same way: each clip is decoded once for all of them."""
    from datamodules.clips import ClipDataModule, cached
    from datamodules.progress import follow
    from selavi.evaluation import degradation as dg
    from selavi.inference.encode import best_device, encode_clips
    from selavi.inference.load import load_model

    judges, first = [], max((run for _, run in group), key=lambda run: len(run.config.modalities))
    config = replace(first.config, modalities=sorted({name for _, run in group for name in run.config.modalities}))
    data = ClipDataModule(config, first.manifest, cached(config, first.manifest))
    for name, run in group:
        (model, augment), lines = load_model(run, best_device(config.trainer.accelerator)), []
        if args.kmeans:
            loader, rows = data.evaluation_loader(config.data.train_split, args.views)
            clips = encode_clips(model, augment, loader, len(rows), args.views)
            lines = dg.kmeans_lines(name, clips, args.kmeans, run.config.heads.num_clusters, run.config.seed)
        judges.append(dg.make_judge(name, run.folder, model, augment, run.config, run.checkpoint["label_bank"], lines))
    for name in (dg.CLEAN, *(args.corruptions or dg.CORRUPTIONS)):
        if severities := table.missing(judges, name):
            loader, rows = data.evaluation_loader(args.split, args.views)
            table.measure(follow(loader, name, len(loader), "batches"), name, severities, judges, rows, config)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)

    def action() -> None:
        from tools._checking_runs import check_degrade

        check_degrade(args)  # before torch is imported
        from selavi.evaluation.degradation import Table, check_names, format_degradation, same_clips, write_plots
        from tools._moved import open_run

        check_names(args.corruptions, args.views)
        table = Table(args.out, args.split, args.views, args.seed)
        groups: dict[Any, list[Any]] = {}
        for name, _, folder in (told.rpartition("=") for told in args.runs):
            run = open_run(Path(folder), args.root)
            groups.setdefault(same_clips(run.config), []).append((name or run.folder.name, run))
        for group in groups.values():
            measure_group(group, table, args)
        print(format_degradation(table.rows))
        write_plots(table.rows, args.out, args.split)
        print(f"\nfull figures: {table.path} and .csv; plots: .svg beside them", file=sys.stderr)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
