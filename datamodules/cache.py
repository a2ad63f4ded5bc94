"""Recordings decoded once into a memory-mapped file: small sets then train at the speed of the model."""

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.manifest import media_root
from datamodules.progress import follow
from datamodules.workers import Failure, run_jobs
from selavi.media import MediaError, Recording, crop_square, cut_waveform, decode_recording, frame_times, latest_frames

_VERSION = 5
_FRAMES, _SOUND, _INDEX = "frames.u8", "sound.i16", "index.npz"
_DEADLINE_S = 600.0
_MEMORY_BYTES = 8 * 2**30


class DecodedCache:
    """Recordings by id, or clips by the rows of a table, read from the memory map when asked for.

    Args:
        folder: made by build_cache.
        rows: (R,) for each row of a table the recording in this cache, -1 for none.
    """

    def __init__(self, folder: Path, rows: np.ndarray | None = None) -> None:
        self.folder, self.rows = folder, rows
        with np.load(folder / _INDEX, allow_pickle=False) as index:
            self.times_s = index["times_s"]
            self.shapes = index["shapes"]  # (N, 3): frames, height, width
            self.frame_ends, self.sample_ends = index["frame_ends"], index["sample_ends"]
            self.first_byte = index["first_byte"]
            self.sample_rate = int(index["sample_rate"])
            self.sound_faults = {str(clip_id): str(reason) for clip_id, reason in index["sound_faults"]}
            """Ids of recordings whose picture was decoded and whose sound could not be, and why."""
            self.row_of = {str(clip_id): row for row, clip_id in enumerate(index["ids"])}
        self.frames = _map_file(folder / _FRAMES, np.uint8)
        self.samples = _map_file(folder / _SOUND, np.int16)

    def __reduce__(self) -> tuple[type, tuple[Path, np.ndarray | None]]:
        return DecodedCache, (self.folder, self.rows)  # a loader process maps the files itself

    def select(self, rows: pa.Table) -> "DecodedCache":
        """Return the ClipReader for some rows of the manifest."""
        ids = pa.array(self.row_of, pa.string())
        return DecodedCache(self.folder, pc.fill_null(pc.index_in(rows["id"], value_set=ids), -1).to_numpy())

    def read(
        self, row: int, start_s: float, clip_s: float, *, num_frames: int, size: int, offset: float, sample_rate: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Cut one window; see ClipReader.

        Raises:
            MediaError: the recording could not be decoded when the cache was made.
        """
        assert self.rows is not None, "select() the rows that clips are read from"
        if self.rows[row] < 0:
            raise MediaError(self.folder, "corrupt", "could not be decoded when the cache was made")
        recording = self._recording(int(self.rows[row]))
        assert size == min(recording.frames.shape[1:3]) and sample_rate in (0, self.sample_rate)
        frames, waveform = None, None
        if num_frames:
            used = latest_frames(recording.times_s, frame_times(start_s, clip_s, num_frames))
            frames = np.ascontiguousarray(crop_square(recording.frames[used], offset))
        if sample_rate:
            waveform = cut_waveform(recording.waveform, start_s, clip_s, sample_rate)
        return frames, waveform

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
    seconds, fps = rows["duration_s"].to_numpy(), rows["fps"].to_numpy()
    return float(np.sum(seconds * (fps * pixels * 3 + sample_rate * 2)) / 1e9)


def build_cache(
    rows: pa.Table, cache_dir: Path, size: int, sample_rate: int, workers: int = 0
) -> tuple[DecodedCache, dict[str, tuple[str, str]]]:
    """Decode the recordings of some manifest rows, or find them decoded.

    Returns:
        The cache and, for the ids that could not be decoded, (reason, detail).
    """
    key = hashlib.blake2b(repr((size, sample_rate, _VERSION)).encode(), digest_size=8)
    for name in ("id", "bytes", "mtime_ns"):
        key.update(repr(rows[name].to_pylist()).encode())
    key.update(str(media_root(rows)).encode())
    folder = cache_dir / f"decoded-{key.hexdigest()}"
    if not folder.exists():
        _decode_all(rows, folder, size, sample_rate, workers)
    with np.load(folder / _INDEX, allow_pickle=False) as index:
        faults = {str(i): (str(r), str(d)) for i, r, d in index["faults"]}
    return DecodedCache(folder), faults


def _decode_all(rows: pa.Table, folder: Path, size: int, sample_rate: int, workers: int) -> None:
    ids, root = rows["id"].to_pylist(), media_root(rows)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    shapes, times, first_byte, sample_counts, kept, faults, sound_faults = [], [], [], [], [], [], []
    written = 0
    try:
        with (temporary / _FRAMES).open("wb") as frames_file, (temporary / _SOUND).open("wb") as sound_file:
            results = run_jobs(
                partial(decode_recording, size=size, sample_rate=sample_rate),
                [root / path for path in rows["path"].to_pylist()],
                workers=workers,
                deadline_s=_DEADLINE_S,
                memory_bytes=_MEMORY_BYTES,
                ordered=True,
            )
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
                sample_counts.append(len(recording.waveform))
                written += recording.frames.size
        np.savez(
            temporary / _INDEX,
            ids=np.array(kept, dtype=str),
            faults=np.array(faults, dtype=str).reshape(-1, 3),
            sound_faults=np.array(sound_faults, dtype=str).reshape(-1, 2),
            sample_rate=np.array(sample_rate),
            shapes=np.array(shapes, dtype=np.int64).reshape(-1, 3),
            first_byte=np.array(first_byte, dtype=np.int64),
            times_s=np.concatenate(times) if times else np.zeros(0),
            frame_ends=np.cumsum([len(t) for t in times], dtype=np.int64),
            sample_ends=np.cumsum(sample_counts, dtype=np.int64),
        )
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _map_file(path: Path, dtype: type[np.generic]) -> np.ndarray:
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
