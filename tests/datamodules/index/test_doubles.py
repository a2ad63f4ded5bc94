"""Doubles: equal files whatever their names, near-equal ones whatever was done to them, and nothing else."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datamodules.index import doubles as doubles_module
from datamodules.index.doubles import describe_doubles, doubles_table, find_doubles, without_doubles
from datamodules.index.fingerprints import difference, sound_bits
from datamodules.index.manifest import bad, judge, usable
from datamodules.index.scan import scan
from datamodules.synthetic import FPS, SAMPLE_RATE, render
from selavi.media import encode_clip


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes; of the first also an equal file, one encoded anew and smaller, a shortened and a silent one."""
    root = tmp_path_factory.mktemp("films") / "set"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
    for name, class_name, seed in (("a", "ball_bell", 1), ("b", "ball_bell", 2), ("c", "pendulum_bell", 3)):
        frames, sound, _ = render(class_name, seed)
        encode_clip(root / "train" / f"{name}.mp4", frames, sound, fps=FPS, sample_rate=SAMPLE_RATE)
    frames, sound, _ = render("ball_bell", 1)
    shutil.copy(root / "train" / "a.mp4", root / "test" / "equal.mp4")
    encode_clip(
        root / "test" / "small.mp4", frames[:, 4:60, 4:60], sound, fps=FPS, sample_rate=SAMPLE_RATE, crf=32, gop=24
    )
    encode_clip(
        root / "test" / "later.mp4", frames[4:], sound[4 * SAMPLE_RATE // FPS :], fps=FPS, sample_rate=SAMPLE_RATE
    )
    encode_clip(root / "test" / "mute.mp4", frames, None, fps=FPS, sample_rate=SAMPLE_RATE)
    return root


def manifest(root: Path, cache: Path) -> pa.Table:
    return judge(scan(root, cache, workers=1), clip_s=0.5, audio_policy="mask", modalities=("video", "audio"))


def groups(table: pa.Table, group: np.ndarray) -> list[list[str]]:
    paths = np.array(table["path"].to_pylist())
    return [sorted(paths[group == number].tolist()) for number in range(group.max() + 1)]


@pytest.mark.usefixtures("in_this_process")
def test_equal_files_are_told_with_the_splits_that_they_lie_in(films: Path, tmp_path: Path) -> None:
    table = manifest(films, tmp_path)
    doubles = find_doubles(table, tmp_path, near=False, workers=1)
    assert groups(table, doubles.group) == [["test/equal.mp4", "train/a.mp4"]]
    assert describe_doubles(table, doubles) == (
        "2 files are 1 recordings, byte for byte (such as test/equal.mp4 and train/a.mp4); "
        "1 of these lie in several splits (such as test/equal.mp4 and train/a.mp4)"
    )
    assert doubles_table(table, doubles).column("kind").to_pylist() == ["equal", "equal"]


def test_near_equal_files_are_told_and_others_of_their_class_are_not(films: Path, tmp_path: Path) -> None:
    table = manifest(films, tmp_path)
    doubles = find_doubles(table, tmp_path, near=True, workers=1)
    assert groups(table, doubles.group) == [["test/equal.mp4", "test/later.mp4", "test/small.mp4", "train/a.mp4"]]
    kinds = dict(zip(*(doubles_table(table, doubles)[name].to_pylist() for name in ("path", "kind")), strict=True))
    assert kinds["test/later.mp4"] == kinds["test/small.mp4"] == "near-equal" and kinds["train/a.mp4"] == "equal"
    assert "4 files are 1 recordings, 2 of them near-equal" in describe_doubles(table, doubles)


@pytest.mark.usefixtures("in_this_process")
def test_only_the_first_of_doubles_is_used_and_the_others_are_not_bad(films: Path, tmp_path: Path) -> None:
    table = manifest(films, tmp_path)
    left = without_doubles(table, find_doubles(table, tmp_path, near=True, workers=1))
    assert usable(left)["path"].to_pylist() == ["test/equal.mp4", "test/mute.mp4", "train/b.mp4", "train/c.mp4"]
    reasons = dict(zip(left["path"].to_pylist(), left["reason"].to_pylist(), strict=True))
    assert reasons["train/a.mp4"] == "the same as test/equal.mp4"
    assert reasons["test/small.mp4"] == "the same as test/equal.mp4, nearly"
    assert not len(bad(left))
    again = judge(left, clip_s=0.5, audio_policy="mask", modalities=("video", "audio"))
    assert again.equals(left)


@pytest.mark.usefixtures("in_this_process")
def test_files_are_looked_into_once(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = manifest(films, tmp_path)
    first = find_doubles(table, tmp_path, near=True, workers=1)
    monkeypatch.setattr(doubles_module.Notebook, "learn", None)
    again = find_doubles(table, tmp_path, near=True, workers=1)
    assert (again.group == first.group).all()


@pytest.mark.usefixtures("in_this_process")
def test_a_file_that_cannot_be_read_any_more_is_counted(films: Path, tmp_path: Path) -> None:
    shutil.copytree(films, tmp_path / "set")
    table = manifest(tmp_path / "set", tmp_path / "cache")
    (tmp_path / "set" / "test" / "equal.mp4").unlink()
    doubles = find_doubles(table, tmp_path / "cache", near=False, workers=1)
    assert describe_doubles(table, doubles) == "1 files could not be compared"


@pytest.mark.usefixtures("in_this_process")
def test_still_pictures_are_compared_as_well(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for number in range(4):
        rng = np.random.default_rng(number)
        image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((240, 160), Image.BICUBIC)
        image.save(root / f"{number}.png")
    image.resize((120, 80)).save(root / "small.jpg", quality=60)
    table = judge(
        scan(root, tmp_path / "cache", workers=1, pictures=True),
        clip_s=0.0,
        audio_policy="mask",
        modalities=("image",),
    )
    doubles = find_doubles(table, tmp_path / "cache", near=True, workers=1)
    assert groups(table, doubles.group) == [["3.png", "small.jpg"]]


def test_a_difference_is_that_at_the_best_shift() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, (60, 4), dtype=np.uint8)
    assert difference(bits, bits[17:], 25) == 0
    assert difference(bits[:-9], bits[5:], 25) == 0
    assert difference(bits, np.zeros((0, 4), np.uint8), 25) == 1
    assert 0.4 < difference(bits, rng.integers(0, 256, (60, 4), dtype=np.uint8), 25) < 0.5
    assert difference(bits[:3], bits[:3], 25) == 0  # shorter than a second: compared whole


def test_what_is_silent_or_short_has_no_bits() -> None:
    for waveform in (np.zeros(8000, np.int16), np.ones(100, np.int16)):
        assert sound_bits(waveform)[0].shape == (0, 4)


def test_of_many_files_those_in_a_bucket_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubles are next to each other in some of the draws, and the number of pairs grows with that of files alone."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, 33)).astype(np.float32)
    vectors[2000:] = vectors[:2000] + 0.15 * rng.normal(size=(2000, 33))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(doubles_module, "_BUCKET", 128)
    pairs = np.concatenate(list(doubles_module._nearest(vectors)))
    hits = {(int(one), int(other)) for one, other in np.sort(pairs, 1) if other - one == 2000}
    assert len(hits) > 0.97 * 2000
    assert len(pairs) <= 4000 * doubles_module._TABLES * doubles_module._NEAREST
    assert not len(np.concatenate(list(doubles_module._nearest(np.zeros((5, 33), np.float32)))))
