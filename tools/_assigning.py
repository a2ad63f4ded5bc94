"""What tools/assign.py does; imported late, for its imports are slow."""

import argparse
import json
import os
import sys
from functools import partial
from typing import Any

from datamodules.index.new_clips import LOCK, SETTINGS, ClipList, default_out, fix_list, list_clips, task_of
from datamodules.progress import follow
from selavi.atomic import locked
from selavi.errors import UsageError
from selavi.inference import assigned
from selavi.inference.encode import best_device
from selavi.inference.load import load_model
from selavi.results.naming import read_names
from selavi.runs.record import Run, load_run


def assign(args: argparse.Namespace) -> None:
    """Label this task's shards, those that are not there yet; merge where all are there."""
    (number, count), run = task_of(args.task, os.environ), load_run(args.run)
    config, bank, out = run.config, run.checkpoint["label_bank"], args.out or default_out(args.run, args.paths)
    if args.merge_only:
        if not (out / SETTINGS).exists():
            raise UsageError(f"{out} was not made by this tool: it has no {SETTINGS}")
        settings = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    else:
        modalities = assigned.choose_modalities(args.modalities, config)
        settings = {
            "run": assigned.settings_digest(config, run.checkpoint["state_dict"], bank["potentials"]),
            "paths": [path if "://" in path else os.path.abspath(path) for path in args.paths],
            **{name: getattr(args, name) for name in ("rule", "views", "features", "shard_clips", "layout")},
            "heads": assigned.choose_columns(args.head, bank["labels"].numpy(), config, modalities),
            "nearest": min(args.nearest, config.heads.num_clusters - 1),
            "modalities": modalities,
        }
        fix_list(
            out, settings, partial(list_clips, args.paths, config, "audio" in modalities, args.allow_links, args.layout)
        )
    clips = ClipList(out, config, settings["modalities"], settings["shard_clips"])
    limit = config.data.max_bad_fraction if args.max_bad_fraction is None else args.max_bad_fraction
    if not args.merge_only and (todo := clips.todo(number, count)):
        _label(run, clips, todo, settings, limit, args.workers)
    missing = clips.num_shards - len(clips.done())
    if missing and args.merge_only:
        raise UsageError(f"{missing} of {clips.num_shards} shards in {out} are not labelled yet: label them first")
    if missing:
        told = f"{missing} of {clips.num_shards} shards in {out} are still to come; the task that ends last merges them"
        return print(f"task {number}/{count} is done: {told}", file=sys.stderr)
    _merge(run, clips, settings, limit, args.spreadsheet_safe)


def _label(
    run: Run, clips: ClipList, todo: list[int], settings: dict[str, Any], limit: float, workers: int | None
) -> None:
    print(f"{clips.out}: {clips.num_clips} clips; {len(todo)} of {clips.num_shards} shards to do here", file=sys.stderr)
    device, views = best_device(run.config.trainer.accelerator), settings["views"]
    loader = clips.loader(todo, views, workers, pin_memory=device.type == "cuda")
    batches = follow(loader, "assigning", sum(map(clips.count, todo)), "clips", lambda batch: len(batch.index) // views)
    model, augment = load_model(run, device)
    potentials, counts = run.checkpoint["label_bank"]["potentials"], assigned.count_statuses(clips.done())
    try:
        for found in assigned.label_shards(model, augment, batches, clips, run.config, potentials, settings):
            counts += found
            assigned.check_bad(counts, clips, limit)
    except KeyboardInterrupt:
        print(f"the finished shards in {clips.out} are kept: the same command goes on", file=sys.stderr)
        raise


def _merge(run: Run, clips: ClipList, settings: dict[str, Any], limit: float, safe: bool) -> None:
    path = run.folder / "names.csv"
    with locked(clips.out / LOCK):
        counts, names = assigned.count_statuses(clips.done()), read_names(path) if path.exists() else None
        assigned.check_bad(counts, clips, limit)
        kinds = {"sorted_by_id": clips.sorted_by_id, "spreadsheet_safe": safe}
        paths = assigned.merge_parts(clips.done(), clips.out, settings["nearest"], names, **kinds)
    print(assigned.describe(counts, paths, run.folder, names is not None), file=sys.stderr)
