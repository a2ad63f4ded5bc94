"""Measure the clusters of a run: NMI, ARI, accuracy and more, for every head and for the one chosen without labels."""

import argparse
import sys
from pathlib import Path


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="selavi-cluster-eval", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument("--split", default="train", help="which clips to measure on (default: train)")
    parser.add_argument(
        "--views",
        type=int,
        default=3,
        help="evenly spaced views of each clip whose log-probabilities are averaged (default: 3)",
    )
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> None:
    """Predict every clip of the split, score, print the table, write the JSON and the labels."""
    from selavi.errors import UsageError

    if args.views < 1:
        raise UsageError(f"--views must be at least 1, got {args.views}")

    from datamodules.clips import ClipDataModule, cached
    from selavi.evaluation.predict import predict
    from selavi.evaluation.report import evaluate_heads, format_table, write_metrics
    from selavi.training.run import load_model, load_run, write_labels

    run = load_run(args.run)
    data = ClipDataModule(run.config, run.manifest, cached(run.config, run.manifest))
    loader, rows = data.evaluation_loader(args.split, args.views)
    model, augment = load_model(run)
    bank = run.checkpoint["label_bank"]
    predictions = predict(model, augment, loader, len(rows), args.views, run.config, bank["potentials"])
    ids = rows["id"].to_pylist()
    if args.split != run.config.data.train_split:  # those have the labels of the last labelling already
        write_labels(run.folder, args.split, ids, predictions.clusters, predictions.sure)
    result = evaluate_heads(
        args.split,
        predictions.clusters.numpy(),
        rows["label"].to_pylist(),
        bank["labels"].numpy(),
        run.config.heads.num_clusters,
    )
    path = write_metrics(result, run.folder)
    print(format_table(result))
    print(
        f"\nfull figures: {path}\nNext: browse   python tools/export_clusters.py {run.folder}",
        file=sys.stderr,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)
    from selavi.cli import run_tool

    return run_tool(lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
