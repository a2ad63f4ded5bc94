"""Write the clusters of a run as tables (Parquet, CSV) and as a gallery: a page to see, hear and name them, offline."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    example = "Example: python tools/export_clusters.py runs/demo --split test --media copy --map tsne"
    parser = Parser("export-clusters", __doc__, example, movable=True)
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    about = "which clips (default: those trained on); another one needs tools/cluster_eval.py RUN --split SPLIT first"
    parser.add_argument("--split", help=about)
    about = "number of a head, or `chosen` (default): the one that agrees most with the others, or `all` for a table "
    about += "of every head; the page has all heads and opens with this one"
    parser.add_argument("--head", default="chosen", help=about)
    about = "clips of a cluster with a thumbnail (default: 24: half of them typical, a quarter borderline, a quarter "
    about += "odd), or `all`; with --media copy or transcode, also those whose media are written"
    parser.add_argument("--clips", default="24", help=about)
    about = "how the page plays clips: `link` (default) to the files where they are, `copy` of them in the gallery's "
    about += "folder, or `transcode` to small .mp4 files that every browser plays"
    parser.add_argument("--media", choices=("link", "copy", "transcode"), default="link", help=about)
    about = "how the map is drawn (default: pca); umap needs pip install 'selavi[map]'; `none` encodes no clips, so "
    about += "that there are no nearest clusters either"
    parser.add_argument("--map", choices=("pca", "umap", "tsne", "none"), default="pca", help=about)
    about = "clips of a cluster with an overlay: where and when the evidence for it lies (default: 4; 0: none)"
    parser.add_argument("--evidence", type=int, default=4, metavar="N", help=about)
    about = "a names.csv that the page has written: becomes RUN/names.csv, which tables and page then follow"
    parser.add_argument("--names", type=Path, metavar="FILE", help=about)
    about = "put a ' before CSV cells that a spreadsheet might run as formulas; ids that begin with - or = then change"
    parser.add_argument("--spreadsheet-safe", action="store_true", help=about)
    about = (
        "also write RUN/handover/FORMAT: fiftyone, videofolder, cvat, labelstudio, spotlight, embedding-atlas, features"
    )
    parser.add_argument("--to", nargs="+", default=[], metavar="FORMAT", help=about)
    return parser.parse_with_root(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)

    def action() -> None:
        from tools._checking_runs import check_export

        check_export(args)
        from tools._exporting import export

        export(args)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
