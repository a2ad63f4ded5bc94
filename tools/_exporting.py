"""What tools/export_clusters.py does; imported late, for its imports are slow."""

import argparse
import sys
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc

from datamodules.index.manifest import media_root, read_manifest
from datamodules.index.moved import at_root
from selavi.atomic import hold, next_free
from selavi.config import load_run_config
from selavi.errors import UsageError
from selavi.results.cluster_table import assignments, cluster_table, read_labels, write_cluster_table
from selavi.results.gallery.select import arrange
from selavi.results.handover import hand_over
from selavi.results.naming import Names, apply_names, read_names, write_names
from selavi.scores.head_choice import choose_head
from selavi.wording import command
from tools._about import Found
from tools._features import features_of
from tools._gallery import gallery

_NEED_FEATURES = {"features", "embedding-atlas", "spotlight"}


def export(args: argparse.Namespace) -> None:
    """Join labels, manifest and names, write the tables, then the gallery."""
    config, manifest = at_root(load_run_config(args.run), read_manifest(args.run / "manifest.parquet"), args.root)
    split = args.split or config.data.train_split
    labels = read_labels(args.run, split)
    choice = choose_head(assignments(read_labels(args.run, config.data.train_split)))
    head = int(args.head) if args.head.isdigit() else choice.head
    try:
        table = cluster_table(labels, manifest, None if args.head == "all" else head)
    except ValueError as error:
        raise UsageError(str(error)) from error
    lock = hold(args.run / ".export.lock")
    if lock is None:
        raise UsageError(f"another process exports {args.run}; wait for it")
    with lock:
        table = apply_names(table, names := _names(args.run / "names.csv", args.names))
        parquet, csv = write_cluster_table(table, args.run, spreadsheet_safe=args.spreadsheet_safe)
        clips, heads = arrange(labels, manifest)
        wanted = args.map != "none" or set(args.to) & _NEED_FEATURES
        found = features_of(args.run, split, clips["id"], args.root) if wanted else ({}, "left out (--map none)")
        facts = Found(config, split, manifest, clips, heads, *found, head, choice.scores["agreement"], names)
        report = gallery(args, facts)
        print("\n".join(report.lines()), file=sys.stderr)
        print(f"table: {parquet}\n       {csv}\npage:  {report.page}  (open it in a browser)", file=sys.stderr)
        if args.to:
            one = table.filter(pc.equal(table["head"], head))
            durations_s = dict(zip(clips["id"].to_pylist(), clips["duration_s"].to_pylist(), strict=True))
            given = {name: (clips["id"], values) for name, values in found[0].items()}
            link: Literal["relative", "copy"] = "copy" if args.media == "copy" else "relative"
            root, out_dir = media_root(manifest), args.run / "handover"
            hand_over(one, args.to, out_dir, media_root=root, durations_s=durations_s, features=given, link=link)
            print(f"for {', '.join(args.to)}: see {out_dir / 'README.txt'}", file=sys.stderr)
    if not args.names:
        words = [args.run, *(("--split", args.split) if args.split else ())]
        again = command("export_clusters", *words, "--names", "names.csv")
        print(f"Next: name clusters in the page, save names.csv, then {again}", file=sys.stderr)


def _names(kept: Path, given: Path | None) -> Names:
    """The run's names, which those of a given file replace; earlier ones stay as names.1.csv, names.2.csv ..."""
    names = read_names(given or kept) if given or kept.exists() else Names([])
    if given and not (kept.exists() and kept.read_bytes() == given.read_bytes()):
        if kept.exists():
            kept.rename(next_free(kept))
        write_names(names, kept)
    return names
