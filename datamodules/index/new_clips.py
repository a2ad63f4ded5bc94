"""Clips that a run has never seen: listed once, divided into shards, probed and decoded when their turn comes.

The list is a manifest in a Parquet file with one row group a shard, so that any process reads any shard of it and no
process holds it all.  Rows that were never probed have no duration; the process that decodes them probes them first.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.index.layout import describe_layout, read_layout
from datamodules.index.manifest import SCHEMA, media_root, read_manifest, require_unchanged
from datamodules.index.probing import probe_file
from datamodules.index.scan import MEDIA_SUFFIXES, SOUND_SUFFIXES, list_media, other_suffixes
from datamodules.loading.dataset import ClipReader, Facts, FileReader, failed_clip, read_view, usable_seconds
from datamodules.loading.loader import Loader
from datamodules.loading.sampling import RowSampler, ViewKey, even_view
from datamodules.loading.shared_memory import require_shared_memory
from datamodules.stores.shards import INDEX, ShardReader, is_prepared, open_shards
from selavi.atomic import locked, write_atomically, write_text
from selavi.batch import DecodedClip
from selavi.config import Config
from selavi.errors import UsageError
from selavi.filesystem import Look, look, real_path
from selavi.media import MediaError
from selavi.modalities import MODALITIES, SLACK_S, Request, Streams, Window, num_bytes, request_of
from selavi.runs.folder import RunFolder
from selavi.wording import command

log = logging.getLogger("selavi")

LIST, SETTINGS, LOCK = "manifest.parquet", "assign.json", ".lock"
_MOST_WORKERS = 16
_READABLE = (None, "ok", "silent", "no_audio", "bad_audio", "too_short")
"""Statuses of files that can be read; the others come from other settings, or say that the file was never opened."""


# ---- the list ----


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
        suffixes = MEDIA_SUFFIXES | SOUND_SUFFIXES if sound_files else MEDIA_SUFFIXES
        table = _list_files(paths, suffixes, allow_links, layout)
    elif alone[0].endswith(".parquet"):
        table = _listed(Path(alone[0]))
    else:
        table = _list_prepared(alone[0], config)
    if not len(table):
        raise UsageError(f"{' '.join(paths)}: no clip in it")
    return table


def _listed(path: Path) -> pa.Table:
    if not os.path.isfile(path):
        raise UsageError(f"{path}: no such file")
    try:
        table = read_manifest(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read as Parquet: {error}") from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing or b"root" not in (table.schema.metadata or {}):
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "does not say where its media are"
        raise UsageError(f"{path} {lacks}: expected a manifest of {command('scan')} or of a run")
    doubled = len(table) - pc.count_distinct(table["id"]).as_py()
    if doubled:
        raise UsageError(f"{path}: {doubled} of {len(table)} rows repeat an id")
    return table.select(SCHEMA.names).cast(SCHEMA.with_metadata(table.schema.metadata)).sort_by("id")


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


def _list_files(paths: Sequence[str], suffixes: set[str], allow_links: bool, layout: str) -> pa.Table:
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


def _list_folder(folder: Path, root: Path, suffixes: set[str], allow_links: bool, layout: str) -> pa.Table:
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
        row = {"id": name, "path": name, "split": split, "label": label, "bytes": seen.bytes}
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


def fix_list(out: Path, settings: Mapping[str, Any], make: Callable[[], pa.Table]) -> None:
    """Write the list of clips and the settings into a folder, or find the same settings there.

    Processes that begin together wait for the one that makes the list.

    Args:
        out: the folder.
        settings: what the results depend on, in plain JSON types; with shard_clips, the clips of a shard.
        make: lists the clips.

    Raises:
        UsageError: the folder was begun with other settings, or holds something else.
    """
    _require_place(out)
    with locked(out / LOCK):
        path = out / SETTINGS
        if path.exists():
            return _require_same(out, json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(settings)))
        table = make()
        with write_atomically(out / LIST) as temporary:
            pq.write_table(table, temporary, row_group_size=settings["shard_clips"])
        write_text(path, json.dumps(settings, indent=1) + "\n")  # last: it says that the list is whole


def _require_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    if out.is_dir() and not (out / SETTINGS).exists():
        others = sorted(name for name in os.listdir(out) if name not in (LOCK, LIST) and not name.endswith(".tmp"))
        if others:
            raise UsageError(f"--out {out} was not made by this tool: it holds {others[0]}; give another folder")


def _require_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    before = {"layout": "auto"} | before  # of a version that had no other
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        told = "; ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in differing)
        raise UsageError(
            f"{out} was begun with other settings: {told}. Say the same as then, or give another --out, or delete it"
        )


def default_out(run_dir: Path, paths: Sequence[str]) -> Path:
    """RUN/assigned/NAME, with the name of the first path."""
    first = paths[0].rstrip("/") if "://" in paths[0] else os.path.abspath(paths[0])
    return RunFolder(run_dir).assigned(Path(first).name.removesuffix(".parquet") or "root")


def task_of(text: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Which share of the shards this process takes: (number from 0, of how many).

    Args:
        text: `i/n`; None: the environment says, of a SLURM array and of torchrun, both together if there are both.
        environment: of this process.

    Raises:
        UsageError: the text is something else.
    """
    if text is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not int(match[1]) < int(match[2]):
            raise UsageError(f"--task must be i/n with 0 <= i < n, such as 0/8 to 7/8, got {text!r}")
        return int(match[1]), int(match[2])
    number, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", d)) for name, d in (("MIN", 0), ("STEP", 1)))
        number = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
        count = int(environment["SLURM_ARRAY_TASK_COUNT"])
        if number >= count:
            raise UsageError("the SLURM array has gaps: submit a whole one, such as --array=0-31, or give --task i/n")
    ranks = int(environment.get("WORLD_SIZE", 1))
    return number * ranks + int(environment.get("RANK", 0)), count * ranks


# ---- the clips ----


def judge_clip(facts: Mapping[str, Any], config: Config, modalities: Sequence[str], path: Path) -> Facts:
    """What of a clip a run can use; datamodules.index.manifest.judge for one clip, which may also be sound alone.

    A clip without sound is used for its picture, whatever data.audio_policy says of training.

    Args:
        facts: columns duration_s, width, audio_state, audio_s, audio_reason of the manifest.
        config: of the run.
        modalities: those of the run that shall count.
        path: for messages.

    Raises:
        MediaError: nothing of it can be used; the reason is a status of the manifest.
    """
    clip_s, duration_s = config.data.clip_s, facts["duration_s"]
    kinds = {name: MODALITIES[name] for name in modalities}
    faults = [kind.fault_of(facts, clip_s) for kind in kinds.values()]
    if faults[-1] and all(faults) and not any(kind.blank_counts(config.data.audio_policy) for kind in kinds.values()):
        raise MediaError(path, *faults[-1])
    if duration_s < clip_s - SLACK_S:
        raise MediaError(path, "too_short", f"{duration_s:.2f} s, data.clip_s={clip_s}")
    columns = {name: facts[name] for kind in kinds.values() for name in kind.columns}
    duration_s = usable_seconds(duration_s, columns, modalities, config)
    return Facts(duration_s, columns)


class ListReader:
    """A ProbingReader of the clips of a list; rows are those of the whole list, of which it holds one shard."""

    def __init__(
        self, path: Path, config: Config, modalities: Sequence[str], shard_clips: int, shards: ShardReader | None
    ) -> None:
        self.path, self.config, self.modalities = path, config, list(modalities)
        self.shard_clips, self.shards = shard_clips, shards
        self._file: pq.ParquetFile | None = None  # opened in the process that reads
        self._shard = -1
        self._rows: pa.Table | None = None
        self._reader: ClipReader | None = None
        self._facts: tuple[int, Facts] | None = None

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        # A loader process opens the list itself.
        return ListReader, (self.path, self.config, self.modalities, self.shard_clips, self.shards)

    def facts(self, row: int) -> Facts:
        """Probe a recording, unless the list knows it; see ProbingReader.

        Raises:
            MediaError: it cannot be read, or nothing of it can be used.
        """
        if self._facts is None or self._facts[0] != row:  # each of its views asks
            rows, place, _ = self._open(row)
            self._facts = row, self._judge(rows.slice(place, 1).to_pylist()[0], media_root(rows))
        return self._facts[1]

    def _judge(self, facts: dict[str, Any], root: Path) -> Facts:
        path, by_sound = root / facts["path"], "audio" in self.modalities and self.shards is None
        if facts["status"] not in _READABLE and not (facts["status"] == "no_video" and by_sound):
            raise MediaError(path, facts["status"], facts["reason"] or "")
        if facts["duration_s"] is None:
            file = (facts["path"], facts["bytes"], facts["mtime_ns"])
            require_unchanged(path, *file[1:])
            facts = facts | probe_file(str(root), file, needs_picture=not by_sound)
            if facts["status"] != "ok":
                raise MediaError(path, facts["status"], facts["reason"])
        return judge_clip(facts, self.config, self.modalities, path)

    def read(self, row: int, window: Window, request: Request) -> Streams:
        """Read a window; see ClipReader.

        Raises:
            MediaError: the recording cannot be read.
        """
        _, place, reader = self._open(row)
        return reader.read(place, window, request)

    def rows_of(self, shard: int) -> pa.Table:
        """The rows of a shard."""
        if self._file is None:
            self._file = pq.ParquetFile(self.path)
        rows: pa.Table = self._file.read_row_group(shard)
        return rows

    def _open(self, row: int) -> tuple[pa.Table, int, ClipReader]:
        """The rows of its shard, its place among them, and their reader."""
        shard, place = divmod(row, self.shard_clips)
        if shard != self._shard or self._rows is None or self._reader is None:
            rows = self.rows_of(shard)
            self._shard, self._rows, self._reader = shard, rows, self._reader_of(rows)
        return self._rows, place, self._reader

    def _reader_of(self, rows: pa.Table) -> ClipReader:
        if self.shards is None:
            return FileReader(rows, self.config.data.timeout_s)
        shards = ShardReader(self.shards.source, self.shards.settings, rows.select(INDEX.names))
        return shards.select(rows, request_of(self.config, self.modalities))


class NewClips:
    """Evenly spaced, unaugmented views of the clips of a list, addressed by ViewKey; see ClipDataset."""

    def __init__(self, reader: ListReader, num_views: int) -> None:
        self.list, self.num_views = reader, num_views
        self.reader: Any = reader  # a WatchedReader of it, in a Loader
        self.config = reader.config

    def id_of(self, row: int) -> str:
        """The clip's id."""
        shard, place = divmod(row, self.list.shard_clips)
        clip_id: str = self.list.rows_of(shard)["id"][place].as_py()
        return clip_id

    def __getitem__(self, key: ViewKey) -> DecodedClip:
        clip_s = self.config.data.clip_s
        try:
            facts: Facts = self.reader.facts(key.row)
        except MediaError as fault:
            return failed_clip(key.row, even_view(key.epoch, self.num_views, clip_s, clip_s), self.config, fault)
        view = even_view(key.epoch, self.num_views, facts.duration_s, clip_s)
        return read_view(self.reader, key.row, view, self.config, self.list.modalities, facts.columns)


class ClipList:
    """The clips of a list that fix_list has written, shard by shard, and the files of each shard.

    Attributes:
        out: the folder.
        num_clips: of the whole list.
        num_shards: of it.
        sorted_by_id: whether the rows are, from the first to the last.
    """

    def __init__(self, out: Path, config: Config, modalities: Sequence[str], shard_clips: int) -> None:
        self.out, self.config, self.shard_clips = out, config, shard_clips
        file = pq.ParquetFile(out / LIST)
        self.num_clips, self.num_shards = file.metadata.num_rows, file.metadata.num_row_groups
        prepared = file.schema_arrow.metadata.get(b"prepared", b"").decode()
        self.sorted_by_id = "://" not in prepared
        shards = None
        if prepared:
            shards = open_shards(prepared, Path(config.data.cache_dir), config.data.shard_cache_gb)[1]
            assert shards is not None
            shards = ShardReader(shards.source, shards.settings, shards.index.slice(0, 0))
        self.reader = ListReader(out / LIST, config, modalities, shard_clips, shards)

    def rows_of(self, shard: int) -> pa.Table:
        """The rows of one shard."""
        return self.reader.rows_of(shard)

    def count(self, shard: int) -> int:
        """How many clips a shard has."""
        return min(self.shard_clips, self.num_clips - shard * self.shard_clips)

    def part(self, shard: int) -> Path:
        """Where the labels of a shard are, once it is done."""
        return self.out / "parts" / f"{self._name(shard)}.parquet"

    def features(self, shard: int) -> Path:
        """Where its features are, where they were asked for."""
        return self.out / "features" / f"{self._name(shard)}.safetensors"

    def _name(self, shard: int) -> str:
        return f"{shard:0{max(5, len(str(self.num_shards - 1)))}d}"

    def done(self) -> list[Path]:
        """The parts that are there, in order."""
        there = set(os.listdir(self.out / "parts")) if (self.out / "parts").exists() else set()
        return [part for part in map(self.part, range(self.num_shards)) if part.name in there]

    def todo(self, number: int, count: int) -> list[int]:
        """The shards of a task that are not done; what a killed one left of them half done is removed."""
        done = {part.name for part in self.done()}
        todo = [shard for shard in range(number, self.num_shards, count) if self.part(shard).name not in done]
        names = {f".{path.name}." for shard in todo for path in (self.part(shard), self.features(shard))}
        for folder in ("parts", "features"):
            for half in (self.out / folder).glob(".*.tmp"):
                if re.sub(r"\d+\.tmp$", "", half.name) in names:
                    half.unlink(missing_ok=True)
        return todo

    def loader(self, shards: Sequence[int], num_views: int, workers: int | None, *, pin_memory: bool) -> Loader:
        """Views of every clip of some shards, in their order; a batch holds whole clips of one shard.

        Args:
            shards: ascending.
            num_views: V.
            workers: processes that decode; None: one for each core, or each that this process of torchrun's has.
            pin_memory: for a faster way to a GPU.

        Raises:
            UsageError: the batches of the loader processes do not fit into shared memory.
        """
        size = self.shard_clips
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        num_workers = min(max(cores, 1), _MOST_WORKERS) if workers is None else workers
        rows = [shard * size + np.arange(self.count(shard)) for shard in shards]
        batch_size = min(self.config.labelling.batch_size, size) * num_views
        require_shared_memory(batch_size * num_bytes(self.config), num_workers, "--workers")
        return Loader(
            NewClips(self.reader, num_views),
            RowSampler(np.concatenate(rows), num_views),
            batch_size,
            clip_bytes=num_bytes(self.config),
            num_workers=num_workers,
            timeout_s=self.config.data.timeout_s,
            pin_memory=pin_memory,
            block=size,
        )
