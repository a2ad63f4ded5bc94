from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selavi.media import MediaError, encode_clip
from selavi.results.gallery import thumbnails
from selavi.results.gallery.overlays import draw_overlay, overlay_name
from selavi.results.gallery.thumbnails import (
    COLOURS,
    SAMPLE_RATE,
    Geometry,
    ThumbnailJob,
    draw,
    make_thumbnail,
    read_file,
)
from tests.selavi.results.gallery.synthetic_gallery import evidence_of

TILE = Geometry(160)


def job_of(folder: Path, source: Path, duration_s: float = 3.0, has_sound: bool = True) -> ThumbnailJob:
    return ThumbnailJob(folder / "ab" / "thumb.jpg", source, 0, 0.0, duration_s, True, has_sound)


def spectrogram(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), float)[-40:]


def test_frames_lie_whole_in_the_middle_of_their_places() -> None:
    red, tall = np.zeros((50, 100, 3), np.uint8), np.full((90, 45, 3), 255, np.uint8)
    red[..., 0] = 255
    pixels = np.asarray(draw([red, tall, red, tall], np.zeros(0, np.int16), TILE))
    assert pixels.shape == (160, 640, 3)
    first = (pixels[:120, :160] == [255, 0, 0]).all(-1)
    assert first[20:100].all() and not first[:20].any() and not first[100:].any()  # 160 x 80
    second = (pixels[:120, 160:320] == 255).all(-1)
    assert second[:, 50:110].all() and not second[:, :50].any() and not second[:, 110:].any()  # 60 x 120
    assert (pixels[120:] == pixels[0, 0]).all()  # no sound: a dark strip


def test_a_tone_that_rises_is_a_line_that_rises_over_the_whole_strip() -> None:
    time_s = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    sound = (8000 * np.sin(2 * np.pi * (300 + 900 * time_s) * time_s)).astype(np.int16)
    loudest = spectrogram(draw([], sound, TILE)).argmax(0)[5:-5]
    assert loudest[0] > 30 and loudest[-1] < 10  # row 0 is the top
    assert (np.diff(loudest) <= 1).all()


def test_silence_is_dark_and_short_sound_is_drawn() -> None:
    assert spectrogram(draw([], np.zeros(SAMPLE_RATE, np.int16), TILE)).max() < 40
    click = np.zeros(20, np.int16)
    click[10] = 30_000
    assert spectrogram(draw([], click, TILE)).max() > 150


def test_colours_grow_lighter_evenly() -> None:
    linear = (COLOURS / 255.0) ** 2.2
    lightness = np.cbrt(linear @ [0.2126, 0.7152, 0.0722])
    steps = np.diff(lightness)
    assert (steps > -1e-3).all() and lightness[0] < 0.3 and lightness[-1] > 0.95
    assert np.abs(lightness - np.linspace(lightness[0], lightness[-1], 256)).max() < 0.06


@pytest.mark.parametrize(
    ("ratios", "width"), [([16 / 9] * 3, 213), ([4.0], 213), ([9 / 16], 90), ([1.0, 1.0, 2.0], 120), ([], 160)]
)
def test_frames_are_as_wide_as_the_median(ratios: list[float], width: int) -> None:
    found = Geometry.of(np.array(ratios), True, True)
    assert (found.width, found.size) == (width, (4 * width, 160))


def test_a_set_without_sound_has_no_strip() -> None:
    assert Geometry.of(np.array([1.0]), True, False).size == (480, 120)
    assert Geometry.of(np.array([]), False, True).size == (640, 80)


def test_a_recording_becomes_frames_in_order_and_its_sound(media: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, media / "plain.mp4")
    frames, sound = read_file(job, TILE)
    lefts = [int((frame[frame.shape[0] // 2, :, 0] > 150).argmax()) * 36 / frame.shape[1] for frame in frames]
    assert lefts == sorted(lefts) and lefts[0] < lefts[-1]  # the bright square moves to the right
    assert len(sound) == pytest.approx(3 * SAMPLE_RATE, rel=0.05)
    assert make_thumbnail(job, TILE, read_file) == "made"
    with Image.open(job.target) as picture:
        assert picture.format == "JPEG" and picture.size == (640, 160)
        assert spectrogram(picture).std() > 10
    before = job.target.stat().st_mtime_ns
    assert make_thumbnail(job, TILE, read_file) == "kept" and job.target.stat().st_mtime_ns == before


@pytest.mark.parametrize("duration_s", [0.2, 3.0, 3.9])
def test_short_recordings_are_read_once_and_give_the_same_frames(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, duration_s: float
) -> None:
    job = job_of(tmp_path, media / "plain.mp4", duration_s)
    calls: list[list[float]] = []
    read = thumbnails.decode_frames_at
    monkeypatch.setattr(
        thumbnails, "decode_frames_at", lambda path, times, side: calls.append(times) or read(path, times, side)
    )
    at_once, _ = read_file(job, TILE)
    monkeypatch.setattr(thumbnails, "_SHORT_S", 0.0)
    one_by_one, _ = read_file(job, TILE)
    assert [len(times) for times in calls] == [4, 1, 1, 1, 1]
    assert all(map(np.array_equal, at_once, one_by_one))


def test_long_recordings_are_heard_in_windows(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "_LONG_S", 1.0)
    monkeypatch.setattr(thumbnails, "_WINDOWS", 5)
    monkeypatch.setattr(thumbnails, "decode_sound", None)
    _, sound = read_file(job_of(tmp_path, media / "plain.mp4"), TILE)
    assert sound.shape == (5 * SAMPLE_RATE,) and np.abs(sound).max() > 1000


@pytest.mark.parametrize("name", ["empty.mp4", "text.mp4", "none.mp4"])
def test_a_broken_file_fails_alone(media: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(MediaError):
        make_thumbnail(job_of(tmp_path, media / name), TILE, read_file)
    assert list(tmp_path.rglob("*.*")) == []


def test_what_a_library_makes_of_a_hostile_file_is_one_bad_file(tmp_path: Path) -> None:
    def read(job: ThumbnailJob, geometry: Geometry) -> tuple[list[np.ndarray], np.ndarray]:
        raise ZeroDivisionError("rate")

    with pytest.raises(MediaError, match="corrupt: ZeroDivisionError: rate"):
        make_thumbnail(job_of(tmp_path, tmp_path / "x.mp4"), TILE, read)


def test_an_overlay_lies_where_the_frames_and_the_strip_are(tmp_path: Path) -> None:
    video, audio = np.zeros((4, 2, 2), np.uint8), np.zeros((4, 8), np.uint8)
    video[1, :, 1] = 255  # right half of the second frame
    audio[0, :4] = 255  # low bands in the first half
    path = tmp_path / "ab" / "x.png"
    draw_overlay(path, evidence_of("x", video, audio), TILE, 100, 50)
    with Image.open(path) as picture:
        assert picture.size == (640, 160)
        alpha = np.asarray(picture.convert("RGBA"))[..., 3].astype(float)
    assert alpha[:120, :160].max() == 0 and alpha[:120, 320:].max() == 0
    assert alpha[25:95, 290:315].min() > 120 and alpha[:18, 160:320].max() == 0  # letterboxed: 160 x 80
    assert alpha[155:, :200].min() > 100 and alpha[121:130].max() < 30 and alpha[155:, 420:].max() < 30
    first, second = (evidence_of("x", video, strip) for strip in (audio, None))
    assert overlay_name(first, "a") != overlay_name(second, "a") != overlay_name(second, "b")


def test_equal_recordings_give_equal_thumbnails(tmp_path: Path, moving_square: np.ndarray, chirp: np.ndarray) -> None:
    encode_clip(tmp_path / "a.mp4", moving_square, chirp, fps=12, sample_rate=8000)
    first, second = (job_of(tmp_path / name, tmp_path / "a.mp4") for name in ("one", "two"))
    for job in (first, second):
        make_thumbnail(job, TILE, read_file)
    assert first.target.read_bytes() == second.target.read_bytes()


def test_a_spectrogram_alone_is_drawn_finer() -> None:
    alone, below = (Geometry.of(np.array([]), has_pictures, True) for has_pictures in (False, True))
    assert alone.frames == 0 and alone.spectrogram == 2 * below.spectrogram
    assert draw([], np.ones(SAMPLE_RATE, np.int16), alone).size == alone.size
