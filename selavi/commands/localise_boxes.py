"""Boxes that the maps of a run's clips point at: a table, and what other tools open."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.processes import run_jobs
from datamodules.stores.opening import open_prepared
from datamodules.stores.shards import ShardReader
from selavi.commands.checks import own_folders
from selavi.commands.evidence import evidence_for, evidence_key
from selavi.commands.localise import LocaliseArguments, WrittenBoxes
from selavi.commands.localise_moments import MomentFacts, look_at_moments
from selavi.commands.prepared_clips import read_shard_pictures
from selavi.errors import UsageError
from selavi.guarded.parquet import write_parquet
from selavi.ids import explain_missing
from selavi.localisation import evidence
from selavi.localisation.boxes import places_of
from selavi.localisation.files import read_evidence
from selavi.meter import follow
from selavi.modalities import Request
from selavi.results.boxes import KEY, SEGMENT, box_rows, box_table, explained_clips, segments_of
from selavi.results.cluster_table import ClusterTables
from selavi.results.gallery.media import PRESENT, locate
from selavi.results.handover.boxes import IMAGES, BoxedPicture, hand_over_boxes
from selavi.results.handover.clips import name_classes
from selavi.results.handover.folder import Folder, file_name
from selavi.results.handover.pictures import PictureJob, PictureSize, read_pictures, write_pictures
from selavi.results.labels import read_labels
from selavi.results.naming import Names, read_names
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import media_root
from selavi.runs.record import Run

_PICTURES_S = 120.0
"""The longest that the pictures of a clip may take to decode."""
_MEMORY_BYTES = 4 << 30


def write_boxes(arguments: LocaliseArguments, run: Run, split: str, head: int, worth: str) -> WrittenBoxes:
    """Find the evidence for the clips, put boxes around it, write the table and hand over.

    Args:
        arguments: which clips, and for which tools.
        run: whose maps.
        split: of the clips.
        head: whose clusters are explained.
        worth: what is known of how well the maps point.

    Raises:
        UsageError: a clip is not among the labelled ones, nothing is left, or there are more segments than pictures.
    """
    files = RunFolder(run.folder)
    own_folders(run.folder, [files.boxes_handover, *files.boxes_handover.glob("*")])
    table = ClusterTables(read_labels(run.folder, split, with_statistics=True), run.manifest).of_head(head)
    table = _chosen(table, arguments.clips, split)
    names = read_names(files.names) if files.names.exists() else Names([])
    kept, num_rejected, num_moved = explained_clips(table, names, head)
    if not len(kept):
        raise UsageError(f"none of {len(table)} clips is left: {num_rejected} are rejected and {num_moved} were moved")
    facts = _facts_of(run.manifest, kept["id"])
    clips = {clip["id"]: clip for clip in _joined(kept, facts) if clip["width"]}
    path = evidence_for(run.folder, split, head, list(clips), arguments.root, arguments.maps)
    boxless: list[str] = []
    shown = (one for one in read_evidence(path) if one.id in clips)
    rows = list(box_rows(follow(shown, "boxes", len(clips), "clips"), clips, evidence.PICTURED, boxless))
    labelled = dict(zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    facts = look_at_moments(run, split, head, rows, labelled, maps=arguments.maps, with_features=arguments.segments > 0)
    _add_facts(rows, facts, arguments.segments, run.config.seed)
    for row in rows:
        row["maps"] = arguments.maps
    boxes = box_table(rows)
    sought = "what is heard" if arguments.maps == "heard" else "their cluster"
    num_failed = len(clips) - _num_clips(boxes, boxless)
    notes = _notes(len(kept) - len(clips), num_rejected, num_moved, num_failed, boxless, sought)
    target = files.boxes(split, head)
    write_parquet(boxes.replace_schema_metadata({KEY: evidence_key(run.folder, arguments.maps)}), target)
    handed: dict[str, Path] = {}
    if arguments.to:
        handed, more = _hand_over(arguments, run, boxes, clips, files.boxes_handover, [*notes, worth])
        notes += more
    return WrittenBoxes(target, len(boxes), len(clips), handed, tuple(notes))


def _add_facts(rows: list[dict[str, Any]], facts: MomentFacts, num_segments: int, seed: int) -> None:
    """Add to rows of boxes what the windows around their moments say.

    Raises:
        UsageError: there are more segments than pictures.
    """
    for row, sounding in zip(rows, facts.sounding.tolist(), strict=True):
        row["sounding"] = None if math.isnan(sounding) else sounding
    if num_segments:
        for row, segment in zip(rows, segments_of(facts.inside, num_segments, seed).tolist(), strict=True):
            row[SEGMENT.name] = None if segment < 0 else segment


def _chosen(table: pa.Table, named: Sequence[str], split: str) -> pa.Table:
    """The clips that are named, or all."""
    if not named:
        return table
    ids = table["id"].to_pylist()
    places = places_of(named, ids)
    missing = [name for name, place in zip(named, places.tolist(), strict=True) if place < 0]
    if missing:
        hint = explain_missing(missing, ids)
        raise UsageError(
            f"{len(missing)} of {len(named)} clips, such as {missing[0]!r}, are not among the {len(ids)} labelled ones "
            f"of split {split}, such as {ids[0]!r}" + (f": {hint}" if hint else "; --split chooses another one")
        )
    return table.take(pa.array(np.unique(places)))


def _facts_of(manifest: pa.Table, ids: Any) -> pa.Table:
    """What the manifest says of clips, in their order."""
    return manifest.take(pc.index_in(ids, value_set=manifest["id"]))


def _joined(kept: pa.Table, facts: pa.Table) -> Iterator[dict[str, Any]]:
    """A clip's row of the cluster table with the facts of its picture."""
    columns = ["path", "start_s", "width", "height", "bytes", "mtime_ns"]
    rows = kept.select(["id", "cluster", "name", "confidence"]).to_pylist()
    for row, fact in zip(rows, facts.select(columns).to_pylist(), strict=True):
        yield row | fact


def _num_clips(boxes: pa.Table, boxless: list[str]) -> int:
    """Clips that have evidence, with a box or without."""
    return len({*boxes["id"].to_pylist(), *boxless})


def _notes(
    num_blind: int, num_rejected: int, num_moved: int, num_failed: int, boxless: list[str], sought: str
) -> list[str]:
    """What was left out, a sentence each."""
    counts = (
        (num_rejected, "rejected clips are left out"),
        (num_moved, "clips that a person moved to another cluster are left out: evidence is for the one they were in"),
        (num_blind, "clips without a picture are left out"),
        (num_failed, "clips could not be decoded and are left out"),
        (len(boxless), f"pictures have nothing that speaks for {sought}, so there is no box"),
    )
    return [f"{count} {what}" for count, what in counts if count]


def _hand_over(
    arguments: LocaliseArguments, run: Run, boxes: pa.Table, clips: dict[str, Any], folder_path: Path, notes: list[str]
) -> tuple[dict[str, Path], list[str]]:
    """Write pictures and formats; returns what to open, and what was left out."""
    classes = name_classes({clip["cluster"]: clip["name"] for clip in clips.values()})
    by_clip: dict[str, list[dict[str, Any]]] = {}
    for row in boxes.to_pylist():
        by_clip.setdefault(row["id"], []).append(row)
    with Folder.opened(folder_path) as folder:
        files = {
            clip_id: [f"{IMAGES}/{file_name(clip_id, f'-{number}.jpg')}" for number in range(len(rows))]
            for clip_id, rows in by_clip.items()
        }
        folder.claim([name for names in files.values() for name in names])
        sizes, num_failed = _write_pictures(run, by_clip, files, clips, folder.path)
        left_out = [f"the pictures of {num_failed} clips could not be written"] if num_failed else []
        pictures = [
            _picture(row, name, size, classes[row["cluster"]])
            for clip_id, of_clip in sizes.items()
            for row, name, size in zip(by_clip[clip_id], files[clip_id], of_clip, strict=True)
        ]
        about = f"{len(pictures)} boxes in pictures of {len(sizes)} clips, around what maps of {arguments.maps} show."
        note = "\n".join([about, *(f"{text[0].upper()}{text[1:]}." for text in (*left_out, *notes))])
        opened = hand_over_boxes(pictures, arguments.to, folder, note)
    return opened, left_out


def _picture(row: dict[str, Any], name: str, size: PictureSize, category: str) -> BoxedPicture:
    """A row with its picture, which may be smaller than the recording's."""
    width, height = size
    across, down = width / row["width"], height / row["height"]
    box = (row["x0"] * across, row["y0"] * down, row["x1"] * across, row["y1"] * down)
    return BoxedPicture(
        row["id"], row["time_s"], name, width, height, box, row["cluster"], category, row["score"], row["confidence"]
    )


def _write_pictures(
    run: Run, by_clip: dict[str, list[dict[str, Any]]], files: dict[str, list[str]], clips: dict[str, Any], folder: Path
) -> tuple[dict[str, list[PictureSize]], int]:
    """Decode the pictures of each clip, in processes that may die; returns their sizes, and how many clips failed."""
    ids = list(by_clip)
    facts = pa.Table.from_pylist(
        [{name: clips[clip_id][name] for name in ("id", "path", "bytes", "mtime_ns")} for clip_id in ids]
    )
    root = media_root(run.manifest)
    reader = _shards(run, ids)
    is_there = np.ones(len(ids), bool)
    if reader is None:
        is_there = locate(facts, root, run.config.data.allow_links) == PRESENT
    rows = np.flatnonzero(is_there).tolist()

    def jobs() -> Iterator[PictureJob]:
        for row in rows:
            clip = clips[ids[row]]
            times_s = tuple(box["time_s"] for box in by_clip[ids[row]])
            short_side = min(clip["width"], clip["height"])
            begin_s = clip["start_s"] if reader is None else 0.0  # shards hold a piece alone
            targets = tuple(folder / name for name in files[ids[row]])
            yield PictureJob(root / clip["path"], row, begin_s, times_s, short_side, targets)

    read = read_pictures if reader is None else partial(read_shard_pictures, reader=reader)
    done = run_jobs(
        partial(write_pictures, read=read),
        jobs(),
        workers=run.config.data.scan_workers,
        deadline_s=_PICTURES_S,
        memory_bytes=_MEMORY_BYTES,
    )
    sizes: dict[str, list[PictureSize]] = {}
    for number, outcome in follow(done, "pictures", len(rows), "clips"):
        if isinstance(outcome, list):
            sizes[ids[rows[number]]] = outcome
    return {clip_id: sizes[clip_id] for clip_id in ids if clip_id in sizes}, len(ids) - len(sizes)


def _shards(run: Run, ids: Sequence[str]) -> ShardReader | None:
    """The reader of these clips where they come from shards."""
    prepared = open_prepared(run.config)
    if prepared is None or prepared[1] is None:
        return None
    rows = run.manifest.take(pc.index_in(pa.array(ids, pa.string()), value_set=run.manifest["id"]))
    return prepared[1].select(rows, Request())
