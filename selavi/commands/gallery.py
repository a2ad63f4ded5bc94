"""The gallery of a run: its content, as the page takes it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.stores.opening import open_prepared
from selavi.commands.evidence import evidence_for, evidence_key, measured_worth
from selavi.commands.export import ExportArguments
from selavi.commands.gallery_workers import pool
from selavi.commands.localise import FIRST_MAPS, LocaliseArguments
from selavi.commands.prepared_clips import read_shard, write_shard
from selavi.config import Config
from selavi.errors import DataError, UsageError
from selavi.guarded.json_file import as_written, read_json
from selavi.guarded.parquet import ParquetReader, read_parquet
from selavi.localisation.files import read_faded
from selavi.localisation.maps import GLOWS, MAP_KINDS
from selavi.modalities import Request, reads_media, request_of_media
from selavi.results.boxes import KEY, SEGMENT
from selavi.results.evidence import Evidence
from selavi.results.gallery.boxes import COLUMNS, current_boxes
from selavi.results.gallery.build import AboutRun, GalleryReport, MediaSource, write_gallery
from selavi.results.gallery.columns import Columns
from selavi.results.gallery.select import Head, Places
from selavi.results.naming import Names
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import media_root
from selavi.wording import command

log = logging.getLogger("selavi")
_FIGURES = {"nmi": "NMI", "ari": "ARI", "accuracy": "Accuracy", "purity": "Purity", "n": "Clips scored"}
_OPTIONAL = ("maps", SEGMENT.name)
"""Columns of a table of boxes that not every one has: those of earlier versions lack the first."""


@dataclass(frozen=True)
class GalleryContent:
    """What a run has to show."""

    config: Config
    split: str
    manifest: pa.Table
    clips: pa.Table
    heads: list[Head]
    features: dict[str, np.ndarray]
    no_map: str | None
    """Why there are no features."""
    head: int
    agreement: np.ndarray
    """(H,) agreement of each head with the others."""
    names: Names
    columns: Columns | None = None
    """What a table of the user's says of the clips."""


def write_run_gallery(arguments: ExportArguments, content: GalleryContent) -> GalleryReport:
    """Write RUN/gallery."""
    explain = partial(_maps, arguments, content.split, content.head)
    shows_boxes = reads_media(content.config) and arguments.media != "none"
    boxes, box_maps = _boxes(arguments.run, content) if shows_boxes else (None, FIRST_MAPS)
    has_evidence = arguments.evidence and reads_media(content.config) and arguments.media != "none"
    return write_gallery(
        RunFolder(arguments.run).gallery,
        content.clips,
        content.heads,
        _about(arguments.run, content),
        _source(arguments, content),
        places=None if arguments.clips == "all" else Places.of(int(arguments.clips)),
        features=np.concatenate(list(content.features.values()), 1) if content.features else None,
        method=arguments.map,
        explain=explain if has_evidence else None,
        num_explained=arguments.evidence,
        maps=arguments.maps,
        worth=measured_worth(arguments.run, content.split, content.head, arguments.maps),
        boxes=boxes,
        box_maps=box_maps,
        columns=content.columns,
        run_jobs=pool(content.config.data.scan_workers),
    )


def _about(run_dir: Path, content: GalleryContent) -> AboutRun:
    """Title, figures and names for the page."""
    agreement, files = content.agreement.tolist(), RunFolder(run_dir)
    how = {"how": "learned from names"} if files.refined.exists() else {}
    return AboutRun(
        title=f"{run_dir.resolve().name}, {content.split}",
        run=str(run_dir),
        split=content.split,
        chosen_head=content.head,
        figures=_figures(files.figures(content.split), content.head),
        names=content.names.rows,
        agreement_of_heads=[None if np.isnan(score) else round(score, 3) for score in agreement],
        seed=content.config.seed,
        no_map=content.no_map,
        **how,
    )


def _figures(path: Path, head: int) -> list[tuple[str, str]]:
    """What was measured of a head; nothing where it was not measured."""
    if not path.exists():
        return []
    metrics = read_json(path, "measure the run again")
    with as_written(path, "measure the run again"):
        entry = metrics["heads"][head] if metrics["labelled"] else {}
        figures = [(name, entry[key]) for key, name in _FIGURES.items() if entry.get(key) is not None]
        return [(name, f"{value:.3f}" if isinstance(value, float) else f"{value:,}") for name, value in figures]


def _maps(arguments: ExportArguments, split: str, head: int, ids: list[str]) -> Iterator[Evidence]:
    """Maps of clips, in picture and sound; none, with a word about it, where they cannot be computed."""
    try:
        path = evidence_for(arguments.run, split, head, ids, arguments.root, GLOWS[arguments.maps])
    except (UsageError, DataError, FileNotFoundError) as error:
        log.warning(f"nothing glows in the gallery: {error}")
        return
    yield from read_faded(path)


def _boxes(run_dir: Path, content: GalleryContent) -> tuple[pa.Table | None, str]:
    """What `selavi localise` wrote of the chosen head, and the kind of maps that it is of.

    Nothing, with a word about it, where it is of other labels.
    """
    path = RunFolder(run_dir).boxes(content.split, content.head)
    if not path.exists():
        return None, FIRST_MAPS
    again = ("localise", run_dir, "--split", content.split, "--head", str(content.head))
    advice = f"write it again: {command(*again)}, with --maps and --segments where it was written with them"
    with ParquetReader(path, advice=advice) as file:
        schema = file.schema
    key = (schema.metadata or {}).get(KEY)
    table = read_parquet(path, [*COLUMNS, *(name for name in _OPTIONAL if name in schema.names)], advice=advice)
    clusters = next(head.cluster for head in content.heads if head.head == content.head)
    final = content.names.final_cluster(content.head, clusters)
    current = current_boxes(table, content.clips, clusters, final)
    kinds = {evidence_key(run_dir, maps): maps for maps in MAP_KINDS}
    if key is not None and key.decode() not in kinds:
        current = current.slice(0, 0)
    if num_left := len(table) - len(current):
        advice = f"write it again: {command(*again, *_options_of(table))}"
        log.warning(f"{num_left} of {len(table)} boxes in {path} are of an earlier state of the run: {advice}")
    return current if len(current) else None, FIRST_MAPS if key is None else kinds.get(key.decode(), FIRST_MAPS)


def _options_of(table: pa.Table) -> list[str]:
    """The options with which `selavi localise` wrote a table of boxes, as far as its columns tell."""
    options = []
    maps = table["maps"][0].as_py() if "maps" in table.column_names else FIRST_MAPS
    if maps != LocaliseArguments.maps:
        options += ["--maps", maps]
    if SEGMENT.name in table.column_names and (last := pc.max(table[SEGMENT.name]).as_py()) is not None:
        options += ["--segments", str(last + 1)]
    return options


def _source(arguments: ExportArguments, content: GalleryContent) -> MediaSource:
    """Where the page's media come from: files, or the shards that the run read."""
    config = content.config
    if not reads_media(config) or arguments.media == "none":
        return MediaSource(media_root(content.manifest), is_empty=True)
    rate = request_of_media(config).sample_rate
    source = MediaSource(media_root(content.manifest), arguments.media, config.data.allow_links, sample_rate=rate)
    prepared = open_prepared(config)
    if prepared is None or prepared[1] is None:
        return source
    reader = prepared[1].select(content.clips, Request())
    read = partial(read_shard, reader=reader)
    write = partial(write_shard, reader=reader)
    return replace(source, read=read, write=write, without_files=True)
