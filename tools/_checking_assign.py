"""What tools/assign.py refuses before it begins; imports no torch."""

import argparse
import os

from selavi.config import load_run_config
from selavi.results.naming import read_names
from tools._checks import at_least, output_folder, require


def check_assign(args: argparse.Namespace) -> None:
    """Raise UsageError for what tools/assign.py cannot do; which heads judge is checked with the run's labels."""
    at_least(args, views=1, nearest=0, shard_clips=1, workers=0)
    fraction = args.max_bad_fraction
    require(fraction is None or 0 <= fraction <= 1, f"--max-bad-fraction must be in [0, 1], got {fraction}")
    told = "expected files or folders to label, or --merge-only with --out"
    require(args.paths or (args.merge_only and args.out), told)
    config = load_run_config(args.run)
    for name in args.modalities or ():
        told = f"--modalities {name}: the run was trained on {' and '.join(config.modalities)} alone"
        require(name in config.modalities, told)
    fits = args.head in ("chosen", "all") or (args.head.isdecimal() and int(args.head) < config.num_label_heads)
    told = f"--head must be `chosen`, `all` or one of 0 to {config.num_label_heads - 1}, got {args.head!r}"
    require(fits, told)
    for path in args.paths:
        require("://" in path or os.path.lexists(path), f"{path}: no such file or folder")
    output_folder("--out", args.out or args.run / "assigned")
    if (args.run / "names.csv").exists():
        read_names(args.run / "names.csv")
