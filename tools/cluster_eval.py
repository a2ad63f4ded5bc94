"""Measure the clusters of runs, for every head and the label-free choice, or those of a file: NMI, ARI, accuracy ..."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    epilog = "Examples: python tools/cluster_eval.py runs/demo --split test --report; "
    epilog += "python tools/cluster_eval.py --clusters theirs.csv --labels truth.csv"
    parser = Parser("cluster-eval", __doc__, epilog, movable=True)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run folders, such as runs/demo")
    parser.add_argument("--clusters", type=Path, help="instead of runs: CSV or Parquet of anyone's (id, cluster)")
    parser.add_argument("--labels", type=Path, help="CSV or Parquet of (id, label) for the clips of --clusters")
    parser.add_argument("--split", default="train", help="which clips to measure on (default: train)")
    about = "evenly spaced views of each clip whose log-probabilities are averaged (default: 3)"
    parser.add_argument("--views", type=int, default=3, help=about)
    about = "also K-means on mean colour, loudness, file size and duration: what a back door would give"
    parser.add_argument("--yardsticks", action="store_true", help=about)
    about = "how a head is chosen without labels: by agreement with the other heads (default), by what both "
    about += "modalities' probabilities share, or by how well a linear classifier on the features finds its clusters"
    parser.add_argument("--choose", choices=("agreement", "modalities", "probe"), default="agreement", help=about)
    about = "also merge the clusters to K, by what the other heads make of them, and say how the heads then agree"
    parser.add_argument("--merge", type=int, nargs="+", default=[], metavar="K", help=about)
    parser.add_argument("--report", action="store_true", help="also a page with figures: RUN/eval/report_SPLIT.html")
    return parser.parse_with_root(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)

    def action() -> None:
        from tools._checking_runs import check_eval

        check_eval(args)
        if args.clusters:
            from selavi.evaluation.external import evaluate_files, format_scores

            return print(format_scores(evaluate_files(args.clusters, args.labels)))
        from selavi.evaluation.report import format_comparison, format_table
        from selavi.wording import command
        from tools._measuring import evaluate

        results = {str(run): evaluate(run, args) for run in args.runs}
        print(format_table(next(iter(results.values()))) if len(results) == 1 else format_comparison(results))
        where = " ".join(f"{run}/eval/metrics_{args.split}.json" for run in args.runs)
        print(f"\nfull figures: {where}", file=sys.stderr)
        split = ("--split", args.split) if args.split != "train" else ()
        print(f"Next: browse   {command('export_clusters', args.runs[0], *split)}", file=sys.stderr)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
