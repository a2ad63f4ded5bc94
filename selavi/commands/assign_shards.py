"""Label the shards of a list of new clips, and merge them."""

import os
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.new_clips import LOCK, SETTINGS, fix_list, list_clips
from datamodules.index.vectors import list_vectors
from datamodules.loading.new_clips import ClipList
from datamodules.stores.new_vectors import by_name, open_new_files, state_of
from datamodules.stores.vectors import describe_files
from selavi.arrays import Vectors
from selavi.atomic import locked
from selavi.commands.assign import AssignArguments, AssignResult, Timelines, output_of
from selavi.commands.shard_work import do_shards
from selavi.config import Config
from selavi.errors import UsageError
from selavi.guarded.json_file import read_json
from selavi.guarded.parquet import read_parquet
from selavi.inference import assigned
from selavi.inference.device import best_device
from selavi.inference.load import load_model
from selavi.labelling.rule import LabelRule
from selavi.meter import follow
from selavi.modalities import files_of, reads_media, reads_sound
from selavi.results.naming import read_names
from selavi.results.timeline.files import segments_of, write_timelines
from selavi.results.timeline.page import write_pages
from selavi.runs.folder import RunFolder
from selavi.runs.launch import task_of
from selavi.runs.record import Run, load_run

NUM_SPEAKING = 31
"""Next best clusters of a piece that have a say in its timeline."""


def assign_shards(arguments: AssignArguments) -> AssignResult:
    """Label this task's shards, those that are not there yet; merge where all are there."""
    number, count = task_of(arguments.task, os.environ)
    run = load_run(arguments.run)
    run = replace(run, config=_as_pieces(run.config, arguments)) if arguments.timeline else run
    config = run.config
    new_files = by_name(arguments.file, "file", files_of(config))
    out = output_of(arguments, config)
    modalities = assigned.choose_modalities(arguments.modalities, config)
    counted = {name: file for name, file in new_files.items() if name in modalities}
    vectors: dict[str, Vectors] = {}
    if counted and not arguments.merge_only:
        vectors = open_new_files(config, counted, by_name(arguments.ids, "ids", files_of(config)))
    settings = _kept_settings(out) if arguments.merge_only else _begin(run, out, arguments, modalities, vectors)
    clips = ClipList(out, config, settings["modalities"], settings["shard_clips"], vectors, arguments.root)
    limit = config.data.max_bad_fraction if arguments.max_bad_fraction is None else arguments.max_bad_fraction
    if not arguments.merge_only:
        clips.forget_passing(number, count)
    todo = [] if arguments.merge_only else clips.todo(number, count)
    if todo:
        clips.require_media()
        _label(run, clips, todo, settings, limit, arguments.workers)
    num_missing = clips.num_shards - len(clips.done())
    if num_missing and arguments.merge_only:
        raise UsageError(f"{num_missing} of {clips.num_shards} shards in {out} are not labelled yet: label them first")
    counts: Counter[str] = Counter()
    tables = None
    names_path = RunFolder(run.folder).names
    if not num_missing:
        counts, tables = _merge(clips, names_path, settings, limit, arguments.spreadsheet_safe)
    timeline = _write_timeline(tables[0], clips, out, arguments) if tables and arguments.timeline else None
    return AssignResult(
        run.folder, out, (number, count), clips.num_shards, num_missing, counts, tables, names_path.exists(), timeline
    )


def _as_pieces(config: Config, arguments: AssignArguments) -> Config:
    """The settings of a run that cuts recordings into overlapping pieces."""
    data = config.data
    piece_s = arguments.piece_s or (data.cut_s if data.cut == "every" else 2 * data.clip_s)
    stride_s = arguments.stride_s or piece_s / 4
    return replace(config, data=replace(data, cut="every", cut_s=piece_s, stride_s=stride_s))


def _write_timeline(table_path: Path, clips: ClipList, out: Path, arguments: AssignArguments) -> Timelines:
    """Find the segments of each recording, and write them; see selavi.results.timeline."""
    columns = ["path", "start_s", "end_s", "cluster", "name", "confidence", "nearest"]
    table = read_parquet(table_path, columns)
    table = table.filter(pc.is_valid(table["end_s"]))
    pairs = table.select(["cluster", "name"]).group_by("cluster").aggregate([("name", "min")])
    names = dict(zip(pairs["cluster"].to_pylist(), pairs["name_min"].to_pylist(), strict=True))
    segments = segments_of(table)
    table_path, folder = write_timelines(segments, names, out)
    shown = partial(follow, what="pages", total=len(segments), unit="recordings")
    page = write_pages(segments, names, folder, clips.media_root, arguments.timeline_media == "transcode", shown)
    return Timelines(table_path, folder, page)


def _kept_settings(out: Path) -> dict[str, Any]:
    if not (out / SETTINGS).exists():
        raise UsageError(f"{out} was not made by this tool: it has no {SETTINGS}")
    return read_json(out / SETTINGS, "give another --out, or delete it")


def _begin(
    run: Run, out: Path, arguments: AssignArguments, modalities: list[str], vectors: dict[str, Vectors]
) -> dict[str, Any]:
    """List the clips, unless it is done; returns the settings that all tasks have to share."""
    config = run.config
    bank = run.checkpoint["label_bank"]
    settings = {
        "run": assigned.settings_digest(config, run.checkpoint["state_dict"], LabelRule.from_tensors(bank)),
        "paths": [path if "://" in path else os.path.abspath(path) for path in arguments.paths],
        "rule": arguments.rule,
        "views": _num_views(config, arguments.views, vectors),
        "features": arguments.features,
        "shard_clips": arguments.shard_clips,
        "layout": arguments.layout,
        "heads": assigned.choose_columns(arguments.head, bank, config, modalities),
        "nearest": min(arguments.nearest, config.heads.num_clusters - 1),
        "modalities": modalities,
    }
    if arguments.timeline:
        settings["nearest"] = min(NUM_SPEAKING, config.heads.num_clusters - 1)
        settings["timeline"] = [config.data.cut_s, config.data.stride_s]
    if vectors:
        ids = by_name(arguments.ids, "ids", files_of(config))
        settings["files"] = state_of(_paths_of(vectors))
        settings["ids"] = state_of(ids)
    fix_list(out, settings, partial(_list, config, arguments, modalities, vectors))
    return settings


def _num_views(config: Config, asked: int, vectors: dict[str, Vectors]) -> int:
    """Views of each clip: of vectors alone no more than a clip has."""
    if reads_media(config):
        return asked
    return max(1, min(asked, max(opened.num_views for opened in vectors.values())))


def _paths_of(vectors: dict[str, Vectors]) -> dict[str, str]:
    return {name: str(opened.path) for name, opened in vectors.items()}


def _list(config: Config, arguments: AssignArguments, modalities: list[str], vectors: dict[str, Vectors]) -> pa.Table:
    """List the clips: those of the paths, or a clip for each id of the files of vectors; says what fits together."""
    if reads_media(config):
        sound_files = reads_sound(config, modalities)
        clips = list_clips(arguments.paths, config, sound_files, arguments.allow_links, arguments.layout)
    else:
        clips = list_vectors(vectors, arguments.layout)
    for note in describe_files(vectors, clips):
        print(f"note: {note}", file=sys.stderr)
    return clips


def _label(
    run: Run, clips: ClipList, todo: list[int], settings: dict[str, Any], limit: float, workers: int | None
) -> None:
    device = best_device(run.config.trainer.accelerator)
    model, augment = load_model(run, device)
    rule = LabelRule.from_tensors(run.checkpoint["label_bank"])
    do_shards(
        clips,
        todo,
        lambda batches: assigned.label_shards(model, augment, batches, clips, run.config, rule, settings),
        views=settings["views"],
        workers=workers,
        device=device,
        limit=limit,
        doing="assigning",
        done="labelled",
    )


def _merge(
    clips: ClipList, names_path: Path, settings: dict[str, Any], limit: float, spreadsheet_safe: bool
) -> tuple[Counter[str], tuple[Path, Path]]:
    with locked(clips.out / LOCK):
        counts = assigned.count_statuses(clips.done())
        names = read_names(names_path) if names_path.exists() else None
        assigned.check_bad(counts, clips, limit)
        tables = assigned.merge_parts(
            clips.done(),
            clips.out,
            settings["nearest"],
            names,
            sorted_by_id=clips.sorted_by_id,
            spreadsheet_safe=spreadsheet_safe,
        )
    return counts, tables
