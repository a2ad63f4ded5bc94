"""Shots: cuts of a picture and changes of a sound, at the times at which they were made."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import datamodules.index.shots as shots_module
from datamodules.index.cut import cut_at, cut_into_shots
from datamodules.index.scan import scan
from datamodules.index.shots import changes_of_sound, novelty
from selavi.errors import UsageError
from selavi.media import encode_clip
from tests.datamodules.index.test_cut import manifest, spans

FPS, RATE = 12, 16_000


def write_film(path: Path, lengths_s: Sequence[float], *, sound: np.ndarray | None = None) -> list[float]:
    """Moving textures, one a shot; the seconds at which shots begin but for the first."""
    frames = []
    for number, length_s in enumerate(lengths_s):
        rng = np.random.default_rng(number)
        colour = rng.integers(40, 216, 3)
        texture = np.clip(rng.normal(0, 40, (64, 96, 1)) + colour, 0, 255).astype(np.uint8)
        frames += [np.roll(texture, step, 1) for step in range(round(length_s * FPS))]
    encode_clip(path, np.stack(frames), sound, fps=FPS, sample_rate=RATE)
    return np.cumsum(lengths_s)[:-1].tolist()


def sounds(lengths_s: Sequence[float]) -> np.ndarray:
    """By turns a tone and noise, (S,) float32."""
    rng = np.random.default_rng(0)
    parts = []
    for number, length_s in enumerate(lengths_s):
        time_s = np.arange(round(length_s * RATE)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * 220 * (1 + number) * time_s)
        parts.append(tone if number % 2 else rng.normal(0, 0.1, len(time_s)))
    return np.concatenate(parts).astype(np.float32)


def test_a_film_is_cut_where_its_picture_is(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    begins_s = write_film(tmp_path / "film.mp4", [4.0, 2.5, 14.0, 3.0], sound=sounds([23.5]))
    table, said = cut_into_shots(
        scan(tmp_path, tmp_path / "cache", workers=1),
        tmp_path / "cache",
        by_picture=True,
        longest_s=10.0,
        least_s=1.0,
        workers=1,
    )
    assert begins_s == [4.0, 6.5, 20.5]
    assert spans(table) == [(0.0, 4.0), (4.0, 6.5), (6.5, 13.5), (13.5, 20.5), (20.5, 23.5)]
    assert said == "1 recording is cut into 5 pieces, at 4 shots"


@pytest.mark.usefixtures("in_this_process")
def test_a_recording_without_a_picture_is_cut_where_its_sound_becomes_another(tmp_path: Path) -> None:
    lengths_s = [5.0, 6.0, 3.0, 8.0]
    soundfile.write(tmp_path / "a.wav", sounds(lengths_s), RATE)
    changes = changes_of_sound(tmp_path / "a.wav", sum(lengths_s), 1.0)
    assert np.abs(np.array(changes) - np.cumsum(lengths_s)[:-1]).max() <= 0.15
    soundfile.write(tmp_path / "b.wav", np.zeros(20 * RATE), RATE)
    assert changes_of_sound(tmp_path / "b.wav", 20.0, 1.0) == []


@pytest.mark.usefixtures("in_this_process")
def test_blocks_of_a_long_sound_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", sounds([7.0, 9.0, 6.0]), RATE)
    whole = changes_of_sound(tmp_path / "a.wav", 22.0, 1.0)
    monkeypatch.setattr(shots_module, "_BLOCK_S", 4.0)
    assert changes_of_sound(tmp_path / "a.wav", 22.0, 1.0) == whole


def test_the_measure_is_that_of_the_whole_matrix() -> None:
    """Foote's: a checkerboard of signed Gaussians, moved along the diagonal of the similarities."""
    spectra = np.random.default_rng(0).normal(size=(90, 6))
    steps = np.arange(-20, 20) + 0.5
    signed = np.sign(steps) * np.exp(-0.5 * (steps / 10) ** 2)
    kernel = np.outer(signed, signed) / np.abs(signed).sum() ** 2 * 4
    similarity = spectra @ spectra.T
    expected = [(similarity[t - 20 : t + 20, t - 20 : t + 20] * kernel).sum() for t in range(20, 70)]
    np.testing.assert_allclose(novelty(spectra)[20:70] ** 2, expected)


@pytest.mark.usefixtures("in_this_process")
def test_what_was_looked_for_once_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", sounds([5.0, 6.0]), RATE)
    table = scan(tmp_path, tmp_path / "cache", workers=1)
    cut = partial(cut_into_shots, table, tmp_path / "cache", by_picture=True, longest_s=10.0, least_s=1.0, workers=1)
    first, _ = cut()
    monkeypatch.setattr(shots_module.Notebook, "learn", None)
    again, _ = cut()
    assert len(first) == 2 and again.equals(first)


@pytest.mark.usefixtures("in_this_process")
def test_what_cannot_be_looked_through_is_said_and_cut_into_equal_parts(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sounds([24.0]), RATE)
    soundfile.write(tmp_path / "b.wav", sounds([8.0]), RATE)
    table = scan(tmp_path, tmp_path / "cache", workers=1)
    (tmp_path / "a.wav").unlink()
    table, said = cut_into_shots(table, tmp_path / "cache", by_picture=True, longest_s=10.0, least_s=1.0, workers=1)
    assert spans(table) == [(0.0, 8.0), (8.0, 16.0), (16.0, 24.0), (0.0, None)]
    assert said.startswith("1 recording is cut into 3 pieces, at 2 shots; 1 stay whole; 1 could not be looked through")
    assert said.endswith("and are cut into equal parts")


@pytest.mark.usefixtures("in_this_process")
def test_without_the_library_only_sounds_are_cut_at_shots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_film(tmp_path / "film.mp4", [4.0, 2.5])
    monkeypatch.setattr(shots_module, "find_spec", lambda name: None)
    table = scan(tmp_path, tmp_path / "cache", workers=1)
    with pytest.raises(UsageError, match=r"pip install 'selavi\[shots\]', or data\.cut=every"):
        cut_into_shots(table, tmp_path / "cache", by_picture=True, longest_s=10.0, least_s=1.0)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "film.mp4").unlink()
    soundfile.write(tmp_path / "a.wav", sounds([5.0, 6.0]), RATE)
    table = scan(tmp_path, tmp_path / "cache", workers=1)
    assert len(cut_into_shots(table, tmp_path / "cache", by_picture=True, longest_s=10.0, least_s=1.0)[0]) == 2


@given(
    duration_s=st.floats(0.5, 500.0),
    begins=st.lists(st.floats(0.001, 0.999), max_size=12, unique=True),
    longest_s=st.floats(1.0, 30.0),
    least=st.floats(0.05, 1.0),
)
def test_pieces_tile_the_recording(duration_s: float, begins: list[float], longest_s: float, least: float) -> None:
    begins_s = np.sort(begins) * duration_s
    rows = manifest({"duration_s": duration_s, "audio_s": duration_s})
    table, _ = cut_at(rows, [begins_s], longest_s, least * longest_s)
    if table["end_s"].null_count:
        assert len(table) == 1
        return
    starts, ends = map(np.array, zip(*spans(table), strict=True))
    assert starts[0] == 0 and abs(ends[-1] - duration_s) < 1e-3
    assert (starts[1:] == ends[:-1]).all()
    lengths = ends - starts
    assert lengths.min() >= least * longest_s - 0.01
    assert lengths.max() <= max(longest_s, 2 * least * longest_s) + 0.01
