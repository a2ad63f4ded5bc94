"""Write the clusters of a run as a table (Parquet, CSV) and as a page to browse, with sound and without a network."""

import argparse
import sys
from pathlib import Path


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="selavi-export-clusters", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument(
        "--split",
        default=None,
        help="which clips (default: those trained on); another one needs tools/cluster_eval.py RUN --split SPLIT first",
    )
    parser.add_argument(
        "--head",
        default="chosen",
        help="number of a head, or `chosen` (default): the one that agrees "
        "most with the others, or `all` for a table of every head",
    )
    parser.add_argument("--clips", type=int, default=12, help="clips a cluster on the page (default: 12)")
    return parser.parse_args(argv)


def export(args: argparse.Namespace) -> None:
    """Join labels and manifest, write the table and the page."""
    from datamodules.manifest import media_root, read_manifest
    from selavi.config import load_config
    from selavi.errors import UsageError
    from selavi.evaluation.head_choice import choose_head
    from selavi.export import assignments, cluster_table, read_labels, write_cluster_table
    from selavi.gallery.page import write_gallery

    if args.clips < 1:
        raise UsageError(f"--clips must be at least 1, got {args.clips}")
    if args.head not in ("chosen", "all") and not args.head.isdigit():
        raise UsageError(f"--head must be `chosen`, `all` or a number, got {args.head!r}")
    settings = args.run / "config.resolved.yaml"
    if not settings.exists():
        raise UsageError(f"{args.run} is not a run folder: it has no config.resolved.yaml")
    train_split = load_config(settings).data.train_split
    split = args.split or train_split
    labels = read_labels(args.run, split)
    chosen = choose_head(assignments(read_labels(args.run, train_split))).head
    head = int(args.head) if args.head.isdigit() else chosen
    manifest = read_manifest(args.run / "manifest.parquet")
    try:
        table = cluster_table(labels, manifest, None if args.head == "all" else head)
    except ValueError as error:
        raise UsageError(str(error)) from error
    parquet, csv = write_cluster_table(table, args.run)
    durations_s = dict(zip(manifest["id"].to_pylist(), manifest["duration_s"].to_pylist(), strict=True))
    page = write_gallery(
        table,
        media_root(manifest),
        args.run / "gallery",
        title=f"{args.run.resolve().name}, {split}",
        head=head,
        clips_per_cluster=args.clips,
        durations_s=durations_s,
    )
    print(f"table: {parquet}\n       {csv}\npage:  {page}  (open it in a browser)", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)
    from selavi.cli import run_tool

    return run_tool(lambda: export(args))


if __name__ == "__main__":
    sys.exit(main())
