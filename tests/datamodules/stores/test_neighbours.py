"""Pieces of recordings are the same clips wherever they are read from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import datamodules.stores.neighbours as neighbours_module
from datamodules.index.cut import cut_evenly
from datamodules.index.scan import scan
from datamodules.stores.cache import build_cache
from datamodules.stores.files import FileReader
from datamodules.stores.neighbours import NeighbourReader, group_neighbours, has_pieces
from selavi.media import MediaError, decode_recording, encode_clip
from selavi.modalities import Request, Window

RATE, FPS, SECONDS = 8000, 10, 30
REQUEST = Request(num_frames=4, size=32, sample_rate=RATE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of half a minute, its sound alone, and a short one."""
    root = tmp_path_factory.mktemp("long")
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (SECONDS * FPS, 32, 48, 3), np.uint8)
    sound = generator.normal(0, 3000, SECONDS * RATE).astype(np.int16)
    encode_clip(root / "film.mp4", iter(frames), sound, fps=FPS, sample_rate=RATE, gop=25)
    encode_clip(root / "short.mp4", iter(frames[:30]), sound[: 3 * RATE], fps=FPS, sample_rate=RATE, gop=25)
    return root


@pytest.fixture
def rows(root: Path, tmp_path: Path) -> pa.Table:
    return cut_evenly(scan(root, tmp_path / "cache", workers=1), 4.0, 3.0, 1.0)[0]


def test_neighbours_are_pieces_of_one_recording_in_a_minute(rows: pa.Table) -> None:
    assert has_pieces(rows)
    assert group_neighbours(rows).tolist() == [0] * 10 + [1]
    assert group_neighbours(rows.take(list(range(0, 11, 4)))).tolist() == [0, 1, 2]
    assert group_neighbours(rows.take([1, 0, 2])).tolist() == [0, 1, 1]
    assert group_neighbours(rows.slice(0, 0)).tolist() == []


def test_many_minutes_are_several_groups(rows: pa.Table) -> None:
    def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.array(values, table.schema.field(name).type))

    long = pa.concat_tables([rows.slice(0, 1)] * 40)
    begins = np.arange(40) * 10.0
    for name, values in (("start_s", begins), ("end_s", begins + 10)):
        long = with_column(long, name, values.tolist())
    assert np.bincount(group_neighbours(long)).tolist() == [18, 18, 4]  # 1800 frames at 10 a second
    assert np.bincount(group_neighbours(with_column(long, "fps", [30.0] * 40))).tolist() == [6, 6, 6, 6, 6, 6, 4]
    assert np.bincount(group_neighbours(with_column(long, "fps", [None] * 40))).tolist() == [30, 10]
    large = with_column(long, "width", [1280 * 720] * 40)
    assert group_neighbours(large).tolist() == list(range(40))  # 32 times the pixels


@pytest.mark.parametrize("group", [60.0, pytest.param(10.0, marks=pytest.mark.slow)])
def test_all_readers_give_the_same_clips(
    rows: pa.Table, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: float
) -> None:
    monkeypatch.setattr(neighbours_module, "TOGETHER_S", group)
    files, neighbours = FileReader(rows, 30.0), NeighbourReader(rows, 30.0)
    cache = build_cache(rows, tmp_path / "decoded", 32, RATE, workers=1)[0].select(rows)
    whole = decode_recording(root / "film.mp4", size=32, sample_rate=RATE)
    for row, start_s in enumerate(rows["start_s"].to_pylist()):
        for window in (Window(0.0, 1.0), Window(1.23, 1.0), Window(2.0, 1.0)):
            one, other, cached = (reader.read(row, window, REQUEST) for reader in (files, neighbours, cache))
            np.testing.assert_array_equal(one.frames, other.frames)
            np.testing.assert_array_equal(one.frames, cached.frames)
            assert max(np.abs(one.waveform - o.waveform.astype(int)).max() for o in (other, cached)) <= 250
            if rows["path"][row].as_py() == "film.mp4":
                at = round((start_s + window.start_s) * RATE)
                heard = whole.waveform[at : at + RATE].astype(int)
                assert np.corrcoef(heard, one.waveform[: len(heard)])[0, 1] > 0.999


def test_what_cannot_be_decoded_together_is_read_by_itself(
    rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(path: Path, **kwargs: object) -> None:
        calls.append(path)
        raise MediaError(path, "corrupt", "in the middle")

    expected = FileReader(rows, 30.0).read(2, Window(1.0, 1.0), REQUEST)
    monkeypatch.setattr(neighbours_module, "decode_recording", fail)
    reader = NeighbourReader(rows, 30.0)
    for _ in range(3):
        np.testing.assert_array_equal(reader.read(2, Window(1.0, 1.0), REQUEST).frames, expected.frames)
    assert len(calls) == 1


def test_a_piece_that_cannot_be_decoded_does_not_take_its_neighbours_with_it(
    rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datamodules.stores.cache as cache_module

    original = cache_module.decode_recording

    def spoilt(path: Path, *, start_s: float, end_s: float, size: int, sample_rate: int):  # type: ignore[no-untyped-def]
        if path.name == "film.mp4" and start_s <= 10.0 < end_s:
            raise MediaError(path, "corrupt", "at ten")
        return original(path, size=size, sample_rate=sample_rate, start_s=start_s, end_s=end_s)

    monkeypatch.setattr(cache_module, "decode_recording", spoilt)
    spans = [(start_s, start_s + 4.0) for start_s in (3.0, 6.0, 9.0, 12.0)]
    state = rows.slice(0, 1).to_pylist()[0]
    path = Path(rows.schema.metadata[b"root"].decode()) / "film.mp4"
    job = cache_module._Neighbours(path, state["bytes"], state["mtime_ns"], spans)
    outcomes = cache_module._decode(job, size=32, sample_rate=RATE)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Recording", "Recording", "Failure", "Recording"]
