"""What differs between the streams of a file, or in the middle of one."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from selavi.media import (
    MediaError,
    SoundError,
    crop_square,
    decode_clip,
    decode_frames_at,
    decode_recording,
    decode_sound,
    frame_times,
    latest_frames,
    loudest,
    playable,
    probe,
    stream_frames,
    transcode,
)
from tests.films import spoil

RATE = 16_000


def tone(seconds: float, hertz: float, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    seconds: float = 2.0,
    sounds: Sequence[np.ndarray] = (),
    channels: int = 1,
    rate: int = RATE,
    audio_codec: str = "aac",
    codec: str = "libx264",
    start_s: float = 0.0,
    change: Callable[[av.container.OutputContainer], None] = lambda container: None,
) -> Path:
    """Ten frames a second that become brighter, the left half always dark; and some sound tracks.

    `start_s`: what the clock of the container shows at the beginning.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=10)
        video.width, video.height, video.pix_fmt, video.gop_size = *size, "yuv420p", 5
        layout = "mono" if channels == 1 else "stereo"
        tracks = [container.add_stream(audio_codec, rate=rate, layout=layout) for _ in sounds]
        change(container)
        for number in range(round(10 * seconds)):
            picture = np.full((size[1], size[0], 3), 60 + 6 * number, np.uint8)
            picture[:, : size[0] // 2] = 20
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number + round(10 * start_s), Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for track, samples in zip(tracks, sounds, strict=True):
            frame = av.AudioFrame.from_ndarray(np.stack([samples] * channels), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(rate * start_s)
            resampler = av.AudioResampler(track.codec.audio_formats[0].name, layout, rate)
            for block in resampler.resample(frame):
                container.mux(track.encode(block))
            container.mux(track.encode(None))
    return path


def pitch(sound: np.ndarray, rate: int) -> float:
    """The loudest frequency."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(spectrum.argmax() * rate / len(sound))


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


# ---- which streams ----


@pytest.mark.parametrize(("suffix", "cover_codec"), [(".mkv", "mjpeg"), (".mov", "png"), (".mp4", "mjpeg")])
def test_a_cover_in_front_is_no_film_though_nothing_says_so(tmp_path: Path, suffix: str, cover_codec: str) -> None:
    path = tmp_path / f"film{suffix}"
    with av.open(str(path), "w") as container:
        cover = container.add_stream(cover_codec, rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p" if cover_codec == "mjpeg" else "rgb24"
        film = container.add_stream("libx264", rate=10)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        frame.pts = 0
        container.mux([*cover.encode(frame), *cover.encode(None)])
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(film.encode(frame))
        container.mux(film.encode(None))
    info = probe(path)
    assert (info.width, info.height) == (64, 48) and info.duration_s == pytest.approx(2.0, abs=0.1)
    assert decode_recording(path, size=48, sample_rate=RATE).frames.shape == (20, 48, 64, 3)


def test_the_sound_is_the_default_one_and_the_first_that_can_be_heard(tmp_path: Path) -> None:
    silence = np.zeros(2 * RATE, np.float32)

    def second_is_default(container: av.container.OutputContainer) -> None:
        container.streams.audio[0].disposition = Disposition.comment
        container.streams.audio[1].disposition = Disposition.default

    for name, sounds, change, hertz in (
        ("default.mkv", (tone(2, 440), tone(2, 880)), second_is_default, 880),
        ("first.mkv", (tone(2, 440), tone(2, 880)), lambda container: None, 440),
        ("silent.mkv", (silence, tone(2, 880)), lambda container: None, 880),
        ("silent_default.mkv", (tone(2, 440), silence), second_is_default, 440),
    ):
        path = write(tmp_path / name, sounds=sounds, change=change)
        assert probe(path).audio_state == "ok", name
        assert pitch(decode_sound(path, sample_rate=RATE)[RATE // 2 :], RATE) == pytest.approx(hertz, abs=3), name
        _, window = decode_clip(path, 0.5, 1.0, num_frames=0, size=8, offset=0.5, sample_rate=RATE)
        assert window is not None and pitch(window, RATE) == pytest.approx(hertz, abs=3), name
    assert probe(write(tmp_path / "both.mkv", sounds=(silence, silence))).audio_state == "silent"


def test_a_browser_is_not_given_a_file_of_which_it_plays_another_track(tmp_path: Path) -> None:
    silence = np.zeros(2 * RATE, np.float32)
    assert playable(write(tmp_path / "one.mp4", sounds=(tone(2, 440),))) is None
    path = write(tmp_path / "two.mp4", sounds=(silence, tone(2, 880)))
    assert playable(path) == "picture or sound that are not the first of their file"
    transcode(path, tmp_path / "made.mp4", short_side=48)
    assert pitch(decode_sound(tmp_path / "made.mp4", sample_rate=RATE)[RATE // 2 :], RATE) == pytest.approx(880, abs=3)


# ---- one verdict for each stream ----


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A good picture, and a sound of which nothing can be decoded."""
    return spoil(write(tmp_path / "broken.mp4", sounds=(tone(2, 440),)), "audio")


def test_a_broken_sound_leaves_the_picture(broken: Path) -> None:
    info = probe(broken)
    assert (info.audio_state, info.audio_s, info.width) == ("broken", 0.0, 64)
    assert info.duration_s == pytest.approx(2.0)
    assert info.audio_reason is not None and info.audio_reason.startswith("sound: cannot be decoded: ")
    frames, _ = decode_clip(broken, 0.5, 1.0, num_frames=4, size=32, offset=0.5, sample_rate=0)
    with pytest.raises(SoundError) as caught:
        decode_clip(broken, 0.5, 1.0, num_frames=4, size=32, offset=0.5, sample_rate=RATE)
    np.testing.assert_array_equal(caught.value.frames, frames)
    recording = decode_recording(broken, size=32, sample_rate=RATE)
    assert len(recording.frames) == 20 and recording.waveform.size == 0
    assert recording.audio_fault == info.audio_reason
    with pytest.raises(MediaError, match="sound: cannot be decoded"):
        decode_sound(broken, sample_rate=RATE)


def test_a_sound_without_a_decoder_is_broken_not_absent(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mkv", sounds=(tone(2, 440),))
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    info = probe(path)
    assert (info.audio_state, info.audio_reason) == ("broken", "sound: there is no decoder for it")
    assert len(decode_recording(path, size=32, sample_rate=RATE).frames) == 20


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    path = spoil(write(tmp_path / "broken.mp4", sounds=(tone(2, 440),)), "video")
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason == "corrupt" and caught.value.detail.startswith("picture: ")
    assert loudest(decode_sound(path, sample_rate=RATE)) > 10_000


def test_a_file_that_was_cut_off_is_as_long_as_what_is_left(tmp_path: Path) -> None:
    """The header of an AVI file keeps its word when the rest is gone."""
    path = write(tmp_path / "film.avi", seconds=3.0, codec="mpeg4")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + (len(content) - content.index(b"movi")) // 2])
    num_frames = len(decode_recording(path, size=32, sample_rate=RATE).frames)
    assert 5 < num_frames < 25
    assert probe(path).duration_s == pytest.approx(num_frames / 10, abs=0.11)


# ---- what changes in the middle ----


@pytest.mark.parametrize("starts_s", [(0.0, 7200.0), (7200.0, 0.0), (95_400.0, 0.0), (0.0, 1.0)])
def test_the_clock_may_jump_by_any_time(tmp_path: Path, starts_s: tuple[float, float]) -> None:
    """Picture and sound stay together: the pitch changes with the part."""
    parts = [
        write(
            tmp_path / f"{hertz}.ts", sounds=(tone(2, hertz),), codec="mpeg2video", audio_codec="mp2", start_s=start_s
        )
        for hertz, start_s in zip((440, 880), starts_s, strict=True)
    ]
    path = join(tmp_path / "joined.ts", *parts)
    info, whole = probe(path), decode_recording(path, size=48, sample_rate=RATE)
    assert info.timing == "bridged" and info.duration_s == pytest.approx(4.0, abs=0.1)
    np.testing.assert_allclose(whole.times_s, np.arange(40) / 10, atol=0.001)
    assert len(whole.waveform) == pytest.approx(4 * RATE, abs=0.1 * RATE)
    for at_s, hertz in ((0.5, 440), (2.5, 880)):
        piece = whole.waveform[round(at_s * RATE) : round((at_s + 1) * RATE)]
        assert pitch(piece, RATE) == pytest.approx(hertz, abs=3)


@pytest.mark.parametrize(
    ("second", "codec"),
    [({"channels": 2}, "aac"), ({"rate": 48_000}, "mp2"), ({"rate": 32_000, "channels": 2}, "mp2")],
)
def test_sound_may_change_its_channels_and_rate(tmp_path: Path, second: dict[str, int], codec: str) -> None:
    first_rate = 44_100
    one = write(
        tmp_path / "1.ts", sounds=(tone(2, 440, first_rate),), rate=first_rate, audio_codec=codec, codec="mpeg2video"
    )
    how = {"rate": first_rate} | second
    two = write(tmp_path / "2.ts", sounds=(tone(2, 880, how["rate"]),), audio_codec=codec, codec="mpeg2video", **how)
    path = join(tmp_path / "joined.ts", one, two)
    info = probe(path)
    assert (info.audio_state, info.timing) == ("ok", "bridged")
    assert info.duration_s == pytest.approx(4.0, abs=0.1) and info.audio_s == pytest.approx(4.0, abs=0.15)
    sound = decode_sound(path, sample_rate=RATE)
    assert len(sound) == pytest.approx(4 * RATE, abs=0.1 * RATE)
    for at_s, hertz in ((0.5, 440), (2.5, 880)):
        piece = sound[round(at_s * RATE) : round((at_s + 1) * RATE)]
        assert pitch(piece, RATE) == pytest.approx(hertz, abs=3)
        _, window = decode_clip(path, at_s, 1.0, num_frames=0, size=8, offset=0.5, sample_rate=RATE)
        assert window is not None and pitch(window, RATE) == pytest.approx(hertz, abs=3)
    transcode(path, tmp_path / "made.mp4", short_side=48)
    made = decode_sound(tmp_path / "made.mp4", sample_rate=RATE)
    assert pitch(made[RATE // 2 : RATE], RATE) == pytest.approx(440, abs=4)
    assert pitch(made[3 * RATE : 7 * RATE // 2], RATE) == pytest.approx(880, abs=4)


def test_a_picture_may_change_its_size(tmp_path: Path) -> None:
    one = write(tmp_path / "1.ts", size=(64, 48))
    two = write(tmp_path / "2.ts", size=(96, 48))
    path = join(tmp_path / "joined.ts", one, two)
    info = probe(path)
    assert (info.width, info.height) == (64, 48)
    whole = decode_recording(path, size=24, sample_rate=RATE)
    assert whole.frames.shape == (40, 24, 32, 3)
    assert len(list(stream_frames(path, size=24))) == 40
    for half in whole.frames[[5, 35]]:  # the middle of the wider picture: dark to the left, bright to the right
        assert half[:, :14].mean() < 40 < 70 < half[:, -14:].mean()
    for start_s in (0.4, 1.7, 2.5):
        frames, _ = decode_clip(path, start_s, 1.0, num_frames=8, size=24, offset=0.2, sample_rate=0)
        used = latest_frames(whole.times_s, frame_times(start_s, 1.0, 8))
        np.testing.assert_array_equal(frames, crop_square(whole.frames[used], 0.2))
    transcode(path, tmp_path / "made.mp4", short_side=48)
    assert decode_recording(tmp_path / "made.mp4", size=24, sample_rate=RATE).frames.shape == (40, 24, 32, 3)


# ---- how a picture is shown ----


@pytest.mark.parametrize(
    ("ratio", "shown"), [("16/9", (85, 48)), ("1/2", (24, 48)), ("1", (48, 48)), ("500", (48, 48))]
)
def test_a_picture_has_its_shown_shape(tmp_path: Path, ratio: str, shown: tuple[int, int]) -> None:
    def stretch(container: av.container.OutputContainer) -> None:
        container.streams.video[0].codec_context.sample_aspect_ratio = Fraction(ratio)

    path = write(tmp_path / "film.mp4", size=(48, 48), change=stretch)
    info = probe(path)
    assert (info.width, info.height) == shown
    scale = 24 / min(shown)
    expected = (round(shown[1] * scale), round(shown[0] * scale))
    whole = decode_recording(path, size=24, sample_rate=RATE).frames
    assert whole.shape[1:3] == expected
    frames, _ = decode_clip(path, 0.5, 1.0, num_frames=10, size=24, offset=0.3, sample_rate=0)
    np.testing.assert_array_equal(frames, crop_square(whole[5:15], 0.3))


@pytest.mark.parametrize("degrees", [0, 44, 45, 46, 90, 135, 180, 225, 270, 315, 316, 359])
def test_a_picture_is_turned_by_whole_quarters_everywhere(tmp_path: Path, degrees: int) -> None:
    """Scan and decoding agree on what is upright, also for angles that no camera writes."""
    path = write(tmp_path / "film.mp4", size=(64, 48))
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    turn = np.deg2rad(degrees)
    cosine, sine = (round(value * 65536) for value in (np.cos(turn), np.sin(turn)))
    content[at : at + 36] = struct.pack(">9i", cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    info = probe(path)
    frames = decode_recording(path, size=48, sample_rate=RATE).frames
    assert (info.height, info.width) == frames.shape[1:3]
    if degrees % 90 == 0:
        assert frames.shape[1:3] == ((64, 48) if degrees % 180 else (48, 64))
    np.testing.assert_array_equal(decode_frames_at(path, [1.0], 48)[0], frames[10])


@pytest.mark.parametrize("suffix", [".avi", ".mov"])
def test_a_palette_survives_seeks(tmp_path: Path, suffix: str) -> None:
    """Raw pictures with a palette, which the first packet alone carries."""
    path = tmp_path / f"palette{suffix}"
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0] = 255
    palette[:, 1:] = np.arange(256)[:, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo" if suffix == ".avi" else "qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8" if suffix == ".avi" else "rgb24"
        for number in range(20):
            if suffix == ".avi":
                values = np.full((48, 64), 40 + 10 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray((values, palette), format="pal8")
            else:
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + 10 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = decode_recording(path, size=48, sample_rate=RATE).frames
    np.testing.assert_allclose(whole.mean((1, 2, 3)), 40 + 10 * np.arange(20), atol=3)
    for start_s in (0.0, 0.5, 1.0):
        frames, _ = decode_clip(path, start_s, 1.0, num_frames=10, size=48, offset=0.0, sample_rate=0)
        first = round(10 * start_s)
        np.testing.assert_array_equal(frames, whole[first : first + 10, :, :48])


# ---- as they come (not distributed) ----

FAULTS: dict[str, dict[str, object]] = {
    "x264_b.avi": {"num_frames": 75, "audio_state": "ok", "timing": "counted"},
    "pal_raw.avi": {"num_frames": 10, "step_s": 0.1, "audio_state": "absent"},
    "pal_smc.mov": {"num_frames": 10, "step_s": 0.1, "audio_state": "absent"},
    "ch_change.ts": {"num_frames": 100, "audio_state": "ok", "sound_s": 4.0},
    "rate_change.ts": {"num_frames": 100, "audio_state": "ok", "sound_s": 4.0},
    "concat.ts": {"num_frames": 150, "audio_state": "ok", "sound_s": 6.0, "timing": "bridged"},
    "size_change.ts": {"num_frames": 100, "audio_state": "absent"},
    "cover_first_unflagged.mp4": {"num_frames": 75, "audio_state": "ok"},
    "rot45.mp4": {"num_frames": 75, "audio_state": "absent"},
    "rot315.mp4": {"num_frames": 75, "audio_state": "absent"},
    "sar_16_9.mp4": {"num_frames": 50, "size": (128, 72), "audio_state": "absent"},
    "two_audio.mkv": {"num_frames": 75, "audio_state": "ok"},
    "silent_then_sound.mp4": {"num_frames": 75, "audio_state": "ok"},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_was_read_wrongly_once(shared: Path, name: str) -> None:
    path = shared / "data" / "faults" / name
    if not path.exists():
        pytest.skip(f"the files that were read wrongly are not here: {path.parent} (SELAVI_TESTDATA names the place)")
    expected = FAULTS[name]
    step_s = expected.get("step_s", 0.04)
    info, whole = probe(path), decode_recording(path, size=48, sample_rate=RATE)
    assert len(whole.frames) == expected["num_frames"]
    np.testing.assert_allclose(whole.times_s, np.arange(len(whole.frames)) * step_s, atol=1e-3)
    assert info.duration_s == pytest.approx(len(whole.frames) * step_s, abs=0.01)
    assert info.audio_state == expected["audio_state"] and whole.audio_fault is None
    assert (info.height, info.width) == tuple(
        np.multiply(whole.frames.shape[1:3], min(info.width, info.height) / 48).round()
    )
    if "size" in expected:
        assert (info.width, info.height) == expected["size"]
    if "timing" in expected:
        assert info.timing == expected["timing"]
    if "sound_s" in expected:
        assert len(whole.waveform) / RATE == pytest.approx(expected["sound_s"], abs=0.05)
    assert whole.frames.mean() > 40
    for start_s in np.linspace(0, info.duration_s - 0.5, 7).tolist():
        frames, _ = decode_clip(path, start_s, 0.5, num_frames=6, size=48, offset=0.5, sample_rate=RATE)
        used = latest_frames(whole.times_s, frame_times(start_s, 0.5, 6))
        np.testing.assert_array_equal(frames, crop_square(whole.frames[used], 0.5))
