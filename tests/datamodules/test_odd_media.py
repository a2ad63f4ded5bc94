"""Good recordings in odd containers are the same clips, whichever way they come: files, cache, shards, small files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.index.manifest import judge, usable
from datamodules.index.scan import scan
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.sampling import ViewKey
from datamodules.stores.cache import build_cache
from datamodules.stores.files import FileReader
from datamodules.stores.prepare import PrepareSettings, prepare
from datamodules.stores.reader import ClipReader
from datamodules.stores.shards import open_shards
from selavi.config import Config
from selavi.modalities import Request, Window
from tests.films import Film, number_of, spoil, write
from tests.selavi.test_media_streams import write as write_with_sound

FILMS = {
    "b_frames.avi": Film(".avi", "libx264", num_b=3),
    "xvid.avi": Film(".avi", "mpeg4", num_b=2),
    "no_offsets.mp4": Film(".mp4", "libx264", num_b=2, stamped_by_decoding=True),
    "raw.m2v": Film(".m2v", "mpeg2video", num_b=2),
    "flash.flv": Film(".flv", "libx264", num_b=2),
    "camera.mts": Film(".mts", "libx264", num_b=2),
    "media.wmv": Film(".wmv", "wmv2"),
}
FORMATS = {".m2v": "mpeg2video", ".mts": "mpegts"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "media"
    folder.mkdir()
    for name, film in FILMS.items():
        write(folder / name, film, FORMATS.get(film.suffix))
    part = (folder / "camera.mts").read_bytes()
    (folder / "joined.ts").write_bytes(part + part)
    return folder


@pytest.fixture(scope="module")
def rows(root: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    manifest = scan(root, tmp_path_factory.mktemp("scans"), workers=1)
    rows = usable(manifest)
    assert len(rows) == len(FILMS) + 1
    return rows


def from_files(rows: pa.Table, folder: Path) -> ClipReader:
    return FileReader(rows, 30.0)


def from_cache(rows: pa.Table, folder: Path) -> ClipReader:
    return build_cache(rows, folder, 48, 8000, workers=1)[0].select(rows)


def from_shards(rows: pa.Table, folder: Path) -> ClipReader:
    prepare(rows, folder / "out", PrepareSettings(size=48, sample_rate=8000), workers=1)
    manifest, shards = open_shards(str(folder / "out"), folder, 1.0)
    assert shards is not None and len(usable(manifest)) == len(rows)
    return shards.select(usable(manifest).sort_by("id"), Request(1, 48, 8000))


def from_small_files(rows: pa.Table, folder: Path) -> ClipReader:
    prepare(rows, folder / "out", PrepareSettings(format="files", size=48, sample_rate=8000), workers=1)
    manifest, _ = open_shards(str(folder / "out"), folder, 1.0)
    assert len(usable(manifest)) == len(rows)
    return FileReader(usable(manifest).sort_by("id"), 30.0)


@pytest.mark.parametrize("make", [from_files, from_cache, from_shards, from_small_files])
def test_each_way_gives_the_frames_in_their_order(
    rows: pa.Table, tmp_path: Path, make: Callable[[pa.Table, Path], ClipReader]
) -> None:
    rows = rows.sort_by("id")
    reader = make(rows, tmp_path)
    for row, clip_id in enumerate(rows["id"].to_pylist()):
        length = 70 if clip_id != "joined.ts" else 140
        for start_s in (0.02, 0.54, 1.62, length / 25 - 0.98):  # in the middle of a frame
            frames, *_ = reader.read(row, Window(start_s, 1.0), Request(25, 48))
            assert frames is not None
            numbers = [number_of_square(frame) for frame in frames]
            expected = [(int(25 * start_s) + i) % 70 for i in range(25)]
            assert numbers == [number >> 2 & 0b111 for number in expected], f"{clip_id} at {start_s}"


def number_of_square(frame: np.ndarray) -> int:
    """Three bits of a film's number, of those that a square of its middle shows whole."""
    whole = np.zeros((48, 72, 3), np.uint8)
    whole[:, 12:60] = frame
    return number_of(whole) >> 2 & 0b111


def test_a_broken_sound_costs_a_clip_its_sound(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    tone = np.sin(np.arange(32_000) / 5).astype(np.float32)
    path = write_with_sound(folder / "film.mp4", sounds=(tone,), seconds=2.0)
    spoil(path, "audio")
    manifest = scan(folder, tmp_path / "cache", workers=1)
    facts = manifest.to_pylist()[0]
    assert (facts["status"], facts["audio_state"]) == ("ok", "broken")
    for policy, modalities, status in (
        ("mask", ["video", "audio"], "ok"),
        ("require", ["video", "audio"], "bad_audio"),
        ("require", ["video"], "ok"),
        ("mask", ["audio"], "bad_audio"),
    ):
        judged = judge(manifest, clip_s=1.0, audio_policy=policy, modalities=modalities)
        assert judged["status"].to_pylist() == [status], (policy, modalities)
        assert status == "ok" or judged["reason"][0].as_py().startswith("sound: ")
    clip = ClipDataset(manifest, tiny())[ViewKey(0, "train", 0)]
    assert clip.present == {"video": True, "audio": False} and clip.error is None
    # One that a scan took for good, because it breaks behind the first half minute.
    column = manifest.schema.get_field_index("audio_state")
    believed = manifest.set_column(column, "audio_state", pa.array(["ok"]))
    clip = ClipDataset(believed, tiny())[ViewKey(0, "train", 0)]
    assert clip.present == {"video": True, "audio": False}
    assert clip.error is not None and clip.error.startswith("corrupt: sound: ")
    clip = ClipDataset(believed, tiny("data.audio_policy=require"))[ViewKey(0, "train", 0)]
    assert clip.present == {"video": False, "audio": False} and clip.error is not None
