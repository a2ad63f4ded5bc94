"""Clips that a run has never seen, probed and decoded when their turn comes, shard by shard of their list."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.moved import at_place, require_some, require_there
from datamodules.index.new_clips import LIST
from datamodules.index.probing import probe_file
from datamodules.loading.dataset import failed_clip, read_vector, read_view, usable_seconds
from datamodules.loading.loader import Loader
from datamodules.loading.sampling import RowSampler, ViewKey, even_view, random_view
from datamodules.loading.shared_memory import require_shared_memory
from datamodules.loading.vector_loader import VectorLoader
from datamodules.loading.workers import LoaderProcesses
from datamodules.stores.files import FileReader
from datamodules.stores.neighbours import NeighbourReader, has_pieces
from datamodules.stores.reader import ClipReader, Facts
from datamodules.stores.shards import INDEX, ShardReader, open_shards
from selavi.arrays import Selected, Vectors
from selavi.batch import DecodedClip
from selavi.config import Config
from selavi.filesystem import look
from selavi.guarded.parquet import ParquetReader, read_parquet
from selavi.media import MediaError
from selavi.modalities import (
    SLACK_S,
    Request,
    Streams,
    Window,
    clip_seconds,
    kind_of,
    num_bytes,
    reads_media,
    reads_stills,
    request_of,
    require_mixed,
)
from selavi.runs.manifest import check_manifest, media_root, require_unchanged

log = logging.getLogger("selavi")

Batches = Loader | VectorLoader
_MOST_WORKERS = 16
_AGAIN = "give another --out, or delete the folder"
_COME_BACK = ("vanished", "changed", "unreadable")
"""Statuses of files that may be there again, as a look at them tells."""
_READABLE = (None, "ok", "silent", "no_audio", "bad_audio", "no_video", "too_short")
"""Statuses of files that can be read; the others come from other settings, or say that the file was never opened."""


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
    clip_s, duration_s = clip_seconds(config), facts["duration_s"]
    kinds = {name: kind_of(config, name) for name in modalities}
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
        self,
        path: Path,
        config: Config,
        modalities: Sequence[str],
        shard_clips: int,
        shards: ShardReader | None,
        new_root: str = "",
    ) -> None:
        self.path, self.config, self.modalities = path, config, list(modalities)
        self.shard_clips, self.shards, self.new_root = shard_clips, shards, new_root
        self._file: ParquetReader | None = None  # opened in the process that reads
        self._shard = -1
        self._rows: pa.Table | None = None
        self._reader: ClipReader | None = None
        self._facts: tuple[int, Facts] | None = None

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        # A loader process opens the list itself.
        return ListReader, (self.path, self.config, self.modalities, self.shard_clips, self.shards, self.new_root)

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
        path = root / facts["path"]
        if facts["status"] not in _READABLE:
            raise MediaError(path, facts["status"], facts["reason"] or "")
        if facts["duration_s"] is None:
            now = look(path)
            require_unchanged(path, facts["bytes"], facts["mtime_ns"])
            file = (facts["path"], now.bytes, now.mtime_ns)
            facts = facts | probe_file(str(root), file, pictures=reads_stills(self.config))
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

    def id_of(self, row: int) -> str:
        """The clip's id."""
        rows, place, _ = self._open(row)
        clip_id: str = rows["id"][place].as_py()
        return clip_id

    def rows_of(self, shard: int) -> pa.Table:
        """The rows of a shard."""
        if self._file is None:
            self._file = ParquetReader(self.path, advice=_AGAIN)
        rows = pa.Table.from_batches(list(self._file.batches(row_groups=[shard])), schema=self._file.schema)
        rows = check_manifest(rows, str(self.path))
        return at_place(rows, self.new_root) if self.new_root else rows

    def _open(self, row: int) -> tuple[pa.Table, int, ClipReader]:
        """The rows of its shard, its place among them, and their reader."""
        shard, place = divmod(row, self.shard_clips)
        if shard != self._shard or self._rows is None or self._reader is None:
            rows = self.rows_of(shard)
            self._shard, self._rows, self._reader = shard, rows, self._reader_of(rows)
        return self._rows, place, self._reader

    def _reader_of(self, rows: pa.Table) -> ClipReader:
        if self.shards is None:
            kind = NeighbourReader if has_pieces(rows) else FileReader
            return kind(rows, self.config.data.timeout_s)
        shards = ShardReader(self.shards.source, self.shards.settings, rows.select(INDEX.names))
        return shards.select(rows, request_of(self.config, self.modalities))


class NewClips:
    """Views of the clips of a list, evenly spaced and plain or as random as in training; see ClipDataset."""

    def __init__(
        self,
        reader: ListReader,
        num_views: int,
        vectors: Mapping[str, Selected] = MappingProxyType({}),
        *,
        random: bool = False,
    ) -> None:
        self.list, self.num_views, self.vectors, self.random = reader, num_views, dict(vectors), random
        self.reader: Any = reader  # a WatchedReader of it, in a Loader
        self.config = reader.config

    def id_of(self, row: int) -> str:
        """The clip's id."""
        return self.list.id_of(row)

    def __getitem__(self, key: ViewKey) -> DecodedClip:
        clip_s = self.config.data.clip_s
        try:
            facts: Facts = self.reader.facts(key.row)
        except MediaError as fault:
            return failed_clip(key.row, even_view(key.epoch, self.num_views, clip_s, clip_s), self.config, fault)
        if self.random:
            view = random_view(self.config.seed, key, self.id_of(key.row), facts.duration_s, clip_s)
        else:
            view = even_view(key.epoch, self.num_views, facts.duration_s, clip_s)
        vectors = {name: read_vector(one, key, view.draws) for name, one in self.vectors.items()}
        return read_view(self.reader, key.row, view, self.config, self.list.modalities, facts.columns, vectors)


class ClipList:
    """The clips of a list that fix_list has written, shard by shard, and the files of each shard.

    Attributes:
        out: the folder.
        num_clips: of the whole list.
        num_shards: of it.
        sorted_by_id: whether the rows are, from the first to the last.
        media_root: the folder that the paths start from; None of prepared clips.

    Args:
        out: the folder.
        config: of the run.
        modalities: those of the run that shall count.
        shard_clips: clips of a shard.
        files: the new vectors of those modalities that come from files.
        new_root: where the media, or the prepared clips, are now; "": where they were listed.
    """

    def __init__(
        self,
        out: Path,
        config: Config,
        modalities: Sequence[str],
        shard_clips: int,
        files: Mapping[str, Vectors] = MappingProxyType({}),
        new_root: str = "",
    ) -> None:
        self.out, self.config, self.shard_clips, self.files = out, config, shard_clips, files
        with ParquetReader(out / LIST, advice=_AGAIN) as file:
            self.num_clips, self.num_shards = file.num_rows, file.num_row_groups
            metadata = file.schema.metadata or {}
        prepared = metadata.get(b"prepared", b"").decode()
        root = new_root or metadata.get(b"root", b"").decode()
        self.media_root = Path(root) if root and not prepared else None
        self.sorted_by_id = "://" not in prepared
        shards = None
        if prepared:
            require_mixed(config)
            prepared = new_root or prepared
            shards = open_shards(prepared, Path(config.data.cache_dir), config.data.shard_cache_gb)[1]
            assert shards is not None
            shards = ShardReader(shards.source, shards.settings, shards.index.slice(0, 0))
        self.reader = ListReader(out / LIST, config, modalities, shard_clips, shards, "" if prepared else new_root)

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
        """The parts that exist, in order."""
        names = set(os.listdir(self.out / "parts")) if (self.out / "parts").exists() else set()
        return [part for part in map(self.part, range(self.num_shards)) if part.name in names]

    def require_media(self) -> None:
        """Check, before shards are begun, that the media are there.

        Raises:
            UsageError: they are not.
        """
        if self.reader.new_root:
            require_some(self.rows_of(0), Path(self.reader.new_root))
        elif self.media_root is not None:
            require_there(self.media_root)

    def forget_passing(self, number: int, count: int) -> None:
        """Remove the parts of a task with clips that could not be read for a while, and that can be read now."""
        mine = {self.part(shard).name for shard in range(number, self.num_shards, count)}
        parts = [part for part in self.done() if part.name in mine] if self.media_root else []
        again = [part for part in parts if self._has_come_back(part)]
        for part in again:
            part.unlink()
        if again:
            log.warning(f"{len(again):,} shards with clips that could not be read for a while are done again")

    def _has_come_back(self, part: Path) -> bool:
        table = read_parquet(part, ["id", "status"], advice=_AGAIN)
        ids = table["id"].filter(pc.is_in(table["status"], pa.array(_COME_BACK)))
        if not len(ids):
            return False
        rows = self.rows_of(int(part.stem))
        rows = rows.filter(pc.is_in(rows["id"], ids.combine_chunks()))
        reader = FileReader(rows, self.config.data.timeout_s)
        return any(reader.is_there(row) for row in range(len(rows)))

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

    def _ids(self) -> pa.Array:
        """(num_clips,) of the whole list; empty where no vectors are joined with them."""
        if not self.files:
            return pa.array([], pa.string())
        with ParquetReader(self.out / LIST, advice=_AGAIN) as file:
            return pa.chunked_array([batch[0] for batch in file.batches(["id"])], pa.string()).combine_chunks()

    def loader(
        self, shards: Sequence[int], num_views: int, workers: int | None, *, pin_memory: bool, random: bool = False
    ) -> Batches:
        """Views of every clip of some shards, in their order; a batch holds whole clips of one shard.

        Args:
            shards: ascending.
            num_views: V.
            workers: processes that decode; None: one for each core, or each that this process of torchrun's has.
            pin_memory: for a faster way to a GPU.
            random: views as random as in training, not evenly spaced; of media alone.

        Raises:
            UsageError: the batches of the loader processes do not fit into shared memory.
        """
        size = self.shard_clips
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        num_workers = min(max(cores, 1), _MOST_WORKERS) if workers is None else workers
        rows = [shard * size + np.arange(self.count(shard)) for shard in shards]
        batch_size = min(self.config.labelling.batch_size, size) * num_views
        ids = self._ids()
        vectors = {name: opened.select(pa.chunked_array([ids])) for name, opened in self.files.items()}
        sampler = RowSampler(np.concatenate(rows), num_views)
        if not reads_media(self.config):
            others = [name for name in self.config.kinds if name not in vectors]
            absent = {name: self.config.section(name).num_dims for name in others}
            return VectorLoader(ids, vectors, self.config.seed, sampler, batch_size, size, absent)
        require_shared_memory(batch_size * num_bytes(self.config), num_workers, "--workers")
        return Loader(
            NewClips(self.reader, num_views, vectors, random=random),
            sampler,
            batch_size,
            clip_bytes=num_bytes(self.config),
            processes=LoaderProcesses(num_workers, timeout_s=self.config.data.timeout_s, pin_memory=pin_memory),
            block=size,
        )
