"""What the tools that read media, lists, arrays or weights refuse before they begin; imports no torch."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from selavi.cli import CONFIGS
from selavi.config import DataConfig, find_config, load_config
from selavi.errors import UsageError
from selavi.evaluation.compare import RECIPES, check_recipes
from selavi.scores.baselines import require_clusters
from tools._checks import above_zero, at_least, list_file, output_folder, require, run_clips


def check_convert(args: argparse.Namespace, out: Path) -> None:
    """Raise UsageError for what tools/convert.py cannot do."""
    require(args.weights.exists(), f"{args.weights}: no such file or folder; expected a run, or weights")
    output_folder("--out", out)
    if "onnx" in args.to:
        missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
        names = " ".join(missing)
        require(not missing, f"--to onnx needs {names}, which this installation lacks: pip install {names}")


def check_scan(args: argparse.Namespace) -> DataConfig:
    """Raise UsageError for what tools/scan.py cannot do; returns its options as settings."""
    data = load_config(None, []).data
    for name in ("root", "list", "source", "clip_s", "audio_policy", "timeout_s", "cache_dir"):
        setattr(data, name, getattr(args, name))
    try:
        data.__post_init__()
    except ValueError as error:
        raise UsageError(str(error)) from error
    policies = ("require", "mask", "zeros")
    told = f"--audio-policy must be require, mask or zeros, got {args.audio_policy!r}"
    require(args.audio_policy in policies, told)
    at_least(args, workers=0)
    require(not args.out.is_dir(), f"--out {args.out} is a folder; name the file to write")
    output_folder("--out", args.out.parent)
    list_file(args.list, args.source)
    return data


def check_prepare(args: argparse.Namespace) -> None:
    """Raise UsageError for what tools/prepare.py cannot do, beside its settings."""
    from datamodules.stores.prepare import require_place

    above_zero(args, "timeout_s")
    at_least(args, workers=0)
    require_place(args.root, args.out)
    output_folder("OUT", args.out)
    list_file(args.list, args.source)


def check_compare(args: argparse.Namespace) -> Path:
    """Raise UsageError for what tools/compare.py cannot do; returns the configuration of the recipes."""
    config_path = find_config(args.config, CONFIGS)
    output_folder("--out", args.out)
    for seed in args.seeds:
        require(0 <= seed < 2**32, f"--seeds must be 0 to {2**32 - 1}, got {seed}")
    for name in ("seeds", "splits", "methods"):
        values = [str(value) for value in getattr(args, name)]
        require(len(set(values)) == len(values), f"--{name}: each of them once, got {' '.join(values)}")
    require(args.arrays or not (args.ids or args.labels), "--ids and --labels belong to --arrays; leave them out")
    if args.recipes:
        check_recipes(args.recipes, args.seeds)
        for name in args.recipes:
            load_config(config_path, [*args.settings, *RECIPES[name]])
    for folder in args.runs or ():
        for split in args.splits:
            config, rows = run_clips(folder, split, labelled=True)
            for method in args.methods:
                try:
                    require_clusters(len(rows), args.clusters or config.heads.num_clusters, method)
                except ValueError as error:
                    raise UsageError(f"{folder}, split {split}: {error}") from error
    return config_path
