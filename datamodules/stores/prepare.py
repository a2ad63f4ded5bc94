"""Re-encode once, then read fast: media files become tar shards, or small files that are quick to seek in.

Which clip goes into which shard is decided from the manifest before anything is written, each clip is encoded to a part
of its own and read back, and a shard takes its name when it is whole.  So a run that was killed goes on where it was,
and ends with the bytes of an unbroken one.
"""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.manifest import describe_bad, mark_unusable, usable, write_manifest
from datamodules.processes import Failure, run_jobs
from datamodules.stores.cache import are_still
from datamodules.stores.shards import FRAME, INDEX, MARK, VERSION, frames_name, pack_clip, tar_name, unpack_clip
from selavi.atomic import hold, hold_together, locked, write_atomically, write_text
from selavi.errors import DataError, UsageError
from selavi.filesystem import PASSING, real_path
from selavi.guarded.json_file import read_json
from selavi.guarded.parquet import read_parquet, write_parquet
from selavi.ids import describe_changes
from selavi.media import (
    MediaError,
    decode_jpegs,
    decode_sound,
    encode_clip,
    encode_jpeg,
    stream_frames,
)
from selavi.meter import follow
from selavi.randomness import mix
from selavi.runs.manifest import media_root, read_manifest, require_unchanged
from selavi.wording import command

log = logging.getLogger("selavi")

PLAN, CLIPS, WORK, LOCK = "prepare.json", "prepare.parquet", "parts", "prepare.lock"
_PLANNED = ["id", "split", "label", "bytes", "mtime_ns"]
_MEMORY_BYTES = 4 * 2**30
"""Memory for one clip."""
Picture = TypeVar("Picture")
_ONLY_OUT = {PLAN, CLIPS, WORK, LOCK, MARK, "manifest.parquet", "index.parquet"}


@dataclass(frozen=True)
class PrepareSettings:
    """What the prepared clips shall be like."""

    format: Literal["shards", "files"] = "shards"
    size: int = 128
    """Pixels of the short side."""
    aspect: float = 0.0
    """The long side is cut, from both ends, to at most this many times the short one; 0: not at all."""
    fps: float = 0.0
    """Frames a second that are kept at most; 0: all."""
    sample_rate: int = 24000
    """Rate of the sound, in samples a second, mono."""
    quality: int = 90
    """Quality of the JPEG frames in shards, 1 to 100."""
    shard_mb: int = 256
    """Megabytes of a shard, roughly."""

    def __post_init__(self) -> None:
        def require(condition: bool, name: str, expected: str, value: object) -> None:
            if not condition:
                raise UsageError(f"--{name} must be {expected}, got {value}")

        require(self.format in ("shards", "files"), "format", "shards or files", self.format)
        require(16 <= self.size <= 1024 and self.size % 2 == 0, "size", "an even number from 16 to 1024", self.size)
        require(self.aspect == 0 or 1 <= self.aspect <= 100, "aspect", "0, or 1 to 100", self.aspect)
        require(0 <= self.fps <= 1000, "fps", "0 to 1000", self.fps)
        require(1000 <= self.sample_rate <= 192_000, "sample-rate", "1000 to 192000", self.sample_rate)
        require(1 <= self.quality <= 100, "quality", "1 to 100", self.quality)
        require(self.shard_mb >= 1, "shard-mb", "at least 1", self.shard_mb)


@dataclass(frozen=True)
class PrepareSummary:
    """What prepare did."""

    num_clips: int
    """Prepared, now or by an earlier run on the same folder."""
    num_encoded: int
    """Those of them that this run has encoded."""
    bytes_in: int
    """Size of the prepared clips' original files."""
    bytes_out: int
    seconds: float
    faults: dict[str, tuple[str, str]]
    """(reason, detail) of the ids that could not be prepared."""
    pictures: bool = False
    """Whether they are still pictures."""


class Job(NamedTuple):
    """One clip to prepare."""

    key: str
    """Nine digits; name of its members in a shard."""
    facts: dict
    """Its row of the manifest."""
    target: str
    """File to write."""


def prepare(
    manifest: pa.Table, out: Path, settings: PrepareSettings, *, workers: int = 0, deadline_s: float = 600.0
) -> PrepareSummary:
    """Prepare the usable clips of a manifest; the originals are only read.

    Args:
        manifest: of scan, or with the splits and labels of a list.
        out: folder to write; empty, or left by an interrupted run with the same clips and settings.
        settings: what to write.
        workers: processes; 0: one for each core.
        deadline_s: a clip that takes longer fails.

    Raises:
        UsageError: `out` is inside the media folder, holds something else, or is in use; no clip can be used; the disk
            is full.
    """
    began = time.monotonic()
    rows = _to_prepare(manifest, out, settings)
    lock = hold(out / LOCK)
    if lock is None:
        raise UsageError(f"{out} is being prepared by another process")
    with lock:
        _begin(rows, out, settings)
        for half in out.rglob(".*.tmp"):
            half.unlink(missing_ok=True)
        lasting, passing = _earlier_faults(rows, out)
        if passing:  # what was finished lacks clips that may be well by now
            log.warning(f"{len(passing):,} clips that failed for a reason that may have passed are tried again")
            (out / MARK).unlink()
        if (out / MARK).exists():
            encoded = 0
        else:
            with _told_of_room(out):
                if settings.format == "shards":
                    prepared: _Shards | _Files = _Shards(rows, out, settings)
                else:
                    prepared = _Files(rows, out, settings, lasting)
                encoded, faults = prepared.make(workers, deadline_s)
            _finish(manifest, out, settings, prepared, faults)
        return _summary(rows, out, encoded, began)


def prepare_share(
    manifest: pa.Table,
    out: Path,
    settings: PrepareSettings,
    task: tuple[int, int],
    *,
    workers: int = 0,
    deadline_s: float = 600.0,
) -> tuple[PrepareSummary | None, int, int]:
    """Prepare one task's share of the shards, every n-th; tasks meet nowhere but in `out`.

    A set that is finished stays as it is, whatever failed in passing: `prepare` tries that again.

    Args:
        manifest: see prepare, as for the other arguments; the same for all tasks.
        out: one folder for all tasks.
        settings: of shards.
        task: number from 0, of how many.
        workers: processes.
        deadline_s: a clip that takes longer fails.

    Returns:
        The summary, None while other tasks are not done; how many these are; how many clips were encoded now.

    Raises:
        UsageError: as prepare; or another process is at work on the same task, or small files are asked for.
    """
    began = time.monotonic()
    number, count = task
    if settings.format != "shards":
        raise UsageError("small files are made by one process: expected --format shards, or --task 0/1, got files")
    rows = _to_prepare(manifest, out, settings)
    marks = [out / WORK / f"task-{each}-of-{count}" for each in range(count)]
    lock = hold_together(out / LOCK)
    if lock is None:
        raise UsageError(f"{out} is being prepared by another process, which does everything")
    with lock:
        encoded = 0
        if not (out / MARK).exists():
            shards = _Shards(rows, out, settings)
            with locked(out / WORK / LOCK):
                _begin(rows, out, settings)
            with _owned(marks[number], f"task {number}/{count} of {out}"), _told_of_room(out):
                encoded = shards.write(range(number, len(shards.shard_ends), count), workers, deadline_s)
            with locked(out / WORK / LOCK):
                num_missing = sum(not mark.exists() for mark in marks)
                if num_missing and not (out / MARK).exists():
                    return None, num_missing, encoded
                if num_missing == 0:
                    for half in out.glob(".*.tmp"):
                        half.unlink(missing_ok=True)
                    _finish(manifest, out, settings, shards, shards.collect())
        _begin(rows, out, settings)
        return _summary(rows, out, encoded, began), 0, encoded


@contextmanager
def _owned(mark: Path, what: str) -> Iterator[None]:
    """Do a task that no other process does at the same time; the mark says that it was done."""
    mark.parent.mkdir(exist_ok=True)
    own = hold(mark.with_suffix(".lock"))
    if own is None:
        raise UsageError(f"another process is at work on {what}")
    with own:
        mark.unlink(missing_ok=True)
        yield
        mark.touch()


def _to_prepare(manifest: pa.Table, out: Path, settings: PrepareSettings) -> pa.Table:
    """The rows that are to be prepared, by id; makes the folder for them."""
    rows = usable(manifest).sort_by("id")
    require_place(media_root(manifest), out)
    if not len(rows):
        raise UsageError(f"no file in {media_root(manifest)} can be used, so there is nothing to prepare")
    if settings.format == "files" and are_still(rows).any():
        raise UsageError("small video files cannot be made of still pictures: expected --format shards, got files")
    out.mkdir(parents=True, exist_ok=True)
    return rows


@contextmanager
def _told_of_room(out: Path) -> Iterator[None]:
    """Say what to do where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(
            f"no space left for {out}; make room and run the same command again: it goes on from here"
        ) from error


def _finish(
    manifest: pa.Table,
    out: Path,
    settings: PrepareSettings,
    prepared: "_Shards | _Files",
    faults: dict[str, tuple[str, str]],
) -> None:
    """Write the manifest of the prepared clips, and last the mark that says that all are there."""
    write_manifest(mark_unusable(prepared.manifest(manifest), faults), out / "manifest.parquet")
    description = asdict(settings) | {"version": VERSION, "shard_bytes": prepared.shard_bytes()}
    write_text(out / MARK, json.dumps(description, indent=1) + "\n")
    shutil.rmtree(out / WORK, ignore_errors=True)


def _summary(rows: pa.Table, out: Path, encoded: int, began: float) -> PrepareSummary:
    """What came of the rows of a finished set.

    Raises:
        DataError: nothing.
    """
    made = read_manifest(out / "manifest.parquet")
    kept = pc.is_in(rows["id"], value_set=usable(made)["id"].combine_chunks())
    lost = made.filter(pc.is_in(made["id"], value_set=rows["id"].filter(pc.invert(kept)).combine_chunks()))
    if not len(usable(made)):
        raise DataError(f"none of {len(rows):,} clips could be prepared: {describe_bad(made)}")
    return PrepareSummary(
        num_clips=int(pc.sum(kept).as_py()),
        num_encoded=encoded,
        bytes_in=_bytes_of_files(rows.filter(kept)),
        bytes_out=sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        seconds=time.monotonic() - began,
        faults={row["id"]: (row["status"], row["reason"]) for row in lost.to_pylist()},
        pictures=bool(are_still(rows).all()),
    )


def describe_summary(summary: PrepareSummary, out: Path, settings: PrepareSettings) -> str:
    """Say what was done and what to run next."""
    rate = summary.num_encoded / max(summary.seconds, 1e-9)
    lines = [
        f"{summary.num_clips} clips in {out}: {_size(summary.bytes_in)} became {_size(summary.bytes_out)}; "
        f"{summary.num_encoded} of them encoded now, {rate:.1f} clips/s"
    ]
    reasons: dict[str, list[str]] = {}
    for clip_id, (reason, detail) in summary.faults.items():
        reasons.setdefault(reason, []).append(f"{clip_id}: {detail}")
    lines += [f"left out: {len(found)} {reason}, such as {found[0]}" for reason, found in sorted(reasons.items())]
    if passing := sum(len(found) for reason, found in reasons.items() if reason in PASSING):
        lines.append(f"the same command tries {passing} of them again, which failed for a reason that may pass")
    lines.append(
        "Next: train    "
        + command(
            "train",
            "--config",
            "images" if summary.pictures else "vggsound",
            f"data.root={out}",
            *_read_with(settings, summary.pictures),
        )
    )
    return "\n".join(lines)


def _read_with(settings: PrepareSettings, pictures: bool) -> tuple[str, ...]:
    """Settings with which training reads what was prepared."""
    if pictures:
        return (f"image.decode_size={settings.size}",)
    return f"video.decode_size={settings.size}", f"audio.sample_rate={settings.sample_rate}"


def _bytes_of_files(clips: pa.Table) -> int:
    """Bytes of the files that clips come from; pieces of one recording count it once."""
    files = clips.select(["path", "bytes"]).group_by("path").aggregate([("bytes", "max")])
    return int(pc.sum(files["bytes_max"]).as_py() or 0)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def require_place(root: Path, out: Path) -> None:
    """Raise UsageError where prepared clips of a media folder cannot go into `out`."""
    root, place = real_path(root), real_path(out)
    if place == root or root in place.parents:
        raise UsageError(
            f"{out} is inside the media folder {root}; choose a folder beside it: originals stay as they are"
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; choose a folder")
    # Other tasks may begin in it now: whatever else is there comes after PLAN, for which is looked last.
    others = _names_in(out) - {LOCK, CLIPS}
    if (out / WORK).is_dir() and not _names_in(out / WORK) - {LOCK}:
        others -= {WORK}
    if others and not (out / PLAN).exists():
        raise UsageError(f"{out} is not empty, and was not made by this tool; choose an empty folder")


def _names_in(folder: Path) -> set[str]:
    """What is in a folder but half-written files; nothing where there is none."""
    try:
        return {name for name in os.listdir(folder) if not name.endswith(".tmp")}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _begin(rows: pa.Table, out: Path, settings: PrepareSettings) -> None:
    """Write down what is to be made, or find the same written."""
    digest = blake2b(str(media_root(rows)).encode(), digest_size=16)
    for name in ("id", "split", "label", "bytes", "mtime_ns"):
        digest.update(repr(rows[name].to_pylist()).encode())
    plan: dict[str, Any] = {"settings": asdict(settings), "clips": len(rows), "digest": digest.hexdigest()}
    path = out / PLAN
    if not path.exists():
        write_parquet(rows.select(_PLANNED), out / CLIPS)
        write_text(path, json.dumps(plan, indent=1) + "\n")
        return
    before = read_json(path, "choose another folder or delete this one")
    if before != plan:
        differing = [
            f"{name}: {before['settings'].get(name)}, now {value}"
            for name, value in asdict(settings).items()
            if before["settings"].get(name) != value
        ]
        if before["digest"] != plan["digest"]:
            counts = f"{before['clips']} clips, now {plan['clips']}"
            differing.append(f"the media files, their splits or labels ({counts}{_differing_clips(rows, out)})")
        raise UsageError(
            f"{out} was begun with other input; choose another folder or delete it. {'; '.join(differing)}"
        )


def _differing_clips(rows: pa.Table, out: Path) -> str:
    """Which clips differ from those that were planned; "" where an earlier version has not written them down."""
    if not (out / CLIPS).exists():
        return ""
    before = read_parquet(out / CLIPS)
    if media_root(before) != media_root(rows):
        return f"; in {media_root(before)}, now in {media_root(rows)}"
    parts = [describe_changes(before["id"].to_pylist(), rows["id"].to_pylist())]
    place = pc.index_in(rows["id"], value_set=before["id"].combine_chunks()).combine_chunks()
    both = pc.is_valid(place)
    now, then = rows.filter(both), before.take(place.filter(both))
    for words, names in (("another size or time", _PLANNED[3:]), ("another split or label", _PLANNED[1:3])):
        pairs = zip(now["id"].to_pylist(), *(t.select(names).to_pylist() for t in (now, then)), strict=True)
        changed = [clip_id for clip_id, one, other in pairs if one != other]
        if changed:
            parts.append(f"{len(changed):,} have {words} (such as {changed[0]!r})")
    return "".join(f"; {part}" for part in parts if part)


def _earlier_faults(rows: pa.Table, out: Path) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """The lasting faults, by id, of the clips of a finished set, and the ids that failed in passing."""
    if not (out / MARK).exists():
        return {}, []
    made = read_manifest(out / "manifest.parquet").select(["id", "status", "reason"])
    made = made.filter(pc.is_in(made["id"], value_set=rows["id"].combine_chunks()))
    faults = made.filter(pc.not_equal(made["status"], "ok")).to_pylist()
    lasting = {row["id"]: (row["status"], row["reason"]) for row in faults if row["status"] not in PASSING}
    return lasting, [row["id"] for row in faults if row["status"] in PASSING]


class _Shards:
    """Tar shards, from parts that the workers write."""

    def __init__(self, rows: pa.Table, out: Path, settings: PrepareSettings) -> None:
        self.rows, self.out, self.settings = rows, out, settings
        self.order, self.shard_ends = assign_shards(rows, settings)

    def make(self, workers: int, deadline_s: float) -> tuple[int, dict[str, tuple[str, str]]]:
        """Write what is missing; returns how many clips were encoded and the faults of all."""
        encoded = self.write(range(len(self.shard_ends)), workers, deadline_s)
        return encoded, self.collect()

    def write(self, shards: Iterable[int], workers: int, deadline_s: float) -> int:
        """Write those of some shards that are not whole; returns how many clips were encoded."""
        (self.out / WORK).mkdir(exist_ok=True)
        starts = np.concatenate([[0], self.shard_ends[:-1]])
        missing = [shard for shard in shards if not self._is_whole(shard)]
        left = {shard: int(self.shard_ends[shard] - starts[shard]) for shard in missing}
        faults: dict[int, Failure] = {}
        todo = []
        for shard in missing:
            for place in range(starts[shard], self.shard_ends[shard]):
                if self._part(place).exists():
                    left[shard] -= 1
                else:
                    todo.append((shard, place))
            if not left[shard]:
                self._assemble(shard, range(starts[shard], self.shard_ends[shard]), faults)
        work = partial(encode_part, root=str(media_root(self.rows)), settings=self.settings)
        results = run_jobs(
            work,
            (self._job(place) for _, place in todo),
            workers=workers,
            deadline_s=deadline_s,
            memory_bytes=_MEMORY_BYTES,
        )
        encoded = 0
        for number, result in follow(results, "preparing", len(todo), "clips"):
            shard, place = todo[number]
            if isinstance(result, Failure):
                faults[place] = result
            else:
                encoded += 1
            left[shard] -= 1
            if not left[shard]:
                self._assemble(shard, range(starts[shard], self.shard_ends[shard]), faults)
        return encoded

    def collect(self) -> dict[str, tuple[str, str]]:
        """Write the index of all shards, which are there; returns the faults of their clips."""
        tables = [read_parquet(self._index(shard)) for shard in range(len(self.shard_ends))]
        index = pa.concat_tables(tables)
        bad = {
            row["id"]: (row["status"], row["reason"])
            for row in index.filter(pc.not_equal(index["status"], "ok")).to_pylist()
        }
        good = index.filter(pc.equal(index["status"], "ok")).select(INDEX.names).sort_by("id")
        write_parquet(good, self.out / "index.parquet")
        return bad

    def manifest(self, manifest: pa.Table) -> pa.Table:
        """The manifest of the originals: paths still name them, so that a gallery can show them."""
        return manifest

    def shard_bytes(self) -> list[int]:
        """Bytes of each shard with its frame records."""
        return [
            (self.out / tar_name(shard)).stat().st_size + (self.out / frames_name(shard)).stat().st_size
            for shard in range(len(self.shard_ends))
        ]

    def _key(self, place: int) -> str:
        return f"{place:09d}"

    def _part(self, place: int) -> Path:
        return self.out / WORK / f"{self._key(place)}.part"

    def _index(self, shard: int) -> Path:
        return (self.out / tar_name(shard)).with_suffix(".parquet")

    def _job(self, place: int) -> Job:
        facts = self.rows.slice(int(self.order[place]), 1).to_pylist()[0]
        return Job(self._key(place), facts, str(self._part(place)))

    def _is_whole(self, shard: int) -> bool:
        index, tar = self._index(shard), self.out / tar_name(shard)
        if not index.exists() or not tar.exists() or not (self.out / frames_name(shard)).exists():
            return False
        table = read_parquet(index, ["status"])
        if tar.stat().st_size != int(table.schema.metadata[b"tar_bytes"]):
            return False
        statuses = table["status"]
        return not pc.any(pc.is_in(statuses, value_set=pa.array(PASSING))).as_py()

    def _assemble(self, shard: int, places: range, faults: dict[int, Failure]) -> None:
        """Join the parts of a shard's clips, in their order; its index is written last, and says that it is whole."""
        index: list[dict[str, object]] = []
        records: list[np.ndarray] = [np.zeros(0, FRAME)]
        at = num_frames = 0
        with write_atomically(self.out / tar_name(shard)) as temporary, temporary.open("wb") as tar:
            for place in places:
                clip_id = self.rows["id"][int(self.order[place])].as_py()
                if place in faults:
                    fault = faults.pop(place)
                    empty = {"num_frames": 0, "sound_at": 0, "num_samples": 0}
                    status = {"status": fault.reason, "reason": fault.detail}
                    index.append({"id": clip_id, "shard": shard, "first_frame": num_frames} | empty | status)
                    continue
                with _mapped(self._part(place)) as piece:
                    sample, length = unpack_clip(piece), len(piece)
                    tar.write(piece)
                frames = sample.frames
                frames["at"] += at
                records.append(frames)
                index.append(
                    {
                        "id": clip_id,
                        "shard": shard,
                        "first_frame": num_frames,
                        "num_frames": len(frames),
                        "sound_at": at + sample.sound_at,
                        "num_samples": sample.num_samples,
                        "status": "ok",
                        "reason": None,
                    }
                )
                at, num_frames = at + length, num_frames + len(frames)
            tar.write(bytes(1024))  # the end of a tar
        with write_atomically(self.out / frames_name(shard)) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(records))
        schema = pa.schema([*INDEX, ("status", pa.string()), ("reason", pa.string())])
        table = pa.Table.from_pylist(index, schema=schema.with_metadata({"tar_bytes": str(at + 1024)}))
        write_parquet(table, self._index(shard))
        for place in places:
            self._part(place).unlink(missing_ok=True)


def _small_file(path: str, start_s: float, end_s: float | None) -> str:
    """Name of the small file of a recording, or of a piece of it."""
    if end_s is not None:
        stem = path.rpartition(".")[0] or path
        return f"{stem}-{start_s:.3f}-{end_s:.3f}.mp4"
    return path if path.lower().endswith(".mp4") else f"{path}.mp4"


class _Files:
    """Small files of short groups of pictures, in the folders of the originals."""

    def __init__(
        self, rows: pa.Table, out: Path, settings: PrepareSettings, lasting: dict[str, tuple[str, str]]
    ) -> None:
        self.rows, self.out, self.settings, self.lasting = rows, out, settings, lasting
        self.names = [_small_file(**row) for row in rows.select(["path", "start_s", "end_s"]).to_pylist()]
        if len(set(self.names)) < len(self.names) or any(PurePosixPath(n).parts[0] in _ONLY_OUT for n in self.names):
            raise UsageError("two files would get one name; rename files such as a.avi beside a.avi.mp4")

    def make(self, workers: int, deadline_s: float) -> tuple[int, dict[str, tuple[str, str]]]:
        """Write what is missing; returns how many clips were encoded and the faults of all."""
        ids = self.rows["id"].to_pylist()
        todo = [
            place
            for place, name in enumerate(self.names)
            if ids[place] not in self.lasting and not (self.out / name).exists()
        ]
        results = run_jobs(
            partial(encode_file, root=str(media_root(self.rows)), settings=self.settings),
            (self._job(place) for place in todo),
            workers=workers,
            deadline_s=deadline_s,
            memory_bytes=_MEMORY_BYTES,
        )
        faults = {}
        for number, result in follow(results, "preparing", len(todo), "clips"):
            if isinstance(result, Failure):
                faults[ids[todo[number]]] = result.reason, result.detail
        return len(todo) - len(faults), self.lasting | faults

    def manifest(self, manifest: pa.Table) -> pa.Table:
        """The rows of the new files: ids, labels and times of the originals, so that spans stay the same."""
        path_of = dict(zip(self.rows["id"].to_pylist(), self.names, strict=True))
        changed = []
        for row in manifest.to_pylist():
            path = path_of.get(row["id"])
            if path is not None and (self.out / path).exists():
                # No time of change: a copy of the folder would have another.
                row |= {"path": path, "bytes": (self.out / path).stat().st_size, "mtime_ns": 0}
                row |= {"start_s": 0.0, "end_s": None}
            changed.append(row)
        return pa.Table.from_pylist(changed, schema=manifest.schema)

    def shard_bytes(self) -> list[int]:
        """None."""
        return []

    def _job(self, place: int) -> Job:
        return Job(f"{place:09d}", self.rows.slice(place, 1).to_pylist()[0], str(self.out / self.names[place]))


def assign_shards(rows: pa.Table, settings: PrepareSettings) -> tuple[np.ndarray, np.ndarray]:
    """Decide which clip goes where, from the manifest alone.

    A shard holds clips of one split, drawn at random, so that any few shards are a fair sample of it.

    Returns:
        order (N,): rows in the order of the shards; ends (num_shards,): where in `order` each shard ends.
    """
    sizes = estimate_bytes(rows, settings)
    splits = rows["split"].to_numpy(zero_copy_only=False).astype(str)
    orders, ends = [], []
    placed = 0
    for split in np.unique(splits):
        members = np.flatnonzero(splits == split)
        members = members[np.random.default_rng(mix("prepare", split)).permutation(len(members))]
        before = np.cumsum(sizes[members]) - sizes[members]
        shard = (before // (settings.shard_mb * 1e6)).astype(np.int64)
        last = np.append(np.flatnonzero(np.diff(shard)), len(members) - 1)
        orders.append(members)
        ends.append(placed + last + 1)
        placed += len(members)
    return np.concatenate(orders), np.concatenate(ends)


def estimate_bytes(rows: pa.Table, settings: PrepareSettings) -> np.ndarray:
    """Bytes that each clip will roughly take in a shard: (N,) float64."""
    width, height, seconds, fps = (
        np.nan_to_num(rows[name].to_numpy().astype(np.float64)) for name in ("width", "height", "duration_s", "fps")
    )
    aspect = np.maximum(width, height) / np.maximum(np.minimum(width, height), 1)
    pixels = settings.size**2 * (np.minimum(aspect, settings.aspect) if settings.aspect else aspect)
    fps = np.minimum(fps, settings.fps) if settings.fps else fps
    num_frames = np.where(are_still(rows), 1.0, seconds * fps)
    bytes_per_pixel = 0.38 * 10 ** ((settings.quality - 90) / 40)  # of ordinary video frames as JPEG, 4:2:0
    return num_frames * pixels * bytes_per_pixel + seconds * settings.sample_rate * 2 + 4096


def encode_part(job: Job, *, root: str, settings: PrepareSettings) -> None:
    """Write the tar members of one clip, and read them back.

    Raises:
        MediaError: the original cannot be read, or what was written is not what was meant.
    """
    path = Path(root) / job.facts["path"]
    require_unchanged(path, job.facts["bytes"], job.facts["mtime_ns"])
    facts = {name: job.facts[name] for name in ("id", "split", "label", "duration_s")}
    facts |= {"height": 0, "width": 0, "sample_rate": settings.sample_rate}
    jpegs: list[bytes] = []
    times_s: list[float] = []
    for time_s, frame in _frames(path, job.facts, settings):
        jpegs.append(encode_jpeg(frame, settings.quality))
        times_s.append(time_s)
        _require_alike(path, decode_jpegs(jpegs[-1:])[0], _thumbnail(frame))
        facts |= {"height": frame.shape[0], "width": frame.shape[1]}
    waveform = _sound(path, job.facts, settings)
    with _renamed(Path(job.target)) as temporary:
        with temporary.open("wb") as file:
            file.writelines(pack_clip(job.key, facts, jpegs, times_s, waveform))
        with _mapped(temporary) as written:
            at = 0
            for piece in pack_clip(job.key, facts, jpegs, times_s, waveform):
                if written[at : at + len(piece)] != piece:
                    raise MediaError(path, "corrupt", "reads back differently from what was written: check the disk")
                at += len(piece)
            if at != len(written) or unpack_clip(written).num_samples != len(waveform):
                raise MediaError(path, "corrupt", "reads back with another length: check the disk")


def encode_file(job: Job, *, root: str, settings: PrepareSettings) -> None:
    """Write one small file, and read it back.

    Raises:
        MediaError: the original cannot be read, or what was written is not what was meant.
    """
    path, target = Path(root) / job.facts["path"], Path(job.target)
    require_unchanged(path, job.facts["bytes"], job.facts["mtime_ns"])
    duration_s, fps = job.facts["duration_s"], job.facts["fps"]
    if job.facts["width"] == 0:
        raise MediaError(path, "no_video", "small files are films: --format shards keeps sound alone")
    if not fps:
        fps = sum(1 for _ in _frames(path, job.facts, settings)) / max(duration_s, 1e-3)
    fps = min(fps, settings.fps) if settings.fps else fps
    # A constant rate that starts at 0, also where the original's varies: no frame is off by more than one.
    times_s = np.arange(max(1, round(duration_s * fps))) / fps
    seen: list[np.ndarray] = []

    def pictures() -> Iterator[np.ndarray]:
        for frame in on_screen(_frames(path, job.facts, settings), times_s.tolist()):
            even = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
            seen.append(_thumbnail(even))
            yield even

    waveform = _sound(path, job.facts, settings)
    sound = waveform if waveform.size else None
    target.parent.mkdir(parents=True, exist_ok=True)
    with _renamed(target) as temporary:
        encode_clip(
            temporary, pictures(), sound, fps=fps, sample_rate=settings.sample_rate, gop=8, fast_decode=True
        )  # fmt: skip
        written = 0
        for _, frame in stream_frames(temporary, size=settings.size):
            if written < len(seen):
                _require_alike(path, frame, seen[written])
            written += 1
        if written != len(seen):
            raise MediaError(path, "corrupt", f"reads back as {written} frames, expected {len(seen)}")
        if (decode_sound(temporary, sample_rate=settings.sample_rate).size > 0) != (sound is not None):
            raise MediaError(path, "corrupt", "the sound does not read back")


def _frames(path: Path, facts: dict, settings: PrepareSettings) -> Iterator[tuple[float, np.ndarray]]:
    """Frames of an original, or of a piece of it, to be stored, and when each is shown, from the clip's begin."""
    if facts["width"] == 0:  # sound alone
        return
    start_s, end_s = _span(facts)
    decoded = stream_frames(path, size=settings.size, start_s=start_s, end_s=end_s)
    frames: Iterator[tuple[float, np.ndarray]] = ((max(time_s - start_s, 0.0), frame) for time_s, frame in decoded)
    frames = thin(frames, settings.fps) if settings.fps and settings.fps < (facts["fps"] or 0) else frames
    for time_s, frame in frames:
        yield time_s, _cut(frame, settings.aspect)


def _sound(path: Path, facts: dict, settings: PrepareSettings) -> np.ndarray:
    """The sound of an original or a piece, (S,) int16; none where the manifest says that it cannot be decoded."""
    if facts["audio_state"] == "broken":
        return np.zeros(0, np.int16)
    start_s, end_s = _span(facts)
    return decode_sound(path, sample_rate=settings.sample_rate, start_s=start_s, end_s=end_s)


def _span(facts: dict) -> tuple[float, float]:
    """Where a clip begins and ends in its file; a whole recording ends at infinity."""
    return facts["start_s"], float("inf") if facts["end_s"] is None else facts["end_s"]


def _cut(frame: np.ndarray, aspect: float) -> np.ndarray:
    """The middle of (h, w, 3), its long side at most `aspect` times the short one; 0: all of it."""
    height, width, _ = frame.shape
    longest = int(min(height, width) * aspect) if aspect else max(height, width)
    top, left = (max(0, side - longest) // 2 for side in (height, width))
    return frame[top : top + longest, left : left + longest]


def thin(frames: Iterable[tuple[float, Picture]], fps: float) -> Iterator[tuple[float, Picture]]:
    """Those of frames, in the order of their times, that are on screen at a multiple of 1 / fps, each once."""
    latest, number, step_s = None, 0, 1 / fps
    for time_s, frame in frames:
        if latest is not None and number * step_s + 1e-6 < time_s:
            yield latest
            while number * step_s + 1e-6 < time_s:
                number += 1
        latest = time_s, frame
    if latest is not None and number * step_s < latest[0] + 1e-6:
        yield latest


def on_screen(frames: Iterable[tuple[float, Picture]], wanted_s: Iterable[float]) -> Iterator[Picture]:
    """The frame on screen at each wanted time, ascending, as latest_frames says, holding one frame at a time."""
    stream = iter(frames)
    latest = next(stream)[1]
    following = next(stream, None)
    for time_s in wanted_s:
        while following is not None and following[0] <= time_s + 1e-6:
            latest, following = following[1], next(stream, None)
        yield latest


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """Means of blocks of 8 x 8 pixels: lossy coding leaves them as they are, and another picture has others."""
    height, width = (side // 8 for side in frame.shape[:2])
    blocks = frame[: height * 8, : width * 8].reshape(height, 8, width, 8, 3)
    return blocks.mean((1, 3)).astype(np.uint8)


def _require_alike(path: Path, written: np.ndarray, thumbnail: np.ndarray) -> None:
    found = _thumbnail(written)
    if found.shape != thumbnail.shape:
        raise MediaError(path, "corrupt", f"reads back as {written.shape}, not as it was written")
    difference = np.abs(found.astype(np.int16) - thumbnail).mean()
    if difference > 24:  # coding gives up to 7 with saturated noise, another picture of a real video mostly 38 and more
        raise MediaError(path, "corrupt", f"reads back {difference:.0f} levels a pixel off")


@contextmanager
def _mapped(path: Path) -> Iterator[mmap]:
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        yield content


@contextmanager
def _renamed(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; the file takes its name when the block ends without a fault."""
    # Named after the process: the last job of a killed run may still be at work on the same clip.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
