"""Recordings decoded once into a memory-mapped file: small sets then train at the speed of the model."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.processes import Failure, run_jobs
from datamodules.stores.neighbours import group_neighbours
from datamodules.stores.reader import cut_window
from selavi.atomic import locked, write_atomically
from selavi.filesystem import PASSING, is_writable
from selavi.media import MediaError, Recording, cut_waveform, decode_recording, latest_frames
from selavi.meter import follow
from selavi.modalities import MAIN, MIXED, Request, Streams, Window
from selavi.runs.manifest import media_root, require_unchanged

_VERSION = 5
_FRAMES, _SOUND, _INDEX, _LOCK = "frames.u8", "sound.i16", "index.npz", "lock"
_DEADLINE_S = 600.0
_MEMORY_BYTES = 8 * 2**30


class DecodedCache:
    """Recordings by id, or clips by the rows of a table, read from the memory map when asked for.

    Args:
        folder: made by build_cache.
        rows: (R,) for each row of a table the recording in this cache, -1 for none.
        missing: (reason, detail) of the rows without one.
    """

    def __init__(
        self, folder: Path, rows: np.ndarray | None = None, missing: Mapping[int, tuple[str, str]] | None = None
    ) -> None:
        self.folder, self.rows, self.missing = folder, rows, missing or {}
        with np.load(folder / _INDEX, allow_pickle=False) as index:
            self.times_s = index["times_s"]
            self.shapes = index["shapes"]  # (N, 3): frames, height, width
            self.frame_ends, self.sample_ends = index["frame_ends"], index["sample_ends"]
            self.first_byte = index["first_byte"]
            self.sample_rate = int(index["sample_rate"])
            self.sound_faults = {str(clip_id): str(reason) for clip_id, reason in index["sound_faults"]}
            """Ids of recordings whose picture was decoded and whose sound could not be, and why."""
            self.row_of = {str(clip_id): row for row, clip_id in enumerate(index["ids"])}
            self.faults = {str(i): (str(reason), str(detail)) for i, reason, detail in index["faults"]}
        self.frames = _map_file(folder / _FRAMES, np.uint8)
        self.samples = _map_file(folder / _SOUND, np.int16)

    def __reduce__(self) -> tuple[type, tuple[Path, np.ndarray | None, Mapping[int, tuple[str, str]]]]:
        return DecodedCache, (self.folder, self.rows, self.missing)  # a loader process maps the files itself

    def select(self, rows: pa.Table) -> "DecodedCache":
        """Return the ClipReader for some rows of the manifest."""
        ids = pa.array(self.row_of, pa.string())
        places = pc.fill_null(pc.index_in(rows["id"], value_set=ids), -1).to_numpy()
        unknown = ("vanished", "was not there when the cache was made")
        missing = {int(row): self.faults.get(rows["id"][row].as_py(), unknown) for row in np.flatnonzero(places < 0)}
        return DecodedCache(self.folder, places, missing)

    def read(self, row: int, window: Window, request: Request) -> Streams:
        """Cut a window; see datamodules.stores.reader.ClipReader.

        Raises:
            MediaError: the recording could not be decoded when the cache was made.
        """
        assert self.rows is not None, "select() the rows that clips are read from"
        if self.rows[row] < 0:
            raise MediaError(self.folder, *self.missing[row])
        recording = self._recording(int(self.rows[row]))
        assert (request.channel, request.stream) == (MIXED, MAIN), "files alone have parts"
        assert request.size in (0, min(recording.frames.shape[1:3])) or not len(recording.frames)
        assert request.sample_rate in (0, self.sample_rate)
        return cut_window(recording, window.start_s, window, request)

    def __getitem__(self, clip_id: str) -> Recording:
        return self._recording(self.row_of[clip_id])

    def _recording(self, row: int) -> Recording:
        count, height, width = (int(n) for n in self.shapes[row])
        start = int(self.first_byte[row])
        frames = self.frames[start : start + count * height * width * 3].reshape(count, height, width, 3)
        last = int(self.frame_ends[row])
        samples = slice(int(self.sample_ends[row - 1]) if row else 0, int(self.sample_ends[row]))
        return Recording(frames, self.times_s[last - count : last], self.samples[samples])


def estimate_gb(rows: pa.Table, size: int, sample_rate: int) -> float:
    """Gigabytes that the decoded recordings take."""
    width, height = (rows[name].to_numpy().astype(np.float64) for name in ("width", "height"))
    pixels = size * size * np.maximum(width, height) / np.maximum(np.minimum(width, height), 1)
    seconds = rows["duration_s"].to_numpy()
    num_frames = np.where(are_still(rows), 1.0, seconds * rows["fps"].to_numpy())
    return float(np.sum(num_frames * pixels * 3 + seconds * sample_rate * 2) / 1e9)


def are_still(rows: pa.Table) -> np.ndarray:
    """(N,) bool, which files of a manifest are still pictures; none of one of an earlier version."""
    if "timing" not in rows.column_names:
        return np.zeros(len(rows), bool)
    is_still: np.ndarray = pc.fill_null(pc.equal(rows["timing"], "still"), False).to_numpy()
    return is_still


def seconds_of(rows: pa.Table) -> np.ndarray:
    """(N,) seconds by which the work on a file is counted; a still picture counts as one."""
    return np.where(are_still(rows), 1.0, rows["duration_s"].to_numpy())


def build_cache(
    rows: pa.Table, cache_dir: Path, size: int, sample_rate: int, workers: int = 0
) -> tuple[DecodedCache, dict[str, tuple[str, str]]]:
    """Decode the recordings of some manifest rows, or find them decoded; those that failed in passing are tried again.

    Returns:
        The cache and, for the ids that could not be decoded, (reason, detail).
    """
    folder = _folder_of(rows, cache_dir, size, sample_rate)
    work = _Work(folder, size, sample_rate, workers)
    if not folder.exists():
        work.decode_all(rows)
    if _passing(folder) and is_writable(folder):
        with locked(folder / _LOCK):
            again = _passing(folder)  # another process may have been here
            if again:
                work.decode_again(rows.filter(pc.is_in(rows["id"], value_set=pa.array(again, pa.string()))))
    cache = DecodedCache(folder)
    return cache, cache.faults


def decoding_rate(rows: pa.Table, size: int, sample_rate: int, workers: int, budget_s: float) -> float:
    """How fast build_cache decodes, on some recordings, of which nothing is kept: seconds of media a second.

    Args:
        rows: of the manifest.
        size: of the frames.
        sample_rate: of the sound.
        workers: processes; 0: one for each core.
        budget_s: seconds to spend, counted from when all processes have started.

    Returns:
        Seconds as seconds_of counts them.
    """
    workers = workers or len(os.sched_getaffinity(0))
    began_s, done_s = time.monotonic(), 0.0
    durations_s = seconds_of(rows).tolist()
    for count, (number, _) in enumerate(_decoded(rows, size, sample_rate, workers), start=1):
        done_s += durations_s[number]
        if count == workers < len(rows):  # processes answer in rounds; the first one holds their start
            began_s, done_s = time.monotonic(), 0.0
        elif count > workers and time.monotonic() - began_s > budget_s:
            break
    return done_s / (time.monotonic() - began_s)


def is_decoded(rows: pa.Table, cache_dir: Path, size: int, sample_rate: int) -> bool:
    """Whether build_cache would find a cache."""
    return _folder_of(rows, cache_dir, size, sample_rate).is_dir()


def _folder_of(rows: pa.Table, cache_dir: Path, size: int, sample_rate: int) -> Path:
    key = hashlib.blake2b(repr((size, sample_rate, _VERSION)).encode(), digest_size=8)
    for name in ("id", "bytes", "mtime_ns"):
        key.update(repr(rows[name].to_pylist()).encode())
    key.update(str(media_root(rows)).encode())
    return cache_dir / f"decoded-{key.hexdigest()}"


def _passing(folder: Path) -> list[str]:
    """Ids that could not be decoded for a reason that may have passed."""
    with np.load(folder / _INDEX, allow_pickle=False) as index:
        return [str(clip_id) for clip_id, reason, _ in index["faults"] if reason in PASSING]


@dataclass(frozen=True)
class _Work:
    """Writes the files of a cache."""

    folder: Path
    size: int
    sample_rate: int
    workers: int

    def decode_all(self, rows: pa.Table) -> None:
        """Make the folder, whole or not at all."""
        temporary = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True)
        try:
            self._append(temporary, rows, _no_index())
            os.replace(temporary, self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def decode_again(self, rows: pa.Table) -> None:
        """Try rows again that failed in passing; what is decoded is appended, and then the index replaced."""
        with np.load(self.folder / _INDEX, allow_pickle=False) as saved:
            index = {name: saved[name] for name in saved.files}
        kept = ~np.isin(index["faults"][:, 0], np.array(rows["id"].to_pylist(), dtype=str))
        self._append(self.folder, rows, index | {"faults": index["faults"][kept]})

    def _append(self, folder: Path, rows: pa.Table, index: Mapping[str, np.ndarray]) -> None:
        ids = rows["id"].to_pylist()
        ends, samples = list(index["frame_ends"]), list(index["sample_ends"])
        shapes, first_byte, kept = list(index["shapes"]), list(index["first_byte"]), list(index["ids"])
        times, faults = [index["times_s"]], [tuple(fault) for fault in index["faults"]]
        sound_faults = [tuple(fault) for fault in index["sound_faults"]]
        written = int(first_byte[-1] + np.prod(shapes[-1]) * 3) if kept else 0
        with (folder / _FRAMES).open("ab") as frames_file, (folder / _SOUND).open("ab") as sound_file:
            frames_file.truncate(written)  # a process that was killed here may have left more
            sound_file.truncate(2 * int(samples[-1]) if kept else 0)
            results = _decoded(rows, self.size, self.sample_rate, self.workers)
            for number, recording in follow(results, "decoding", len(ids)):
                if isinstance(recording, Failure):
                    faults.append((ids[number], recording.reason, recording.detail))
                    continue
                if recording.audio_fault is not None:
                    sound_faults.append((ids[number], recording.audio_fault))
                frames_file.write(recording.frames.tobytes())
                sound_file.write(recording.waveform.tobytes())
                kept.append(ids[number])
                shapes.append(recording.frames.shape[:3])
                times.append(recording.times_s)
                first_byte.append(written)
                ends.append((ends[-1] if ends else 0) + len(recording.times_s))
                samples.append((samples[-1] if samples else 0) + len(recording.waveform))
                written += recording.frames.size
        with write_atomically(folder / _INDEX) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                ids=np.array(kept, dtype=str),
                faults=np.array(faults, dtype=str).reshape(-1, 3),
                sound_faults=np.array(sound_faults, dtype=str).reshape(-1, 2),
                sample_rate=np.array(self.sample_rate),
                shapes=np.array(shapes, dtype=np.int64).reshape(-1, 3),
                first_byte=np.array(first_byte, dtype=np.int64),
                times_s=np.concatenate(times),
                frame_ends=np.array(ends, dtype=np.int64),
                sample_ends=np.array(samples, dtype=np.int64),
            )


def _no_index() -> dict[str, np.ndarray]:
    """The index of a cache without recordings."""
    none = np.zeros(0, np.int64)
    numbers = {"first_byte": none, "frame_ends": none, "sample_ends": none}
    words = {"ids": np.zeros(0, str), "faults": np.zeros((0, 3), str), "sound_faults": np.zeros((0, 2), str)}
    return numbers | words | {"shapes": none.reshape(0, 3), "times_s": np.zeros(0)}


def _decoded(rows: pa.Table, size: int, sample_rate: int, workers: int) -> Iterator[tuple[int, Recording | Failure]]:
    """Decode recordings, or their pieces, in processes; (row, what came of it), in order."""
    root = media_root(rows)
    names = ("path", "bytes", "mtime_ns", "start_s", "end_s")
    facts = list(zip(*(rows[name].to_pylist() for name in names), strict=True))
    firsts = np.flatnonzero(np.diff(group_neighbours(rows), prepend=-1)).tolist()
    jobs = []
    for first, following in pairwise([*firsts, len(rows)]):
        path, num_bytes, mtime_ns = facts[first][:3]
        spans = [(start_s, float("inf") if end_s is None else end_s) for *_, start_s, end_s in facts[first:following]]
        jobs.append(_Neighbours(root / path, num_bytes, mtime_ns, spans))
    results = run_jobs(
        partial(_decode, size=size, sample_rate=sample_rate),
        jobs,
        workers=workers,
        deadline_s=_DEADLINE_S,
        memory_bytes=_MEMORY_BYTES,
        ordered=True,
    )
    for number, outcome in results:
        row, spans = firsts[number], jobs[number].spans
        yield from enumerate([outcome] * len(spans) if isinstance(outcome, Failure) else outcome, row)


class _Neighbours(NamedTuple):
    """A recording, or pieces of it that are decoded together."""

    path: Path
    num_bytes: int
    mtime_ns: int
    spans: list[tuple[float, float]]
    """Begin and end of each, in seconds."""


def _decode(job: _Neighbours, *, size: int, sample_rate: int) -> list[Recording | Failure]:
    """Each span; where not all can be decoded together, each by itself, as far as it can."""
    require_unchanged(job.path, job.num_bytes, job.mtime_ns)
    begin_s, end_s = job.spans[0][0], max(end_s for _, end_s in job.spans)
    decode = partial(decode_recording, job.path, size=size, sample_rate=sample_rate)
    if len(job.spans) == 1:
        return [decode(start_s=begin_s, end_s=end_s)]
    together = _decode_span(decode, begin_s, end_s)
    if isinstance(together, Failure) or together.audio_fault is not None:
        return [_decode_span(decode, *span) for span in job.spans]
    return [_cut(together, start_s - begin_s, end_s - begin_s, sample_rate) for start_s, end_s in job.spans]


def _decode_span(decode: Callable[..., Recording], start_s: float, end_s: float) -> Recording | Failure:
    try:
        return decode(start_s=start_s, end_s=end_s)
    except MediaError as error:
        return Failure(error.reason, error.detail)


def _cut(recording: Recording, start_s: float, end_s: float, sample_rate: int) -> Recording:
    """What of a recording is on screen, and heard, in [start_s, end_s)."""
    first = int(latest_frames(recording.times_s, np.array([start_s]))[0]) if len(recording.frames) else 0
    last = max(int(np.searchsorted(recording.times_s, end_s - 1e-6)), first + 1)
    sound = cut_waveform(recording.waveform, start_s, end_s - start_s, sample_rate)
    return Recording(
        recording.frames[first:last],
        recording.times_s[first:last] - start_s,
        np.zeros(0, np.int16) if sound is None else sound,
    )


def _map_file(path: Path, dtype: type[np.generic]) -> np.ndarray:
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
