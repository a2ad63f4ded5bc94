"""Probe every file of a media folder: a manifest, and a triage report that says which files cannot be used and why."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    epilog = "Nothing is written into ROOT. An interrupted scan goes on where it was when it is started again, and "
    epilog += "training with the same --cache-dir probes nothing twice. Example: python tools/scan.py /my/videos"
    parser = Parser("scan", __doc__, epilog)
    parser.add_argument("root", type="path", metavar="ROOT", help="folder of media")
    parser.add_argument("--list", type="path", default="", help="official list: only its clips count (data.list)")
    parser.add_argument("--source", default="auto", help="format of the list (data.source; default: by its content)")
    layouts, about = ("auto", "classes", "splits", "flat"), "what folders mean (data.layout; default: by their names)"
    parser.add_argument("--layout", choices=layouts, default="auto", help=about)
    parser.add_argument("--clip-s", type=float, default=1.0, help="seconds of a clip (default: 1.0)")
    about = "require, mask or zeros, of clips without sound (default: mask)"
    parser.add_argument("--audio-policy", default="mask", help=about)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one for each core (default)")
    parser.add_argument("--timeout-s", type=float, default=30.0, help="processor seconds a file may take (default: 30)")
    parser.add_argument("--allow-links", action="store_true", help="follow links that lead out of ROOT")
    parser.add_argument("--retry", action="store_true", help="probe files again that could not be used the last time")
    about = "kept between scans (default: .selavi-cache)"
    parser.add_argument("--cache-dir", type="path", default=".selavi-cache", help=about)
    parser.add_argument("--out", type=Path, default=Path("manifest.parquet"), help="default: manifest.parquet")
    return parser.parse_args(argv)


def scan_folder(args: argparse.Namespace) -> None:
    """Scan, judge, write the manifest and the report, say what to do next."""
    from datamodules.index.layout import describe_layout
    from datamodules.index.manifest import judge, write_manifest
    from datamodules.index.scan import other_suffixes, require_media, scan
    from datamodules.index.sources import apply_list, describe_list
    from datamodules.index.triage import triage
    from selavi.atomic import locked, write_text
    from selavi.modalities import MODALITIES
    from selavi.wording import command
    from tools._checking_input import check_scan

    data = check_scan(args)
    root, cache_dir = Path(data.root), Path(data.cache_dir)
    require_media(root, args.allow_links)
    with locked(cache_dir / "lock"):
        how = {"allow_links": args.allow_links, "retry": args.retry, "layout": args.layout}
        manifest = scan(root, cache_dir, args.workers, deadline_s=args.timeout_s, **how)
    manifest, told = apply_list(manifest, args.list, args.source)
    manifest = judge(manifest, clip_s=args.clip_s, audio_policy=args.audio_policy, modalities=MODALITIES)
    lines = (*describe_layout(manifest), other_suffixes(manifest), told, describe_list(manifest))
    report = triage(manifest, clip_s=args.clip_s, audio_policy=args.audio_policy, told=lines)
    write_manifest(manifest, args.out)
    write_text(args.out.with_name("triage.md"), report)
    print(report)
    print(f"manifest: {args.out}\nreport: {args.out.with_name('triage.md')}", file=sys.stderr)
    settings = [f"data.root={args.root}", *([f"data.list={args.list}"] if args.list else [])]
    settings += [f"data.layout={args.layout}"] if args.layout != "auto" else []
    print(f"Next: train   {command('train', '--config', 'small', *settings)}", file=sys.stderr)
    print(f"      or re-encode for speed first   {command('prepare', args.root, 'OUT')}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)
    return run_tool(lambda: scan_folder(args))


if __name__ == "__main__":
    sys.exit(main())
