import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.index.manifest import usable
from datamodules.index.scan import scan
from datamodules.processes import Failure
from datamodules.stores import cache as cache_module
from datamodules.stores.cache import DecodedCache, build_cache, decoding_rate, estimate_gb
from selavi.filesystem import PASSING
from selavi.media import MediaError, decode_clip
from selavi.modalities import Request, Window


@pytest.fixture(scope="module")
def rows(demo_set: Path, cache_dir: Path) -> pa.Table:
    return usable(scan(demo_set, cache_dir, workers=1))


@pytest.fixture(scope="module")
def cache(rows: pa.Table, cache_dir: Path) -> DecodedCache:
    return build_cache(rows, cache_dir, 32, 8000, workers=1)[0]


@pytest.fixture
def odd(media: Path, tmp_path: Path) -> pa.Table:
    """mute, plain, short_sound, silent in tmp_path/root."""
    root = tmp_path / "root"
    root.mkdir()
    for name in ("mute", "plain", "silent", "short_sound"):
        (root / f"{name}.mp4").write_bytes((media / f"{name}.mp4").read_bytes())
    return scan(root, tmp_path / "cache", workers=1)


def test_the_cache_holds_every_recording(rows: pa.Table, cache: DecodedCache) -> None:
    for row in rows.to_pylist():
        recording = cache[row["id"]]
        assert recording.frames.shape[1:] == (32, 32, 3)
        assert len(recording.times_s) == len(recording.frames) == round(row["duration_s"] * 12)
        assert (np.diff(recording.times_s) > 0).all()
        assert len(recording.waveform) / 8000 == pytest.approx(row["duration_s"], abs=0.3)
        assert np.abs(recording.waveform).max() > 1e-3
    with pytest.raises(KeyError):
        cache["nothing.mp4"]


def test_a_cache_is_found_again_and_made_anew_for_other_settings(odd: pa.Table, tmp_path: Path) -> None:
    first, _ = build_cache(odd, tmp_path / "cache", 16, 8000, workers=1)
    made = (first.folder / "frames.u8").stat().st_mtime_ns
    again, _ = build_cache(odd, tmp_path / "cache", 16, 8000, workers=1)
    assert again.folder == first.folder
    assert (again.folder / "frames.u8").stat().st_mtime_ns == made
    assert build_cache(odd, tmp_path / "cache", 24, 8000, workers=1)[0].folder != first.folder
    assert build_cache(odd.slice(1), tmp_path / "cache", 16, 8000, workers=1)[0].folder != first.folder


def test_what_cannot_be_decoded_is_named_each_time(odd: pa.Table, tmp_path: Path) -> None:
    plain, known = tmp_path / "root" / "plain.mp4", {name: odd[name].to_pylist()[1] for name in ("bytes", "mtime_ns")}
    plain.write_bytes(b"no longer a film".ljust(known["bytes"]))
    os.utime(plain, ns=(known["mtime_ns"], known["mtime_ns"]))
    for _ in range(2):
        cache, faults = build_cache(odd, tmp_path / "cache", 16, 8000, workers=1)
        assert list(faults) == ["plain.mp4"]
        assert faults["plain.mp4"][0] == "not_media"
    with pytest.raises(MediaError, match="not_media"):
        cache.select(odd).read(1, Window(0.0, 1.0), Request(2, 16))
    assert cache["silent.mp4"].frames.shape == (36, 16, 24, 3)


def test_what_was_away_while_the_cache_was_made_is_decoded_the_next_time(odd: pa.Table, tmp_path: Path) -> None:
    root, cache_dir = tmp_path / "root", tmp_path / "cache"
    whole, _ = build_cache(odd, tmp_path / "whole", 16, 8000, workers=1)
    for name in ("plain", "silent"):
        (root / f"{name}.mp4").rename(tmp_path / f"{name}.mp4")
    cache, faults = build_cache(odd, cache_dir, 16, 8000, workers=1)
    assert {name: reason for name, (reason, _) in faults.items()} == {"plain.mp4": "vanished", "silent.mp4": "vanished"}
    (tmp_path / "plain.mp4").rename(root / "plain.mp4")
    cache, faults = build_cache(odd, cache_dir, 16, 8000, workers=1)
    assert list(faults) == ["silent.mp4"] and "plain.mp4" in cache.row_of
    with (cache.folder / "frames.u8").open("ab") as file:  # as a process leaves it that was killed here
        file.write(b"half a recording")
    (tmp_path / "silent.mp4").rename(root / "silent.mp4")
    cache, faults = build_cache(odd, cache_dir, 16, 8000, workers=1)
    assert not faults
    for clip_id in whole.row_of:
        for name in ("frames", "times_s", "waveform"):
            assert np.array_equal(getattr(cache[clip_id], name), getattr(whole[clip_id], name))
    assert (cache.folder / "frames.u8").stat().st_size == (whole.folder / "frames.u8").stat().st_size


@pytest.mark.parametrize("status", [*PASSING, "corrupt", "not_media", "refused"])
def test_only_passing_failures_are_tried_again(
    odd: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    asked = []

    def run_here(function, jobs, **_: object):
        for number, job in enumerate(jobs):
            asked.append(job[0].name)
            yield number, Failure(status, "this time") if job[0].name == "plain.mp4" else function(job)

    monkeypatch.setattr(cache_module, "run_jobs", run_here)
    build_cache(odd, tmp_path / "cache", 16, 8000)
    asked.clear()
    build_cache(odd, tmp_path / "cache", 16, 8000)
    assert asked == (["plain.mp4"] if status in PASSING else [])


def test_an_interrupted_cache_leaves_nothing(odd: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build_cache(odd, tmp_path / "cache", 16, 8000, workers=1)
    assert [path for path in (tmp_path / "cache").iterdir() if "decoded" in path.name] == []


def test_the_estimate_is_what_the_cache_takes(odd: pa.Table, tmp_path: Path) -> None:
    cache, _ = build_cache(odd, tmp_path / "cache", 16, 8000, workers=1)
    size = sum(file.stat().st_size for file in cache.folder.iterdir())
    assert 0.6 * size < 1e9 * estimate_gb(odd, 16, 8000) < 1.8 * size


def test_a_selection_is_addressed_by_its_own_rows(rows: pa.Table, cache: DecodedCache) -> None:
    some = rows.take([40, 3, 17])
    reader = cache.select(some)
    for row, path in enumerate(some["path"].to_pylist()):
        frames, waveform, _ = reader.read(row, Window(0.4, 1.0, 0.3), Request(4, 32, 8000))
        root = Path(rows.schema.metadata[b"root"].decode())
        expected, _ = decode_clip(root / path, 0.4, 1.0, num_frames=4, size=32, offset=0.3, sample_rate=8000)
        assert frames is not None and (frames == expected).all()
        assert waveform is not None and waveform.dtype == np.int16 and waveform.shape == (8000,)


def test_a_recording_that_is_not_in_the_cache_is_a_fault_of_its_clip(rows: pa.Table, cache: DecodedCache) -> None:
    strange = rows.slice(0, 2).set_column(0, "id", pa.array(["nobody.mp4", rows["id"][1].as_py()]))
    reader = cache.select(strange)
    with pytest.raises(MediaError, match="vanished: was not there when the cache was made"):
        reader.read(0, Window(0.0, 1.0), Request(2, 32))
    frames, waveform, _ = reader.read(1, Window(0.0, 1.0), Request(2, 32))
    assert frames is not None and frames.shape == (2, 32, 32, 3) and waveform is None


@pytest.mark.parametrize("workers", [1, 8])
def test_the_speed_of_decoding_is_known_without_a_cache(odd: pa.Table, tmp_path: Path, workers: int) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert decoding_rate(odd, 32, 8000, workers, 60.0) > 0
    assert sorted(tmp_path.rglob("*")) == before
    assert decoding_rate(odd.slice(0, 0), 32, 8000, workers, 60.0) == 0
