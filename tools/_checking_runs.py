"""What the tools that measure or show runs refuse before they begin; imports no torch."""

import argparse
from pathlib import Path

import numpy as np

from selavi.config import Config
from selavi.results.cluster_table import agreement_of_modalities
from selavi.results.gallery.layout import require_method
from selavi.results.handover import FORMATS
from selavi.results.naming import read_names
from tools._checks import at_least, output_folder, require, run_clips

_RUNS_ONLY = {"merge": [], "yardsticks": False, "report": False, "choose": "agreement", "split": "train", "views": 3}


def check_eval(args: argparse.Namespace) -> None:
    """Raise UsageError for what tools/cluster_eval.py cannot do."""
    at_least(args, views=1)
    told = "expected run folders, or --clusters FILE and --labels FILE together"
    require(bool(args.runs) == (not args.clusters) == (not args.labels), told)
    if args.clusters:
        for name, default in _RUNS_ONLY.items():
            told = f"--{name} is for run folders; the clusters of a file are scored as they are"
            require(getattr(args, name) == default, told)
    for run in args.runs:
        config, _ = run_clips(run, args.split)
        output_folder("the run folder", run / "eval")
        _check_merge(config, args.merge)
        if args.choose == "modalities":
            shared = agreement_of_modalities(run, config.data.train_split)
            both = shared is not None and np.isfinite(shared).any()
            require(both, f"--choose modalities: no label of {run} comes from two modalities; choose by agreement")


def _check_merge(config: Config, merge: list[int]) -> None:
    most = config.heads.num_clusters
    for number in merge:
        fits = 1 <= number <= most
        require(fits, f"--merge {number}: the run has {most} clusters, which can be merged to 1 to {most}")
    told = "--merge: clusters are merged by what other heads make of them, and the run has one head"
    require(not merge or config.num_label_heads > 1, told)


def check_export(args: argparse.Namespace) -> None:
    """Raise UsageError for what tools/export_clusters.py cannot do."""
    fits = args.clips == "all" or (args.clips.isdecimal() and int(args.clips) > 0)
    require(fits, f"--clips must be at least 1, or `all`, got {args.clips}")
    at_least(args, evidence=0)
    fits = args.head in ("chosen", "all") or args.head.isdecimal()
    require(fits, f"--head must be `chosen`, `all` or a number, got {args.head!r}")
    for name in args.to:
        require(name in FORMATS, f"--to {name}: expected some of {', '.join(FORMATS)}")
    require_method(args.map)
    config, _ = run_clips(args.run, args.split)
    heads = list(range(config.num_label_heads))
    fits = not args.head.isdecimal() or int(args.head) in heads
    require(fits, f"expected one of the heads {heads}, got {args.head}")
    output_folder("the run folder", args.run)
    kept = args.run / "names.csv"
    if args.names or kept.exists():
        read_names(args.names or kept)


def check_degrade(args: argparse.Namespace) -> None:
    """Raise UsageError for what tools/degrade.py cannot do; its corruptions are checked where they are known."""
    at_least(args, views=1, seed=0)
    output_folder("--out", args.out)
    folders = [Path(word.rpartition("=")[2]) for word in args.runs]
    configs = [run_clips(folder, args.split, labelled=True)[0] for folder in folders]
    for kind in args.kmeans:
        fits = any(set(kind.split("+")) <= set(config.modalities) for config in configs)
        require(fits, f"--kmeans {kind}: none of the runs was trained on {' and '.join(kind.split('+'))}")
