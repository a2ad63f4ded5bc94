"""Write the weights of a run, or released ones, for other programs: safetensors and settings, torch.export, ONNX."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser, run_tool

FILES = {"torch": "model.pt2", "onnx": "model.onnx"}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser("convert", __doc__, "Example: python tools/convert.py runs/demo --to safetensors torch")
    parser.add_argument(
        "weights",
        type=Path,
        help="a run folder; a folder that this tool wrote; a file of the official SeLaVi release, or an R(2+1)D-18 of "
        "torchvision or XDC",
    )
    parser.add_argument(
        "--to",
        nargs="+",
        choices=["safetensors", *FILES],
        default=["safetensors"],
        help="safetensors: weights.safetensors and config.yaml (default); torch: model.pt2; onnx: model.onnx",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="folder to write into (default: RUN/export, or for a file its name without ending, here)",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="section.key=value",
        help="settings that override those of the weights, such as audio.standardise=fixed",
    )
    return parser.parse_args(argv)


def convert(args: argparse.Namespace) -> None:
    """Load, write, say what can be done with it."""
    from tools._checking_input import check_convert

    out = args.out or (args.weights / "export" if args.weights.is_dir() else Path(args.weights.name.split(".")[0]))
    check_convert(args, out)
    from selavi.pretrained import export_onnx, export_program, load, write_weights
    from selavi.wording import command

    loaded = load(args.weights, args.set)
    print(f"{loaded.source}: {' and '.join(loaded.config.modalities)}", file=sys.stderr)
    if "safetensors" in args.to:
        print("weights: {}\n         {}".format(*write_weights(loaded, out)), file=sys.stderr)
    for kind, export in (("torch", export_program), ("onnx", export_onnx)):
        if kind in args.to:
            export(loaded, out / FILES[kind])
            print(f"{kind + ':':8} {out / FILES[kind]}", file=sys.stderr)
    if "safetensors" in args.to:
        words = ["--config", out / "config.yaml", f"encoders.init={out}", "data.root=...", "run_dir=..."]
        print(f"Next: train from them   {command('train', *words)}", file=sys.stderr)
        print(f"      in Python         selavi.pretrained.load({str(out)!r})", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(argv)
    return run_tool(lambda: convert(args))


if __name__ == "__main__":
    sys.exit(main())
