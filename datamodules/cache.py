"""Recordings decoded once into a memory-mapped file: small sets then train at the speed of the model."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.manifest import media_root
from datamodules.progress import follow
from datamodules.scan import worker_pool
from selavi.media import MediaError, Recording, decode_recording

_FRAMES, _SOUND, _INDEX = "frames.u8", "sound.f32", "index.npz"


@dataclass
class DecodedCache:
    """Recordings by id, read from the memory map when asked for."""

    folder: Path

    def __post_init__(self) -> None:
        with np.load(self.folder / _INDEX, allow_pickle=False) as index:
            self.times_s = index["times_s"]
            self.shapes = index["shapes"]  # (N, 3): frames, height, width
            self.frame_ends, self.sample_ends = index["frame_ends"], index["sample_ends"]
            self.first_byte = index["first_byte"]
            self.row_of = {str(clip_id): row for row, clip_id in enumerate(index["ids"])}
        self._map()

    def _map(self) -> None:
        self.frames = _map_file(self.folder / _FRAMES, np.uint8)
        self.samples = _map_file(self.folder / _SOUND, np.float32)

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder}  # a loader process maps the files itself

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def __getitem__(self, clip_id: str) -> Recording:
        row = self.row_of[clip_id]
        count, height, width = (int(n) for n in self.shapes[row])
        start = int(self.first_byte[row])
        frames = self.frames[start : start + count * height * width * 3].reshape(count, height, width, 3)
        last = int(self.frame_ends[row])
        samples = slice(int(self.sample_ends[row - 1]) if row else 0, int(self.sample_ends[row]))
        return Recording(frames, self.times_s[last - count : last], self.samples[samples])


def estimate_gb(rows: pa.Table, size: int, sample_rate: int) -> float:
    """Gigabytes that the decoded recordings take."""
    total = 0.0
    for row in rows.select(["duration_s", "fps", "width", "height"]).to_pylist():
        short, long = sorted((row["width"], row["height"]))
        pixels = size * size * long / max(short, 1)
        total += row["duration_s"] * (row["fps"] * pixels * 3 + sample_rate * 4)
    return total / 1e9


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


_VERSION = 1


def _decode_all(rows: pa.Table, folder: Path, size: int, sample_rate: int, workers: int) -> None:
    ids, paths = rows["id"].to_pylist(), rows["path"].to_pylist()
    root = media_root(rows)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    shapes, times, first_byte, sample_counts, kept, faults = [], [], [], [], [], []
    written = 0
    try:
        with (
            worker_pool(workers, len(ids)) as pool,
            (temporary / _FRAMES).open("wb") as frames_file,
            (temporary / _SOUND).open("wb") as sound_file,
        ):
            files = [root / path for path in paths]
            jobs = pool.map(_decode_one, files, [size] * len(ids), [sample_rate] * len(ids), chunksize=4)
            for clip_id, recording in follow(zip(ids, jobs, strict=True), "decoding", len(ids)):
                if isinstance(recording, MediaError):
                    faults.append((clip_id, recording.reason, recording.detail))
                    continue
                frames_file.write(recording.frames.tobytes())
                sound_file.write(recording.waveform.tobytes())
                kept.append(clip_id)
                shapes.append(recording.frames.shape[:3])
                times.append(recording.times_s)
                first_byte.append(written)
                sample_counts.append(len(recording.waveform))
                written += recording.frames.size
        np.savez(
            temporary / _INDEX,
            ids=np.array(kept, dtype=str),
            faults=np.array(faults, dtype=str).reshape(-1, 3),
            shapes=np.array(shapes, dtype=np.int64).reshape(-1, 3),
            first_byte=np.array(first_byte, dtype=np.int64),
            times_s=np.concatenate(times) if times else np.zeros(0),
            frame_ends=np.cumsum([len(t) for t in times], dtype=np.int64),
            sample_ends=np.cumsum(sample_counts, dtype=np.int64),
        )
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode_one(path: Path, size: int, sample_rate: int) -> Recording | MediaError:
    try:
        return decode_recording(path, size=size, sample_rate=sample_rate)
    except MediaError as error:
        return error


def _map_file(path: Path, dtype: type[np.generic]) -> np.ndarray:
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)
