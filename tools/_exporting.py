"""What tools/export_clusters.py does; imported late, for its imports are slow."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.manifest import read_manifest
from datamodules.progress import follow
from datamodules.workers import run_jobs
from selavi.atomic import hold
from selavi.config import load_config
from selavi.errors import UsageError
from selavi.evaluation.head_choice import choose_head
from selavi.export import assignments, cluster_table, read_labels, write_cluster_table
from selavi.gallery.build import Each
from selavi.gallery.layout import require_method
from selavi.naming import Names, apply_names, read_names, write_names
from tools._gallery import gallery

_DEADLINE_S, _WRITING_S = 120.0, 3600.0
_MEMORY_BYTES = 4 << 30


def export(args: argparse.Namespace) -> None:
    """Join labels, manifest and names, write the tables, then the gallery."""
    settings = args.run / "config.resolved.yaml"
    if not settings.exists():
        raise UsageError(f"{args.run} is not a run folder: it has no config.resolved.yaml")
    require_method(args.map)
    config = load_config(settings)
    split = args.split or config.data.train_split
    labels, manifest = read_labels(args.run, split), read_manifest(args.run / "manifest.parquet")
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
        names = _names(args.run / "names.csv", args.names)
        table = apply_names(table, names)
        parquet, csv = write_cluster_table(table, args.run, spreadsheet_safe=args.spreadsheet_safe)
        report = gallery(args, config, split, labels, manifest, head, choice, names, pool(config.data.scan_workers))
    print("\n".join(report.lines()), file=sys.stderr)
    print(f"table: {parquet}\n       {csv}\npage:  {report.page}  (open it in a browser)", file=sys.stderr)
    print(f"Next: name clusters in the page, download names.csv, then\n      {_next(args)}", file=sys.stderr)


def pool(workers: int) -> Each:
    """Runs the gallery's jobs in processes that may die, and shows how far they are."""

    def each(function: Callable[[Any], str], jobs: Iterable[Any], total: int, what: str) -> Iterator[tuple[int, Any]]:
        if not total:
            return iter(())
        deadline_s = _WRITING_S if what.endswith(" media") else _DEADLINE_S
        done = run_jobs(function, jobs, workers=workers, deadline_s=deadline_s, memory_bytes=_MEMORY_BYTES)
        return follow(done, what, total, unit="clips")

    return each


def _names(kept: Path, given: Path | None) -> Names:
    """The run's names, which those of a given file replace; earlier ones stay as names.1.csv, names.2.csv ..."""
    names = read_names(given or kept) if given or kept.exists() else Names([])
    if given and not (kept.exists() and kept.read_bytes() == given.read_bytes()):
        if kept.exists():
            kept.rename(kept.with_name(f"names.{1 + sum(1 for _ in kept.parent.glob('names.*.csv'))}.csv"))
        write_names(names, kept)
    return names


def _next(args: argparse.Namespace) -> str:
    split = f" --split {args.split}" if args.split else ""
    return f"python tools/export_clusters.py {args.run}{split} --names names.csv"
