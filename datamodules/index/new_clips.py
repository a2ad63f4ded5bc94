"""Clips that a run has never seen: listed once, and divided into shards.

The list is a manifest in a Parquet file with one row group a shard, so that any process reads any shard of it and no
process holds it all.  Rows that were never probed have no duration.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.cut import cut_for
from datamodules.index.layout import describe_layout, read_layout
from datamodules.index.probing import probe_file
from datamodules.index.scan import PROBE_MEMORY, list_media, other_suffixes
from datamodules.index.suffixes import FILM_SUFFIXES, SOUND_SUFFIXES, suffixes_of
from datamodules.processes import Failure, run_jobs
from datamodules.stores.neighbours import has_pieces
from datamodules.stores.shards import INDEX, is_prepared, open_shards
from selavi.atomic import locked, write_text
from selavi.config import Config
from selavi.errors import UsageError
from selavi.filesystem import Look, look, real_path
from selavi.guarded.json_file import read_json
from selavi.guarded.parquet import write_parquet
from selavi.meter import follow
from selavi.modalities import reads_stills
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import SCHEMA, media_root, read_manifest

log = logging.getLogger("selavi")

LIST, SETTINGS, LOCK = "manifest.parquet", "assign.json", ".lock"


def list_clips(
    paths: Sequence[str], config: Config, sound_files: bool, allow_links: bool = False, layout: str = "auto"
) -> pa.Table:
    """List the clips of files and folders, of one manifest, or of one folder of `selavi prepare`.

    Args:
        paths: files and folders; or one Parquet file of `selavi scan`; or one prepared folder or its URL.
        config: of the run: where shards are cached.
        sound_files: whether files with sound alone belong to the list.
        allow_links: follow links that lead out of a folder.
        layout: what the folders below a folder mean; see datamodules.index.layout.read_layout.

    Returns:
        A manifest sorted by id, an id being the path below the folder, or below the folder that several paths share.
        Recordings are cut as the run's data.cut says; their pieces are in the order of time.
        The clips of shards have the columns of datamodules.stores.shards.INDEX too; those of a URL are sorted by shard.

    Raises:
        UsageError: a path is not there, holds no clip, or cannot be combined with the others.
    """
    if not paths:
        raise UsageError("expected files or folders of clips, a manifest (.parquet) or a prepared folder")
    alone = [
        path
        for path in paths
        if path.endswith(".parquet") or (("://" in path or os.path.isdir(path)) and is_prepared(path))
    ]
    if alone and len(paths) > 1:
        raise UsageError(f"{alone[0]} is a list of clips: give it alone, and the other paths in runs of their own")
    if not alone:
        suffixes = suffixes_of(reads_stills(config)) - (frozenset() if sound_files else SOUND_SUFFIXES - FILM_SUFFIXES)
        table = _list_files(paths, suffixes, allow_links, layout)
    elif alone[0].endswith(".parquet"):
        table = _listed(Path(alone[0]))
    else:
        table = _list_prepared(alone[0], config)
    if not len(table):
        raise UsageError(f"{' '.join(paths)}: no clip in it")
    if config.data.cut != "whole" and b"prepared" not in (table.schema.metadata or {}):
        table = cut_for(config, _probed(table, config))
        # Those that are no longer than a piece are one: a timeline needs to know where it ends.
        ends_s = pc.coalesce(table["end_s"], table["duration_s"])
        table = table.set_column(table.schema.get_field_index("end_s"), SCHEMA.field("end_s"), ends_s)
    return table


def _probed(table: pa.Table, config: Config) -> pa.Table:
    """The list with the facts of its files: what is to be cut must have been looked at."""
    todo = np.flatnonzero(pc.and_(pc.is_null(table["duration_s"]), pc.is_null(table["status"])).to_numpy())
    files = table.select(["path", "bytes", "mtime_ns"]).take(pa.array(todo)).to_pylist()
    probe = partial(probe_file, str(media_root(table)), pictures=reads_stills(config))
    outcomes = run_jobs(
        probe, [tuple(file.values()) for file in files], deadline_s=config.data.timeout_s, memory_bytes=PROBE_MEMORY
    )
    rows = table.to_pylist()
    for number, outcome in follow(outcomes, "scanning", len(files)):
        facts = {"status": outcome.reason, "reason": outcome.detail} if isinstance(outcome, Failure) else outcome
        rows[todo[number]] |= facts
    return pa.Table.from_pylist(rows, table.schema)


def _listed(path: Path) -> pa.Table:
    if not os.path.isfile(path):
        raise UsageError(f"{path}: no such file")
    table = read_manifest(path)
    doubled = len(table) - pc.count_distinct(table["id"]).as_py()
    if doubled:
        raise UsageError(f"{path}: {doubled} of {len(table)} rows repeat an id")
    order = [(name, "ascending") for name in (("path", "start_s") if has_pieces(table) else ("id",))]
    return table.select(SCHEMA.names).cast(SCHEMA.with_metadata(table.schema.metadata)).sort_by(order)


def _list_prepared(root: str, config: Config) -> pa.Table:
    manifest, reader = open_shards(root, Path(config.data.cache_dir), config.data.shard_cache_gb)
    if reader is None:
        return manifest.sort_by("id")
    place = pc.index_in(manifest["id"], value_set=reader.index["id"].combine_chunks()).combine_chunks()
    for name in INDEX.names[1:]:
        values = pc.fill_null(reader.index[name].combine_chunks().take(place), -1)
        manifest = manifest.append_column(INDEX.field(name), values)
    metadata = {b"root": str(media_root(manifest)).encode(), b"prepared": root.encode()}
    order = [("shard", "ascending")] if reader.remote else []
    return manifest.sort_by([*order, ("id", "ascending")]).replace_schema_metadata(metadata)


def _list_files(paths: Sequence[str], suffixes: Set[str], allow_links: bool, layout: str) -> pa.Table:
    places = [Path(os.path.abspath(path)) for path in paths]  # a link that a user names is followed by its name
    looks = [look(place) for place in places]
    for path, seen in zip(paths, looks, strict=True):
        if seen.kind == "nothing":
            raise UsageError(f"{path}: no such file or folder ({seen.reason})")
    folders = [place for place, seen in zip(places, looks, strict=True) if seen.kind == "folder"]
    files = {place: seen for place, seen in zip(places, looks, strict=True) if seen.kind != "folder"}
    root = Path(os.path.commonpath([*folders, *(file.parent for file in files)]))
    try:
        str(root).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{str(root)!a}: the folder's name is not UTF-8; rename it") from error
    tables = [_list_folder(place, root, suffixes, allow_links, layout) for place in folders]
    tables.append(_list_single(files, root, layout))
    table = pa.concat_tables(tables).combine_chunks()
    if len(paths) > 1:
        _, first = np.unique(table["id"].combine_chunks().dictionary_encode().indices.to_numpy(), return_index=True)
        table = table.take(pa.array(np.sort(first)))
    if not len(table):
        raise UsageError(f"{' '.join(paths)}: no clip in it (looked for {', '.join(sorted(suffixes))})")
    return table.sort_by("id").replace_schema_metadata({"root": str(root)})


def _list_folder(folder: Path, root: Path, suffixes: Set[str], allow_links: bool, layout: str) -> pa.Table:
    table = list_media(real_path(folder), allow_links, suffixes, layout)
    for line in (describe_layout(table)[0], other_suffixes(table, suffixes)):  # splits do not matter here
        if line:
            log.warning(f"{folder}: {line}")
    below = folder.relative_to(root).as_posix()
    if below != ".":
        names = pc.binary_join_element_wise(below, table["id"], "/")
        table = table.set_column(0, "id", names).set_column(1, "path", names)
    return _as_manifest({name: table[name] for name in table.column_names}, len(table))


def _list_single(files: Mapping[Path, Look], root: Path, layout: str) -> pa.Table:
    names = [os.fsencode(file.relative_to(root)).decode("utf-8", "backslashreplace") for file in files]
    reading = read_layout(Counter(name.rpartition("/")[0] for name in names), layout)
    rows = []
    for name, seen in zip(names, files.values(), strict=True):
        split, label = reading.place(name.rpartition("/")[0])
        row = {"id": name, "path": name, "split": split, "label": label, "start_s": 0.0, "bytes": seen.bytes}
        row["mtime_ns"] = seen.mtime_ns
        if seen.kind == "other":
            row |= {"status": "refused", "reason": "not a file but a pipe, a socket or a device"}
        elif look(root / name).kind == "nothing":
            row |= {"status": "refused", "reason": "the file's name is not UTF-8: rename it"}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _as_manifest(columns: Mapping[str, Any], num_rows: int) -> pa.Table:
    return pa.table(
        {field.name: columns.get(field.name, pa.nulls(num_rows, field.type)) for field in SCHEMA}, schema=SCHEMA
    )


def fix_list(out: Path, settings: Mapping[str, Any], make: Callable[[], pa.Table], file: str = SETTINGS) -> None:
    """Write the list of clips and the settings into a folder, or find the same settings there.

    Processes that begin together wait for the one that makes the list.

    Args:
        out: the folder.
        settings: what the results depend on, in plain JSON types; with shard_clips, the clips of a shard.
        make: lists the clips.
        file: name of that with the settings.

    Raises:
        UsageError: the folder was begun with other settings, or holds something else.
    """
    _require_place(out, file)
    with locked(out / LOCK):
        path = out / file
        if path.exists():
            before = read_json(path, "give another --out, or delete it")
            return _require_same(out, before, json.loads(json.dumps(settings)))
        table = make()
        write_parquet(table, out / LIST, row_group_size=settings["shard_clips"])
        write_text(path, json.dumps(settings, indent=1) + "\n")  # last: it says that the list is whole


def _require_place(out: Path, file: str) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    if out.is_dir():
        # Other tasks may begin in it now: whatever else is there comes after the file, for which is looked last.
        others = sorted(name for name in os.listdir(out) if name not in (LOCK, LIST) and not name.endswith(".tmp"))
        if others and not (out / file).exists():
            raise UsageError(f"--out {out} was not made by this tool: it holds {others[0]}; give another folder")


def _require_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    before = {"layout": "auto"} | before  # of a version that had no other
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        differences = "; ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in differing)
        raise UsageError(
            f"{out} was begun with other settings: {differences}. Say the same as then, or give another --out, or "
            "delete it"
        )


def default_out(run_dir: Path, paths: Sequence[str]) -> Path:
    """RUN/assigned/NAME, with the name of the first path."""
    first = paths[0].rstrip("/") if "://" in paths[0] else os.path.abspath(paths[0])
    return RunFolder(run_dir).assigned(Path(first).name.removesuffix(".parquet") or "root")
