"""Measure the clusters of one or more runs: NMI, ARI, accuracy, purity, for every head and the label-free choice."""

import argparse
import sys
from pathlib import Path
from typing import Any


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="selavi-cluster-eval", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, such as runs/demo")
    parser.add_argument("--split", default="train", help="which clips to measure on (default: train)")
    parser.add_argument(
        "--views",
        type=int,
        default=3,
        help="evenly spaced views of each clip whose log-probabilities are averaged (default: 3)",
    )
    parser.add_argument(
        "--yardsticks",
        action="store_true",
        help="also K-means on mean colour, loudness, file size and duration: what a back door would give",
    )
    parser.add_argument("--report", action="store_true", help="also a page with figures: RUN/eval/report_SPLIT.html")
    return parser.parse_args(argv)


def evaluate(run_dir: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Predict every clip of the split, score, write the JSON and the labels."""
    from datamodules.clips import ClipDataModule, cached
    from selavi.evaluation.predict import predict
    from selavi.evaluation.report import evaluate_heads, write_metrics, yardsticks
    from selavi.evaluation.report_page import write_report
    from selavi.training.run import load_model, load_run, write_labels

    run = load_run(run_dir)
    config, bank = run.config, run.checkpoint["label_bank"]
    data = ClipDataModule(config, run.manifest, cached(config, run.manifest))
    loader, rows = data.evaluation_loader(args.split, args.views)
    model, augment = load_model(run)
    predictions = predict(model, augment, loader, len(rows), args.views, config, bank["potentials"])
    paths, rows = rows["path"].to_pylist(), rows.take(predictions.rows.numpy())  # without undecodable clips
    if args.split != config.data.train_split:  # those have the labels of the last labelling already
        write_labels(run.folder, args.split, rows["id"].to_pylist(), predictions.clusters, predictions.sure)
    labels, num_clusters = rows["label"].to_pylist(), config.heads.num_clusters
    result = evaluate_heads(args.split, predictions.clusters.numpy(), labels, bank["labels"].numpy(), num_clusters)
    result["undecodable"] = {paths[row]: reason for row, reason in predictions.errors.items()}
    if args.yardsticks and result["labelled"]:
        from datamodules.yardsticks import crude_features

        result["yardsticks"] = yardsticks(crude_features(rows, data.cache), labels, num_clusters, config.seed)
    write_metrics(result, run.folder)
    if args.report:
        print(f"report: {write_report(run.folder, result, predictions, labels, config)}", file=sys.stderr)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)
    from selavi.cli import run_tool
    from selavi.errors import UsageError

    def action() -> None:
        if args.views < 1:
            raise UsageError(f"--views must be at least 1, got {args.views}")
        from selavi.evaluation.report import format_comparison, format_table

        results = {str(run): evaluate(run, args) for run in args.runs}
        print(format_table(next(iter(results.values()))) if len(results) == 1 else format_comparison(results))
        where = " ".join(f"{run}/eval/metrics_{args.split}.json" for run in args.runs)
        print(f"\nfull figures: {where}", file=sys.stderr)
        print(f"Next: browse   python tools/export_clusters.py {args.runs[0]}", file=sys.stderr)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
