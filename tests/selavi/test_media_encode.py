import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from selavi.media import encode_clip


@pytest.fixture
def frames() -> np.ndarray:
    """A bright square that moves over a dark ground."""
    frames = np.full((18, 32, 48, 3), 40, dtype=np.uint8)
    for index in range(18):
        frames[index, 8:24, index : index + 16] = (230, 120, 60)
    return frames


@pytest.fixture
def waveform() -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 16_000)).astype(np.float32)


def test_reads_back_what_was_written(tmp_path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    path = tmp_path / "clip.mp4"
    encode_clip(path, frames, waveform, fps=12, sample_rate=16_000, crf=12)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt, video.average_rate) == ("h264", "yuv420p", 12)
        assert (audio.codec_context.name, audio.rate, audio.layout.name) == ("aac", 16_000, "mono")
        decoded = list(container.decode(video))
    assert [frame.time for frame in decoded] == pytest.approx(np.arange(18) / 12)
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(float)
    assert np.abs(pictures - frames).mean() < 6  # of 255: chroma is halved, the rest is H.264
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])[: len(waveform)]
    assert np.abs(sound - waveform)[1024:-1024].mean() < 0.02


def test_bytes_are_equal_in_another_process(tmp_path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    here, there = tmp_path / "here.mp4", tmp_path / "there.mp4"
    encode_clip(here, frames, waveform, fps=12, sample_rate=16_000, fast_decode=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(encode_clip, there, frames, waveform, fps=12, sample_rate=16_000, fast_decode=True).result()
    assert here.read_bytes() == there.read_bytes()


def test_fractional_rate_and_no_sound(tmp_path: Path, frames: np.ndarray) -> None:
    path = tmp_path / "silent.mp4"
    encode_clip(path, frames, None, fps=Fraction(30000, 1001), sample_rate=16_000)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        assert not container.streams.audio


def test_gop_sets_the_key_frames(tmp_path: Path, frames: np.ndarray) -> None:
    path = tmp_path / "clip.mp4"
    encode_clip(path, frames, None, fps=12, sample_rate=16_000, gop=6)
    with av.open(str(path)) as container:
        assert [frame.key_frame for frame in container.decode(video=0)] == [i % 6 == 0 for i in range(18)]


def test_a_higher_crf_makes_a_smaller_file(tmp_path: Path, frames: np.ndarray) -> None:
    noisy = frames + np.random.default_rng(0).integers(0, 20, frames.shape, dtype=np.uint8)
    sizes = []
    for crf in (15, 40):
        encode_clip(tmp_path / f"{crf}.mp4", noisy, None, fps=12, sample_rate=16_000, crf=crf)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((4, 32, 32), np.uint8, r"expected frames \(T, h, w, 3\) uint8, got \(4, 32, 32\)"),
        ((4, 32, 32, 3), np.float32, "got .* float32"),
        ((0, 32, 32, 3), np.uint8, "expected frames"),
        ((4, 33, 32, 3), np.uint8, "even height and width .* got 33 x 32"),
    ],
)
def test_refuses_other_frames(tmp_path: Path, shape: tuple[int, ...], dtype: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_clip(tmp_path / "clip.mp4", np.zeros(shape, dtype), None, fps=12, sample_rate=16_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sound", [np.zeros((1, 100), np.float32), np.zeros(100), np.zeros(0, np.float32)])
def test_refuses_other_waveforms(tmp_path: Path, frames: np.ndarray, sound: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected waveform \(S,\) int16 or float32"):
        encode_clip(tmp_path / "clip.mp4", frames, sound, fps=12, sample_rate=16_000)
    assert not list(tmp_path.iterdir())
