"""Decoding a window gives, bit for bit, the frames and, to a hair, the sound of a whole decoding."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

import selavi.media.frames
import selavi.media.pictures
from selavi.media import (
    MediaError,
    crop_square,
    decode_clip,
    decode_recording,
    encode_clip,
    frame_times,
    latest_frames,
    probe,
)
from selavi.media.files import File

FPS, RATE = 30, 16_000
FLASH, CLICK_S = 47, 47 / 30
"""The picture flashes in one frame and the sound clicks as it begins."""


def write(
    path: Path,
    codec: str = "libx264",
    *,
    options: dict[str, str] | None = None,
    gop: int = 24,
    pts: list[int] | None = None,
    audio: str = "aac",
    audio_late_s: float = 0.0,
    first_packet: int = 0,
    movflags: str = "",
) -> Path:
    """Three seconds of moving texture of 64 x 48 with a flash and a click at CLICK_S of the film.

    Args:
        pts: when each frame is shown, in thirtieths of a second; evenly by default.
        audio_late_s: the clock shows so much where the sound begins, and 0 where the picture does.
        first_packet: packets of the picture to leave out at the beginning.
        movflags: of the MP4 writer.
    """
    rng = np.random.default_rng(1)
    ground = rng.integers(0, 120, (96, 200, 3)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    times = pts or list(range(90))
    with av.open(str(path), "w", container_options={"movflags": movflags} if movflags else {}) as container:
        video = container.add_stream(codec, rate=FPS)
        video.width, video.height, video.options, video.gop_size = 64, 48, options or {}, gop
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.thread_count = 1
        video.codec_context.time_base = Fraction(1, FPS)
        sound = container.add_stream(audio, rate=RATE, layout="mono")
        packets = []
        for at in times:
            picture = (
                ground[at // 3 : at // 3 + 48, at : at + 64] if at != FLASH else np.full((48, 64, 3), 255, np.uint8)
            )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            packets += video.encode(frame)
        packets += video.encode(None)
        for packet in packets[first_packet:]:
            container.mux(packet)
        samples = rng.normal(0, 0.01, 3 * RATE)
        click = round(CLICK_S * RATE)
        samples[click : click + 32] = 0.8
        samples = samples[round(audio_late_s * RATE) :]
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), round(audio_late_s * RATE)
        resampler = av.AudioResampler(sound.codec.audio_formats[0].name, "mono", RATE)
        for block in resampler.resample(frame):
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    return path


UNEVEN = sorted({*range(0, 40, 2), *range(40, 60), *range(60, 90, 3)})
FILES = {
    "plain.mp4": {},
    "many_b.mp4": {"options": {"bf": "6", "b-pyramid": "normal", "refs": "4"}, "gop": 250},
    "open_gop.mp4": {"options": {"bf": "4", "x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0"}},
    "open_gop.mkv": {"options": {"bf": "4", "x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0"}},
    "refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=20"}},
    "no_b.mp4": {"options": {"bf": "0"}, "gop": 8},
    "all_key.mp4": {"gop": 1},
    "stream.ts": {"gop": 20},
    "headless.ts": {"gop": 20, "first_packet": 5},
    "uneven.mp4": {"pts": UNEVEN, "gop": 12},
    "uneven.mkv": {"pts": UNEVEN, "gop": 12},
    "in_pieces.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "old.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "older.mov": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "old.avi": {"codec": "mpeg4", "options": {"bf": "2"}, "audio": "pcm_s16le"},
    "old.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}, "audio": "mp2"},
    "jpegs.avi": {"codec": "mjpeg", "audio": "pcm_s16le"},
    "late_sound.mkv": {"audio_late_s": 0.5},
    "late_sound.mp4": {"audio_late_s": 0.5},
    "fast.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}, "audio": "libopus"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exact")
    for name, how in FILES.items():
        write(path / name, **how)
    return path


def window(path: Path, start_s: float, clip_s: float = 0.5, num_frames: int = 15, size: int = 32):
    return decode_clip(path, start_s, clip_s, num_frames=num_frames, size=size, offset=0.5, sample_rate=RATE)


@pytest.mark.parametrize("name", FILES)
def test_a_window_has_the_frames_of_a_whole_decoding(folder: Path, name: str) -> None:
    whole = decode_recording(folder / name, size=32, sample_rate=RATE)
    assert len(whole.frames) >= 45
    for start_s in (0.0, 0.03, 0.5, 0.65, 0.68, 1.0, 4 / 3, 1.61, 2.0, 2.4):
        for clip_s, num_frames in ((0.5, 15), (0.5, 4), (0.6, 1)):
            frames, _ = window(folder / name, start_s, clip_s, num_frames)
            used = latest_frames(whole.times_s, frame_times(start_s, clip_s, num_frames))
            np.testing.assert_array_equal(frames, crop_square(whole.frames[used], 0.5), f"{start_s} {num_frames}")


@pytest.mark.parametrize("name", FILES)
def test_a_span_has_the_frames_and_the_sound_of_a_whole_decoding(folder: Path, name: str) -> None:
    whole = decode_recording(folder / name, size=32, sample_rate=RATE)
    for start_s, end_s in ((0.0, 0.5), (0.03, 0.04), (0.5, 1.5), (0.68, 3.1), (4 / 3, 2.0), (1.61, 1.9), (2.4, 9.0)):
        span = decode_recording(folder / name, size=32, sample_rate=RATE, start_s=start_s, end_s=end_s)
        first = latest_frames(whole.times_s, np.array([start_s]))[0]
        last = max(np.searchsorted(whole.times_s, end_s - 1e-6), first + 1)
        np.testing.assert_allclose(span.times_s + start_s, whole.times_s[first:last], atol=1e-9)
        np.testing.assert_array_equal(span.frames, whole.frames[first:last])
        heard = window(folder / name, start_s, end_s - start_s)[1]
        np.testing.assert_array_equal(span.waveform, [] if heard is None else heard)


@pytest.mark.parametrize("name", FILES)
def test_most_files_need_no_whole_decoding(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exceptions: where no earlier key frame can be found, or decoding does not begin at one."""
    begins = []
    original = selavi.media.frames._by_frames
    monkeypatch.setattr(selavi.media.frames, "_by_frames", lambda *a: begins.append(a[2]) or original(*a))
    for start_s in (0.7, 1.3, 2.2):
        window(folder / name, start_s)
    if name == "old.avi":  # all frames are decoded, from a key frame that comes early enough
        assert begins == pytest.approx([0.1, 0.7, 1.6])
    else:
        assert not begins or name in ("refresh.mp4", "headless.ts", "old.mpg")


@pytest.mark.parametrize(("name", "openings"), [("plain.mp4", 1), ("in_pieces.mp4", 1), ("old.mp4", 2)])
def test_the_first_frames_are_not_decoded_only_to_open_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, openings: int
) -> None:
    """The header of an MP4 tells all; where it does not (the size, in MPEG-4 part 2), the file is opened once more."""
    seen = []
    original = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: seen.append(k["options"]) or original(*a, **k))
    window(folder / name, 1.0)
    assert ["codec_whitelist" in options for options in seen] == [True, False][:openings]


def test_frames_before_the_window_are_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that was asked for everything would make the bit-exact shortcut worthless."""
    count = []
    original = selavi.media.pictures.Resize.__call__
    monkeypatch.setattr(selavi.media.pictures.Resize, "__call__", lambda *a: count.append(1) or original(*a))
    window(folder / "many_b.mp4", 2.0, 0.5, 4)
    assert len(count) == 4  # only what is wanted is resized


@pytest.mark.parametrize("name", FILES)
def test_the_flash_and_the_click_come_together(folder: Path, name: str) -> None:
    for start_s in (0.9, 1.0, 1.2):
        frames, waveform = window(folder / name, start_s, 1.0, 60)
        assert waveform is not None
        bright = np.flatnonzero(frames.mean((1, 2, 3)) > 180)
        loud = np.flatnonzero(np.abs(waveform.astype(int)) > 10_000)
        assert bright.size and loud.size, start_s
        flash_s, click_s = bright[0] / 60, loud[0] / RATE
        assert abs(flash_s - click_s) <= 1 / 30 + 0.010, start_s
    whole = decode_recording(folder / name, size=32, sample_rate=RATE)
    flash_s = whole.times_s[np.argmax(whole.frames.mean((1, 2, 3)))]
    click_s = np.argmax(np.abs(whole.waveform.astype(int)) > 10_000) / RATE
    assert abs(flash_s - click_s) <= 0.010


@pytest.mark.parametrize("name", FILES)
def test_lengths_are_those_of_picture_and_sound(folder: Path, name: str) -> None:
    info = probe(folder / name)
    cut_s = 0.0 if name != "headless.ts" else 0.17
    assert info.duration_s == pytest.approx(3.0, abs=0.14 + cut_s)
    assert info.audio_s == pytest.approx(2.5 if name.startswith("late_sound") else 3.0, abs=0.1)
    assert info.audio_state == "ok"


def test_sound_keeps_its_place_across_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for index in range(90):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start, value in ((0, 1000), (16_000, 2000)):  # nothing from 1 s to 2 s
            for at in range(start, start + 8000, 800):
                block = av.AudioFrame.from_ndarray(np.full((1, 800), value, np.int16), format="s16", layout="mono")
                block.sample_rate, block.time_base, block.pts = 8000, Fraction(1, 8000), at
                container.mux(sound.encode(block))
    waveform = decode_recording(path, size=16, sample_rate=8000).waveform
    for second, value in ((0, 1000), (1, 0), (2, 2000)):
        assert (waveform[8000 * second + 100 : 8000 * second + 7900] == value).all()
    _, piece = decode_clip(path, 1.5, 1.0, num_frames=0, size=16, offset=0.5, sample_rate=8000)
    assert piece is not None and (piece[100:3900] == 0).all() and (piece[4100:] == 2000).all()


@pytest.mark.parametrize("first", ["picture", "sound"])
@pytest.mark.parametrize("delta", ["0", "1000"], ids=["side by side", "one behind the other"])
def test_sound_is_found_where_matroska_has_an_index_of_the_picture_alone(
    tmp_path: Path, first: str, delta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each second the samples are the number of the second; the file lasts 12 of them."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", container_options={"max_interleave_delta": delta}) as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt, video.gop_size = 32, 32, "yuv420p", 25
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        pictures, sounds = [], []
        for index in range(120):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            pictures += video.encode(frame)
        pictures += video.encode(None)
        for at in range(0, 12 * 8000, 800):
            block = av.AudioFrame.from_ndarray(np.full((1, 800), 100 * (at // 8000), np.int16), "s16", "mono")
            block.sample_rate, block.time_base, block.pts = 8000, Fraction(1, 8000), at
            sounds += sound.encode(block)
        for packet in pictures + sounds if first == "picture" else sounds + pictures:
            container.mux(packet)
    sought: list[str] = []
    seek = File.seek

    def noted(file: File, stream: VideoStream | AudioStream, time_s: float) -> None:
        sought.append(stream.type)
        seek(file, stream, time_s)

    monkeypatch.setattr(File, "seek", noted)
    for start_s in np.arange(0.0, 11.0, 0.37):
        _, piece = decode_clip(path, start_s, 1.0, num_frames=0, size=16, offset=0.5, sample_rate=8000)
        assert piece is not None
        assert (piece == 100 * ((round(start_s * 8000) + np.arange(8000)) // 8000)).all()
    # From where the sound of that time is not, the index of the sound itself has to lead.
    assert ("audio" in sought[3:]) == (delta == "1000" and first == "sound")


def test_a_clip_over_its_deadline_is_given_up(folder: Path) -> None:
    with pytest.raises(MediaError) as caught:
        decode_clip(
            folder / "plain.mp4", 1.0, 1.0, num_frames=4, size=32, offset=0.5, sample_rate=0, deadline_s=1e-9
        )  # fmt: skip
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("width", [48, 50, 52, 54, 56, 58, 62, 66])
def test_a_picture_of_the_wanted_size_is_whole(tmp_path: Path, width: int) -> None:
    """The library's unscaled way into planes leaves the last columns of widths that are 2 to 8 above 16 n unwritten."""
    encode_clip(tmp_path / "a.mp4", np.full((4, 48, width, 3), 200, np.uint8), None, fps=4, sample_rate=8000)
    frames = decode_recording(tmp_path / "a.mp4", size=48, sample_rate=8000).frames
    assert frames.shape == (4, 48, width, 3)
    assert frames.min() > 190 and frames.max() < 210
