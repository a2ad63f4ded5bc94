"""Prepared clips in tar shards: the format, and the reader of local and remote ones.

A shard is a tar in WebDataset layout.  A clip is three members in a row, whose names share a key of nine digits:
KEY.json (id, label, split, duration_s, times_s, frame_bytes, height, width, sample_rate), KEY.mjpeg (its JPEG frames,
one after the other) and KEY.npy (its sound: (S,) int16, mono; S = 0 without sound).  Beside each tar lies
shard-NNNNNN.frames.npy, one FRAME record for each frame: 16 frames of 300 are one short read.
"""

import io
import json
import os
import shutil
import tarfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from mmap import mmap
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.atomic import hold, locked
from selavi.errors import UsageError
from selavi.filesystem import fault_of, real_path
from selavi.guarded.json_file import as_written
from selavi.guarded.parquet import read_parquet
from selavi.media import MediaError, cut_waveform, decode_jpegs, frame_times, latest_frames
from selavi.modalities import Request, Streams, Window
from selavi.runs.manifest import PREPARED, check_manifest
from selavi.wording import command

MARK = PREPARED
VERSION = 1
FRAME = np.dtype([("at", "<i8"), ("bytes", "<i4"), ("time_s", "<f8")])
"""What is kept of each frame: its first byte in the tar, its length, and when it is shown, in seconds of the file."""
INDEX = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("first_frame", pa.int64()),  # record in shard-NNNNNN.frames.npy
        ("num_frames", pa.int32()),
        ("sound_at", pa.int64()),  # byte in the tar
        ("num_samples", pa.int64()),
    ]
)
_BLOCK = 512
_OPEN_SHARDS = 32
_AGAIN = "prepare the clips again"
_TRIES = 3


def tar_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:06d}.tar"


def frames_name(shard: int) -> str:
    """File name of a shard's frame records."""
    return f"shard-{shard:06d}.frames.npy"


def pack_clip(
    key: str, facts: dict[str, Any], frames: Sequence[bytes], times_s: Sequence[float], waveform: np.ndarray
) -> Iterator[bytes]:
    """Give the tar members of one clip, in pieces: hours of frames are never copied together.

    Args:
        key: name of the members; no dot, since a reader splits names at the first one.
        facts: what else goes into the JSON member.
        frames: JPEG files.
        times_s: (T,) when each is shown.
        waveform: (S,) int16.

    Yields:
        Pieces of a tar; two blocks of zeros behind the last clip end it.
    """
    description = facts | {"times_s": list(times_s), "frame_bytes": [len(frame) for frame in frames]}
    sound = io.BytesIO()
    np.save(sound, waveform.astype("<i2", copy=False))
    members: dict[str, Sequence[bytes]] = {
        "json": [json.dumps(description, ensure_ascii=False).encode()],
        "mjpeg": frames,
        "npy": [sound.getvalue()],
    }
    for suffix, content in members.items():
        header = tarfile.TarInfo(f"{key}.{suffix}")  # time 0 and owner 0: equal clips give equal bytes
        header.size = sum(map(len, content))
        yield header.tobuf(tarfile.GNU_FORMAT)
        yield from content
        yield bytes(-header.size % _BLOCK)


@dataclass(frozen=True)
class PackedClip:
    """Where the parts of a packed clip lie, in bytes from its start."""

    facts: dict[str, Any]
    frames: np.ndarray
    """(T,) FRAME."""
    sound_at: int
    num_samples: int


def unpack_clip(piece: bytes | mmap) -> PackedClip:
    """Read back what pack_clip gave, all of it in one; the frames themselves are not touched.

    Raises:
        ValueError, tarfile.TarError: it is something else.
    """
    at, sizes, begins = 0, {}, {}
    for suffix in ("json", "mjpeg", "npy"):
        header = tarfile.TarInfo.frombuf(piece[at : at + _BLOCK], "utf-8", "strict")
        if not header.name.endswith(f".{suffix}"):
            raise ValueError(f"expected a member .{suffix}, found {header.name}")
        begins[suffix], sizes[suffix] = at + _BLOCK, header.size
        at += _BLOCK + -(-header.size // _BLOCK) * _BLOCK
    facts, sound = (piece[begins[name] : begins[name] + sizes[name]] for name in ("json", "npy"))
    facts = json.loads(facts)
    lengths = np.array(facts.pop("frame_bytes"), dtype=np.int64)
    frames = np.zeros(len(lengths), FRAME)
    frames["at"] = begins["mjpeg"] + np.cumsum(lengths) - lengths
    frames["bytes"], frames["time_s"] = lengths, facts.pop("times_s")
    waveform = np.load(io.BytesIO(sound), allow_pickle=False)
    if lengths.sum() != sizes["mjpeg"] or waveform.dtype != np.int16 or at != len(piece):
        raise ValueError(f"{facts.get('id')}: the frames or the sound have another length than the index says")
    return PackedClip(facts, frames, begins["npy"] + sizes["npy"] - waveform.nbytes, len(waveform))


def is_prepared(root: str) -> bool:
    """Whether a folder or fsspec URL was made by `selavi prepare`.

    Raises:
        UsageError: nothing here reads such URLs.
    """
    try:
        files, path = fsspec.core.url_to_fs(root)
        return bool(files.exists(f"{path}/{MARK}"))
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(f"data.root={root} cannot be read: {error}") from error


def open_shards(root: str, cache_dir: Path, cache_gb: float) -> tuple[pa.Table, "ShardReader | None"]:
    """Open what `selavi prepare` made.

    Args:
        root: its folder, or a URL that fsspec knows (s3://bucket/set, file:///mnt/slow/set).
        cache_dir: shards of a URL are kept in a folder here.
        cache_gb: GB of them that are kept at most; the least recently used go first.

    Returns:
        The manifest, and the reader of the shards; no reader where the clips were prepared as files.

    Raises:
        UsageError: it is not there, not finished, of another version, or the cache is too small for a shard.
    """
    files, path = fsspec.core.url_to_fs(root)
    try:
        with as_written(f"{root}/{MARK}", _AGAIN):
            settings = dict(json.loads(files.cat_file(f"{path}/{MARK}")))
            version, form, sizes = settings["version"], settings["format"], settings["shard_bytes"]
            largest = int(max(sizes, default=0))
    except FileNotFoundError as error:
        raise UsageError(
            f"data.root={root}: no {MARK} in it; if {command('prepare')} was interrupted, run it again to the end "
            "(nothing else is read from a URL: media are read in a local folder)"
        ) from error
    if version != VERSION:
        raise UsageError(f"{root} has format {version}, expected {VERSION}: prepare it again")
    with files.open(f"{path}/manifest.parquet") as file:
        manifest = read_parquet(file, name=f"{root}/manifest.parquet", advice=_AGAIN)
    if form == "files":
        if "://" in root:
            raise UsageError(f"data.root={root}: prepared files are read from a local folder; prepare shards instead")
        manifest = manifest.replace_schema_metadata({"root": str(real_path(root))})
    manifest = check_manifest(manifest, f"{root}/manifest.parquet")
    if form == "files":
        return manifest, None
    with files.open(f"{path}/index.parquet") as file:
        index = read_parquet(file, INDEX.names, name=f"{root}/index.parquet", advice=_AGAIN)
    limit = int(cache_gb * 1e9)
    if "://" in root and largest * 2 > limit:
        raise UsageError(
            f"data.shard_cache_gb={cache_gb:g} does not hold two shards of {root}, of up to {largest / 1e9:.3g} GB: "
            f"set it to at least {largest * 2e-9:.3g}, better 20 times that"
        )
    name = blake2b(root.encode(), digest_size=6).hexdigest()
    source = _ShardFiles(root, cache_dir / f"shards-{name}" if "://" in root else None, limit)
    with as_written(f"{root}/{MARK}", _AGAIN):
        return manifest, ShardReader(source, settings, index)


class ShardReader:
    """Clips of shards; `select` addresses them by the rows of a table.

    Attributes:
        shards: (R,) the shard of each selected row, -1 where its clip could not be prepared.
        remote: whether reading in the order of the shards matters, since each is fetched first.
    """

    def __init__(self, source: "_ShardFiles", settings: dict[str, Any], index: pa.Table) -> None:
        self.source, self.settings, self.index = source, settings, index
        self.remote = source.folder is not None
        self.size, self.sample_rate = int(settings["size"]), int(settings["sample_rate"])

    def select(self, rows: pa.Table, request: Request) -> "ShardReader":
        """Return the ClipReader for some rows of the manifest.

        Args:
            rows: rows of the manifest, or of a table with the same ids.
            request: what will be asked for.

        Raises:
            UsageError: the shards hold smaller frames or a lower rate.
        """
        size, sample_rate = request.size, request.sample_rate
        if size > self.size:
            raise UsageError(
                f"the shards in {self.source.root} hold frames of {self.size} pixels, video.decode_size={size}: set "
                f"video.decode_size={self.size}, or prepare them again with --size {size}"
            )
        if sample_rate > self.sample_rate:
            raise UsageError(
                f"the shards in {self.source.root} hold {self.sample_rate} samples a second, "
                f"audio.sample_rate={sample_rate}: set audio.sample_rate={self.sample_rate}, or prepare them again "
                f"with --sample-rate {sample_rate}"
            )
        chosen = ShardReader(self.source, self.settings, self.index.slice(0, 0))
        places = pc.index_in(rows["id"], value_set=self.index["id"].combine_chunks())
        places_of_clips = self.index.drop_columns(["id"]).take(places.combine_chunks())
        for name in places_of_clips.column_names:
            column = pc.fill_null(places_of_clips[name], -1).to_numpy()
            setattr(chosen, "shards" if name == "shard" else name, column)
        return chosen

    shards: np.ndarray
    first_frame: np.ndarray
    num_frames: np.ndarray
    sound_at: np.ndarray
    num_samples: np.ndarray

    def read(self, row: int, window: Window, request: Request) -> Streams:
        """Read a window; see datamodules.stores.reader.ClipReader.

        Raises:
            MediaError: the clip is not in the shards, or its shard cannot be fetched or read.
        """
        with self._opened(row) as (tar, records):
            frames, waveform = None, None
            if request.num_frames and self.num_frames[row]:
                times_s = frame_times(window.start_s, window.clip_s, request.num_frames)
                frames = self._frames(tar, records, row, times_s, request.size, window.offset)
            if request.sample_rate:
                waveform = self._sound(tar, row, window, request.sample_rate)
        return Streams(frames, waveform)

    def frames_at(self, row: int, times_s: Sequence[float]) -> np.ndarray:
        """Read the frames shown at ascending times, in seconds from the start of the file, as they are stored.

        Returns:
            (len(times_s), h, w, 3) uint8.

        Raises:
            MediaError: see read.
        """
        with self._opened(row) as (tar, records):
            return self._frames(tar, records, row, np.asarray(times_s, float), self.size, None)

    def sound(self, row: int) -> np.ndarray:
        """Read all the sound of a recording: (S,) int16 of self.sample_rate; S = 0 without sound.

        Raises:
            MediaError: see read.
        """
        with self._opened(row) as (tar, _):
            return np.frombuffer(_read(tar, int(self.sound_at[row]), 2 * int(self.num_samples[row])), "<i2")

    def times_s(self, row: int) -> np.ndarray:
        """When the stored frames of a recording are shown: (T,) float64 seconds, ascending.

        Raises:
            MediaError: see read.
        """
        with self._opened(row) as (_, records):
            first = int(self.first_frame[row])
            return np.array(records["time_s"][first : first + int(self.num_frames[row])])

    @contextmanager
    def _opened(self, row: int) -> Iterator[tuple[int, np.ndarray]]:
        """The descriptor and the frame records of a row's shard; faults become MediaErrors."""
        shard = int(self.shards[row])
        if shard < 0:
            raise MediaError(Path(self.source.root), "vanished", "the clip is not in the shards")
        try:
            yield self.source.open(shard)
        except OSError as error:
            status = "corrupt" if error.errno is None else fault_of(error)[0]
            raise MediaError(Path(tar_name(shard)), status, f"{self.source.root}: {error}") from error
        except (RuntimeError, ValueError) as error:
            raise MediaError(Path(tar_name(shard)), "corrupt", f"{self.source.root}: {error}") from error

    def _frames(
        self, tar: int, records: np.ndarray, row: int, times_s: np.ndarray, size: int, offset: float | None
    ) -> np.ndarray:
        first = int(self.first_frame[row])
        records = records[first : first + int(self.num_frames[row])]
        used = latest_frames(records["time_s"], times_s)
        distinct, place = np.unique(used, return_inverse=True)
        chosen = records[distinct]
        begin = int(chosen["at"][0])
        content = memoryview(_read(tar, begin, int(chosen["at"][-1] + chosen["bytes"][-1]) - begin))
        starts = (chosen["at"] - begin).tolist()
        jpegs = [content[at : at + length] for at, length in zip(starts, chosen["bytes"].tolist(), strict=True)]
        frames = decode_jpegs(jpegs, size=0 if size == self.size else size, offset=offset)
        return frames if len(distinct) == len(used) else frames[place]

    def _sound(self, tar: int, row: int, window: Window, sample_rate: int) -> np.ndarray | None:
        stored, count = self.sample_rate, int(self.num_samples[row])
        margin_s = 0.0 if sample_rate == stored else 0.05  # for the filter of the resampling to settle
        start_s, end_s = window.start_s - margin_s, window.start_s + window.clip_s + margin_s
        first = min(max(round(start_s * stored), 0), count)
        last = min(max(round(end_s * stored), first), count)
        samples = np.frombuffer(_read(tar, int(self.sound_at[row]) + 2 * first, 2 * (last - first)), "<i2")
        if sample_rate != stored and samples.size:
            from scipy.signal import resample_poly  # seconds to import, in each process, and seldom needed

            common = np.gcd(sample_rate, stored)
            changed = resample_poly(samples.astype(np.float32), sample_rate // common, stored // common)
            samples = np.clip(np.rint(changed), -32768, 32767).astype(np.int16)
        return cut_waveform(samples, window.start_s - first / stored, window.clip_s, sample_rate)


class _ShardFiles:
    """Opens shards, which it fetches first where they are remote.

    Any number of processes share the folder: a lock for each shard lets one of them fetch it, a lock for the folder
    lets one of them make room.  A shard that is removed while another process reads it stays readable there.
    """

    def __init__(self, root: str, folder: Path | None, limit: int) -> None:
        self.root, self.folder, self.limit = root, folder, limit
        self._opened: OrderedDict[int, tuple[int, np.ndarray]] = OrderedDict()

    def __reduce__(self) -> tuple[type, tuple[str, Path | None, int]]:
        return _ShardFiles, (self.root, self.folder, self.limit)  # open files stay in their process

    def __del__(self) -> None:
        while self._opened:
            os.close(self._opened.popitem()[1][0])

    def open(self, shard: int) -> tuple[int, np.ndarray]:
        """Return the descriptor of a shard's tar and its frame records."""
        if shard in self._opened:
            self._opened.move_to_end(shard)
            return self._opened[shard]
        for left in reversed(range(_TRIES)):
            try:
                folder = Path(self.root) if self.folder is None else self._fetch(shard)
                records = np.load(folder / frames_name(shard), mmap_mode="r", allow_pickle=False)
                opened = os.open(folder / tar_name(shard), os.O_RDONLY | os.O_CLOEXEC), records
                break
            except FileNotFoundError:  # another process has just made room
                if self.folder is None or not left:
                    raise
        self._opened[shard] = opened
        if len(self._opened) > _OPEN_SHARDS:
            os.close(self._opened.popitem(last=False)[1][0])
        return opened

    def _fetch(self, shard: int) -> Path:
        assert self.folder is not None
        tar = self.folder / tar_name(shard)
        with locked(self.folder / "locks" / str(shard)):
            if tar.exists():
                os.utime(tar)  # the time of its last use
                return self.folder
            files, path = fsspec.core.url_to_fs(self.root)
            names = (frames_name(shard), tar_name(shard))  # the tar last: where it is, both are
            temporary = {name: self.folder / f".{name}.tmp" for name in names}
            self._make_room(sum(int(files.size(f"{path}/{name}")) for name in names), temporary[tar.name])
            for name in names:
                _download(files, f"{path}/{name}", temporary[name])
                os.replace(temporary[name], self.folder / name)
        return self.folder

    def _make_room(self, needed: int, reserved: Path) -> None:
        """Remove the least recently used shards, and keep `needed` bytes under the name of the file to come."""
        assert self.folder is not None
        with locked(self.folder / "locks" / "room"):
            for left_over in self.folder.glob(".shard-*.tar.tmp"):
                lock = hold(self.folder / "locks" / str(_shard_of(left_over.name[1:])))
                if lock is not None:  # nobody fetches it: its process was killed
                    left_over.unlink(missing_ok=True)
                    lock.close()
            kept = sorted(self.folder.glob("shard-*.tar"), key=lambda tar: tar.stat().st_mtime_ns)
            total = needed + sum(file.stat().st_size for file in self.folder.glob("*shard-*") if file != reserved)
            for tar in kept:
                if total <= self.limit:
                    break
                for part in (tar, self.folder / frames_name(_shard_of(tar.name))):
                    total -= part.stat().st_size
                    part.unlink()
            with reserved.open("wb") as file:
                file.truncate(needed)  # a hole: it counts for other processes, and takes no space


def _download(files: Any, source: str, target: Path) -> None:
    """Fetch a remote file; what goes wrong on the way is tried again."""
    for left in reversed(range(_TRIES)):
        try:
            size = int(files.size(source))
            with files.open(source, "rb") as remote, target.open("wb") as local:
                local.truncate(size)  # what it will take counts from now on
                shutil.copyfileobj(remote, local, 2**22)
                if local.tell() != size:
                    raise OSError(f"the connection ended after {local.tell()} of {size} bytes")
            return
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has exceptions of its own
            if not left:
                raise OSError(f"{source}: {error}") from error
            time.sleep(2.0 ** (_TRIES - 1 - left))


def _shard_of(name: str) -> int:
    return int(name[len("shard-") : len("shard-") + 6])


def _read(descriptor: int, at: int, length: int) -> bytes:
    content = os.pread(descriptor, length, at)
    if len(content) != length:
        raise OSError(f"the shard ends at byte {at + len(content)}, expected {at + length}")
    return content
