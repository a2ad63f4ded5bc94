"""Re-encode a folder of media once, so that training reads it fast: tar shards, or small files."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    example = "Example: python tools/prepare.py /data/vggsound /data/vggsound-shards --size 144 --workers 16"
    parser = Parser("prepare", __doc__, example)
    parser.add_argument("root", type=Path, help="folder of media; nothing is changed there")
    parser.add_argument("out", type=Path, help="folder to write; empty, or left by an interrupted run: it goes on")
    parser.add_argument("--format", default="shards", help="shards (default): tar, JPEG and int16; files: small .mp4")
    parser.add_argument("--size", type=int, default=128, help="pixels of the short side (default: 128)")
    parser.add_argument("--aspect", type=float, default=0, help="longest side kept, in short ones; 0: all (default)")
    parser.add_argument("--fps", type=float, default=0, help="keep at most so many frames a second (default: all)")
    parser.add_argument("--sample-rate", type=int, default=24000, help="of the sound (default: 24000)")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG frames, 1 to 100 (default: 90)")
    parser.add_argument("--shard-mb", type=int, default=256, help="megabytes of a shard, roughly (default: 256)")
    parser.add_argument(
        "--list", type="path", default="", help="official list or table: only its clips, with its splits and labels"
    )
    parser.add_argument("--source", default="auto", help="format of the list (default: found out)")
    about = "what folders mean (data.layout; default: by their names)"
    parser.add_argument("--layout", choices=("auto", "classes", "splits", "flat"), default="auto", help=about)
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one for each core)")
    parser.add_argument("--timeout-s", type=float, default=600, help="processor seconds for one clip (default: 600)")
    parser.add_argument("--cache-dir", type=Path, default=Path(".selavi-cache"), help="where scans are kept")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Scan, join the list, prepare, say what came out."""
    from datamodules.index.layout import describe_layout
    from datamodules.index.scan import other_suffixes, scan
    from datamodules.stores.prepare import PrepareSettings, describe_summary, prepare
    from tools._checking_input import check_prepare

    settings = PrepareSettings(
        args.format, args.size, args.aspect, args.fps, args.sample_rate, args.quality, args.shard_mb
    )
    check_prepare(args)
    manifest, told = scan(args.root, args.cache_dir, args.workers, layout=args.layout), ""
    if args.list:
        from datamodules.index.sources import apply_list

        manifest, told = apply_list(manifest, args.list, args.source)
    print(*filter(None, (*describe_layout(manifest), other_suffixes(manifest), told)), sep="\n", file=sys.stderr)
    summary = prepare(manifest, args.out, settings, workers=args.workers, deadline_s=args.timeout_s)
    print(describe_summary(summary, args.out, settings), file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)
    return run_tool(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
