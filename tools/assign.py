"""Label new clips with the clusters of a run: files, folders, a manifest or shards; picture, sound or both."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    epilog = "Stopped or killed, the same command goes on where it was. Many processes share the work: --task i/n, "
    epilog += "a SLURM array or torchrun; see docs/assign.md. Example: python tools/assign.py runs/mine /my/new/videos"
    parser = Parser("assign", __doc__, epilog)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/demo")
    about = "files and folders; or one manifest (.parquet); or one folder (or URL) of tools/prepare.py"
    parser.add_argument("paths", type="path", nargs="*", metavar="PATH", help=about)
    parser.add_argument("--out", type=Path, help="folder of the results (default: RUN/assigned/NAME of the first PATH)")
    about = "balanced (default): the plan row with the training's potentials, as tools/cluster_eval.py; likeliest: the "
    about += "largest probability of the heads"
    parser.add_argument("--rule", choices=("balanced", "likeliest"), default="balanced", help=about)
    about = "`chosen` (default): the one that agrees most with the others; a number; or `all`"
    parser.add_argument("--head", default="chosen", help=about)
    about = "evenly spaced views of each clip whose log-probabilities are averaged (default: 3)"
    parser.add_argument("--views", type=int, default=3, help=about)
    parser.add_argument("--nearest", type=int, default=3, help="next best clusters to name (default: 3)")
    about = "judge by these alone, such as `--modalities video` (default: all that the run and the clip have)"
    parser.add_argument("--modalities", nargs="+", choices=("video", "audio"), help=about)
    parser.add_argument("--features", action="store_true", help="also OUT/features/SHARD.safetensors")
    parser.add_argument("--shard-clips", type=int, default=1000, help="clips of one output file (default: 1000)")
    about = "take the share i (from 0) of n; default: what SLURM's array or torchrun says, else everything"
    parser.add_argument("--task", metavar="i/n", help=about)
    parser.add_argument("--workers", type=int, help="processes that decode; 0: this one (default: one for each core)")
    about = "a larger share of unusable files ends with exit code 3 (default: data.max_bad_fraction of the run)"
    parser.add_argument("--max-bad-fraction", type=float, help=about)
    parser.add_argument("--allow-links", action="store_true", help="follow links that lead out of a folder")
    about = "what folders below a PATH mean (data.layout; default: by their names)"
    parser.add_argument("--layout", choices=("auto", "classes", "splits", "flat"), default="auto", help=about)
    about = "put a ' before CSV cells that a spreadsheet would run; such ids are then no longer the ids"
    parser.add_argument("--spreadsheet-safe", action="store_true", help=about)
    about = "label nothing: merge what is there, with RUN/names.csv"
    parser.add_argument("--merge-only", action="store_true", help=about)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)

    def action() -> None:
        from tools._checking_assign import check_assign

        check_assign(args)
        from tools._assigning import assign

        assign(args)

    return run_tool(action)


if __name__ == "__main__":
    sys.exit(main())
