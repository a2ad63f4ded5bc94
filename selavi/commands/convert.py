"""Write the weights of a run, or released ones, for other programs: safetensors with settings, torch.export, ONNX."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from selavi.cli import Command, Parser
from selavi.wording import command

PROGRAMS = {"torch": "model.pt2", "onnx": "model.onnx"}


@dataclass(frozen=True)
class ConvertArguments:
    """Which weights, and what to write."""

    weights: Path
    to: Sequence[str] = ("safetensors",)
    out: Path | None = None
    set: Sequence[str] = ()


@dataclass(frozen=True)
class ConvertResult:
    """What was read and written."""

    source: str
    modalities: Sequence[str]
    out: Path
    files: dict[str, Sequence[Path]]
    """By `safetensors`, `hub`, `torch`, `onnx`."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_example(command("convert", "runs/demo", "--to", "safetensors", "torch"))
    about = "a run folder; a folder written by this command; a file of the official SeLaVi release; or an R(2+1)D-18 "
    about += "of torchvision or XDC"
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help=about)
    about = "safetensors (default): weights.safetensors and config.yaml; hub: a folder for the Hugging Face Hub with "
    about += "a model card (nothing is uploaded); torch: model.pt2; onnx: model.onnx"
    parser.add_argument("--to", nargs="+", choices=["safetensors", "hub", *PROGRAMS], help=about)
    about = "folder to write into (default: RUN/export, or RUN/hub for hub alone; for a file, a folder here with the "
    about += "file's name)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    about = "settings that override those of the weights, such as audio.standardise=fixed"
    parser.add_argument("--set", nargs="+", metavar="section.key=value", help=about)


def convert(arguments: ConvertArguments) -> ConvertResult:
    """Load and write."""
    from selavi.runs.folder import RunFolder

    weights = arguments.weights
    folder = RunFolder(weights)
    own = folder.hub if list(arguments.to) == ["hub"] else folder.export
    out = arguments.out or (own if weights.is_dir() else Path(weights.name.split(".")[0]))
    _check(arguments, out)
    from selavi.pretrained import export_onnx, export_program, load, write_hub, write_weights
    from selavi.pretrained.hub import read_facts

    loaded = load(weights, arguments.set)
    files: dict[str, Sequence[Path]] = {}
    if "safetensors" in arguments.to:
        files["safetensors"] = write_weights(loaded, out)
    if "hub" in arguments.to:
        is_run = folder.manifest.exists()
        files["hub"] = write_hub(loaded, out, read_facts(weights) if is_run else None)
    for kind, export in (("torch", export_program), ("onnx", export_onnx)):
        if kind in arguments.to:
            export(loaded, out / PROGRAMS[kind])
            files[kind] = (out / PROGRAMS[kind],)
    return ConvertResult(loaded.source, list(loaded.config.kinds), out, files)


def _check(arguments: ConvertArguments, out: Path) -> None:
    """Refuse what cannot be done."""
    from selavi.commands.checks import output_folder, require

    weights = arguments.weights
    require(weights.exists(), f"{weights}: no such file or folder; expected a run, or weights")
    output_folder("--out", out)
    if "onnx" in arguments.to:
        missing = " ".join(name for name in ("onnx", "onnxscript") if find_spec(name) is None)
        require(not missing, f"--to onnx needs {missing}, which this installation lacks: pip install {missing}")


def show(result: ConvertResult) -> None:
    """Say what was written, and what can be done with it."""
    print(f"{result.source}: {' and '.join(result.modalities)}", file=sys.stderr)
    for kind, paths in result.files.items():
        title = "weights:" if kind == "safetensors" else f"{kind}:"
        for path in paths:
            print(f"{title:8} {path}", file=sys.stderr)
            title = ""
    if "safetensors" in result.files:
        config = result.out / "config.yaml"
        train = command("train", "--config", config, f"encoders.init={result.out}", "data.root=...", "run_dir=...")
        print(f"Next: train from them   {train}", file=sys.stderr)
        print(f"      in Python         selavi.pretrained.load({str(result.out)!r})", file=sys.stderr)
    if "hub" in result.files:
        print(f"Next: choose a licence  in {result.out / 'README.md'}, and read what else it says", file=sys.stderr)
        print(f"      in Python         selavi.load({str(result.out)!r})", file=sys.stderr)


COMMAND = Command("convert", __doc__, ConvertArguments, add_arguments, convert, show)
