"""Compare clusterings over several seeds: recipes trained with one budget, or K-means on features of runs or arrays."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool

EXAMPLES = """  compare.py --config small --recipes sela-video concat xdc selavi --seeds 0 1 2 data.root=DIR
  compare.py --runs runs/a runs/b         video, audio, both side by side, and both before any training
  compare.py --arrays features.npy --ids ids.txt --labels labels.csv"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser("compare", __doc__, EXAMPLES, verbatim=True, movable=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipes", nargs="+", metavar="NAME", help="to train, unless finished, with section.key=value")
    what.add_argument("--runs", type=Path, nargs="+", metavar="RUN", help="run folders whose features are clustered")
    what.add_argument("--arrays", type=Path, nargs="+", metavar="FILE.npy", help="features (N, D); also side by side")
    parser.add_argument("--config", type=Path, default=Path("demo"), help="of the recipes (default: demo)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--splits", nargs="+", default=["train", "test"], help="clips to score (default: train test)")
    parser.add_argument("--views", type=int, default=3, help="of each clip, whose features are averaged (default: 3)")
    parser.add_argument("--ids", type=Path, help="of the arrays' rows: a line of text each")
    parser.add_argument("--labels", type=Path, help="of the arrays' rows: CSV or Parquet with columns id and label")
    parser.add_argument("--clusters", type=int, default=0, help="K (default: the run's, or as many as labels)")
    parser.add_argument("--methods", nargs="+", default=["kmeans"], help="kmeans (default), spectral, agglomerative")
    parser.add_argument("--scale", default="standardise+l2", help="standardise, l2, none or standardise+l2 (default)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder (default: %(default)s)")
    words = sys.argv[1:] if argv is None else argv
    settings = [word for word in words if "--recipes" in words and re.match(r"[a-z_]+(\.[a-z_]+)*=", word)]
    rest = [word for word in words if word not in settings]
    return parser.parse_with_root(rest, argparse.Namespace(settings=settings))


def encode_run(root: str, folder: Path, split: str, num_views: int, scaling: str) -> tuple[Any, int]:
    """Features and labels of a run's clips (in `root`), by kind of features, and how many clusters it has."""
    from selavi.evaluation.compare import kinds_of_run
    from selavi.inference.encode import best_device, encode_clips
    from selavi.inference.load import load_model, untrained_model
    from tools._moved import open_clips

    run, data = open_clips(folder, root)
    (loader, table), device = data.evaluation_loader(split, num_views), best_device(run.config.trainer.accelerator)
    trained = encode_clips(*load_model(run, device), loader, len(table), num_views)
    untrained = encode_clips(*untrained_model(run, device), loader, len(table), num_views)
    return kinds_of_run(trained, untrained, table["label"].to_pylist(), scaling), run.config.heads.num_clusters


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)

    def action() -> None:
        from selavi.evaluation import compare as cp
        from tools import cluster_eval, train
        from tools._checking_input import check_compare

        protocol = cp.Protocol(args.methods, args.seeds, args.scale, args.clusters, args.views)
        config, tools = check_compare(args), (train.main, cluster_eval.main)
        if args.recipes:
            rows = cp.train_recipes(args.recipes, args.seeds, config, args.settings, args.splits, args.out, *tools)
        elif args.runs:
            rows = cp.cluster_runs(args.runs, args.splits, protocol, lambda *what: encode_run(args.root, *what))
        else:
            rows = cp.cluster_arrays(args.arrays, args.ids, args.labels, protocol)
        print(cp.format_summary(rows))
        paths = cp.write_comparison(rows, args.out)
        print(f"\nfull figures: {paths[0]} and .csv; plot: {paths[2]}", file=sys.stderr)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
