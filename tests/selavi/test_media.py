import csv
import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from selavi.media import (
    MediaError,
    crop_square,
    cut_waveform,
    decode_clip,
    decode_frames_at,
    decode_recording,
    decode_sound,
    encode_clip,
    frame_times,
    latest_frames,
    probe,
)

# What probe says, and whether a clip of a second can be had, of the odd files; those not named end in a MediaError.
USABLE = {
    "UPPER CASE öäü 名前.MP4": "ok",
    "alpha.webm": "absent",
    "audio_starts_late.mkv": "ok",
    "fps_1.mp4": "ok",
    "gray.mkv": "ok",
    "hdr_10bit_pq_bt2020.mp4": "ok",
    "mjpeg_pcm.avi": "ok",
    "mkv_named.mp4": "ok",
    "mpegts.ts": "ok",
    "no_audio.mp4": "absent",
    "odd_size_65x49.mp4": "ok",
    "rotated_90.mp4": "ok",
    "silent_audio.mp4": "silent",
    "surround_5.1.mp4": "ok",
    "tall_90x320.mp4": "ok",
    "tiny_16x16.mp4": "ok",
    "vfr.mp4": "ok",
    "vp8_opus.webm": "ok",
}
FAULTS = {
    "zero_bytes.mp4": {"empty"},
    "audio_only.m4a": {"no_video"},
    "html_error_page.mp4": {"not_media"},
    "lfs_pointer.mp4": {"not_media"},
    "random_bytes.mp4": {"not_media"},
    "text_named.mp4": {"not_media"},
    "header_zeroed.mp4": {"not_media", "corrupt"},
    "truncated_no_moov.mp4": {"not_media", "corrupt"},
    "bit_rot_5pct.mp4": {"corrupt"},
}


def clip(path: Path, start_s: float, clip_s: float = 1.0, num_frames: int = 6, sample_rate: int = 8000, size: int = 32):
    return decode_clip(path, start_s, clip_s, num_frames=num_frames, size=size, offset=0.5, sample_rate=sample_rate)


def edge(frame: np.ndarray) -> float:
    """Column of the left edge of the square in a frame of `moving_square`: its number."""
    red = frame[..., 0].astype(float).max(0)
    return float(np.argmax(red > 130))


# ---- arithmetic ----


def test_frames_are_evenly_spaced_and_stay_inside() -> None:
    np.testing.assert_allclose(frame_times(2.0, 1.0, 4), [2.0, 2.25, 2.5, 2.75])
    assert frame_times(2.0, 1.0, 1).tolist() == [2.0]


def test_the_frame_on_screen_is_the_last_that_began() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.5])
    wanted = np.array([-1.0, 0.0, 0.05, 0.1, 0.1999999, 0.3, 9.0])
    assert latest_frames(times, wanted).tolist() == [0, 0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(("offset", "first"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_square_is_cut_from_the_long_side(offset: float, first: int) -> None:
    wide = np.broadcast_to(np.arange(8)[None, None, :, None], (2, 4, 8, 3))
    assert crop_square(wide, offset)[0, 0, :, 0].tolist() == list(range(first, first + 4))
    tall = wide.transpose(0, 2, 1, 3)
    assert crop_square(tall, offset)[0, :, 0, 0].tolist() == list(range(first, first + 4))


def test_a_waveform_is_cut_and_padded() -> None:
    sound = np.arange(1, 11, dtype=np.int16)

    def cut(start_s: float) -> list[float] | None:
        piece = cut_waveform(sound, start_s, 0.4, 10)
        return None if piece is None else piece.tolist()

    assert cut(0.3) == [4, 5, 6, 7]
    assert cut(0.8) == [9, 10, 0, 0]
    assert cut(-0.2) == [0, 0, 1, 2]
    assert cut(1.0) is None
    assert cut(-0.4) is None


# ---- generated files ----


def test_probe_says_what_a_file_holds(media: Path) -> None:
    info = probe(media / "plain.mp4")
    assert (info.width, info.height, info.fps, info.audio_state) == (48, 32, 12.0, "ok")
    assert info.duration_s == pytest.approx(3.0, abs=0.15)
    assert probe(media / "mute.mp4").audio_state == "absent"
    assert probe(media / "silent.mp4").audio_state == "silent"
    assert probe(media / "short_sound.mp4").audio_state == "ok"


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("empty.mp4", {"empty"}),
        ("text.mp4", {"not_media"}),
        ("truncated.mp4", {"not_media", "corrupt"}),
        ("missing.mp4", {"vanished"}),
    ],
)
def test_a_file_that_cannot_be_used_has_a_reason(media: Path, name: str, reasons: set[str]) -> None:
    for attempt in (probe, lambda p: clip(p, 0.0), lambda p: decode_sound(p, sample_rate=8000)):
        with pytest.raises(MediaError) as caught:
            attempt(media / name)
        assert caught.value.reason in reasons
        assert caught.value.path == media / name
        assert caught.value.detail


def test_a_file_without_a_picture_is_refused(tmp_path: Path, chirp: np.ndarray) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray((chirp * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason == "no_video"


def test_a_picture_that_breaks_off_is_corrupt(tmp_path: Path, media: Path) -> None:
    path = tmp_path / "zeroed.mp4"
    data = bytearray((media / "mute.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        decode_recording(path, size=16, sample_rate=8000)
    assert caught.value.reason == "corrupt"


def test_a_media_error_crosses_process_borders() -> None:
    error = MediaError(Path("a b.mp4"), "corrupt", "no frame")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.reason, copy.detail, str(copy)) == (error.path, "corrupt", "no frame", str(error))


def test_a_window_shows_its_frames(media: Path) -> None:
    for start_s in (0.0, 0.5, 1.25, 2.0):
        frames, waveform = clip(media / "plain.mp4", start_s)
        assert frames.shape == (6, 32, 32, 3)
        assert frames.dtype == np.uint8
        assert waveform is not None and waveform.shape == (8000,) and waveform.dtype == np.int16
        wanted = [12 * start_s + 2 * i - 8 for i in range(6)]  # 12 frames a second, every second one, 8 columns cut
        for frame, column in zip(frames, wanted, strict=True):
            if 0 < column < 24:
                assert edge(frame) == pytest.approx(column, abs=1)


@pytest.mark.parametrize("start_s", [0.0, 0.04, 0.51, 1.0, 1.97])
def test_a_window_equals_the_same_cut_of_the_whole_file(media: Path, start_s: float) -> None:
    path = media / "plain.mp4"
    frames, waveform = clip(path, start_s)
    whole = decode_recording(path, size=32, sample_rate=8000)
    used = latest_frames(whole.times_s, frame_times(start_s, 1.0, 6))
    np.testing.assert_array_equal(frames, crop_square(whole.frames[used], 0.5))
    expected = cut_waveform(whole.waveform, start_s, 1.0, 8000)
    assert waveform is not None and expected is not None
    np.testing.assert_allclose(waveform, expected, atol=65)


@pytest.mark.parametrize("sample_rate", [16_000, 11_025])
def test_resampled_windows_agree_with_the_whole_file(media: Path, sample_rate: int) -> None:
    path = media / "plain.mp4"
    _, waveform = clip(path, 0.7, sample_rate=sample_rate)
    whole = decode_recording(path, size=32, sample_rate=sample_rate)
    expected = cut_waveform(whole.waveform, 0.7, 1.0, sample_rate)
    assert waveform is not None and expected is not None
    assert waveform.shape == (sample_rate,)
    assert np.abs(waveform.astype(float) - expected).mean() < 1000  # a window may be off by a part of a sample


def test_a_window_has_the_sound_of_its_time(media: Path, chirp: np.ndarray) -> None:
    for start_s in (0.0, 0.9, 1.8):
        _, waveform = clip(media / "plain.mp4", start_s)
        assert waveform is not None
        first = round(start_s * 8000)
        lags = range(max(-40, -first), 41)  # up to 5 ms
        likeness = [np.corrcoef(waveform[:7900], chirp[first + lag : first + lag + 7900])[0, 1] for lag in lags]
        assert max(likeness) > 0.9
        assert abs(lags[int(np.argmax(likeness))]) <= 1


def test_a_file_without_sound_has_none(media: Path) -> None:
    assert clip(media / "mute.mp4", 0.5)[1] is None
    assert decode_recording(media / "mute.mp4", size=16, sample_rate=8000).waveform.shape == (0,)


def test_sound_that_ends_early_is_filled_with_silence(media: Path) -> None:
    _, waveform = clip(media / "short_sound.mp4", 1.0)
    assert waveform is not None and waveform.shape == (8000,)
    assert waveform[:3500].max() > 10_000
    assert (waveform[5200:] == 0).all()
    assert clip(media / "short_sound.mp4", 2.0)[1] is None


def test_one_modality_can_be_left_out(media: Path) -> None:
    frames, waveform = clip(media / "plain.mp4", 0.5, num_frames=0)
    assert frames.shape == (0, 32, 32, 3)
    assert waveform is not None
    frames, waveform = clip(media / "plain.mp4", 0.5, sample_rate=0)
    assert frames.shape == (6, 32, 32, 3)
    assert waveform is None


def test_a_window_past_the_end_repeats_the_last_frame(media: Path) -> None:
    frames, _ = clip(media / "plain.mp4", 2.5, num_frames=4)
    np.testing.assert_array_equal(frames[2], frames[3])


@pytest.mark.parametrize(("height", "width"), [(48, 32), (34, 66), (16, 16)])
def test_any_shape_becomes_a_square(tmp_path: Path, height: int, width: int) -> None:
    picture = np.full((12, height, width, 3), 128, np.uint8)
    picture[:, : height // 2] = 20  # the upper half is dark
    encode_clip(tmp_path / "shape.mp4", picture, None, fps=12, sample_rate=8000, crf=10)
    frames, _ = clip(tmp_path / "shape.mp4", 0.0, 0.5, num_frames=2, size=24)
    assert frames.shape == (2, 24, 24, 3)
    assert frames[:, 2].mean() < 40 < 100 < frames[:, -3].mean()


def test_frames_at_given_times(media: Path) -> None:
    times_s = [0.5, 1.0, 1.5]
    frames = decode_frames_at(media / "plain.mp4", times_s, 32)
    assert frames.shape == (3, 32, 48, 3)
    assert [edge(frame) for frame in frames] == pytest.approx([6, 12, 18], abs=1)


# ---- files as they come (not distributed) ----


@pytest.fixture(scope="session")
def odd_media(shared: Path) -> Path:
    folder = shared / "data" / "oddmedia"
    if not folder.is_dir():
        pytest.skip(f"the odd media are not here: {folder} (set SELAVI_TESTDATA to the folder above data/)")
    return folder


@pytest.mark.parametrize("name", USABLE)
def test_an_odd_file_is_read(odd_media: Path, name: str) -> None:
    path = odd_media / name
    info = probe(path)
    assert info.audio_state == USABLE[name]
    assert info.duration_s >= 1.0
    frames, waveform = clip(path, 0.2, num_frames=4, size=24)
    assert frames.shape == (4, 24, 24, 3)
    assert frames.std() > 3
    assert (waveform is None) == (info.audio_state == "absent")
    whole = decode_recording(path, size=24, sample_rate=8000)
    used = latest_frames(whole.times_s, frame_times(0.2, 1.0, 4))
    np.testing.assert_array_equal(frames, crop_square(whole.frames[used], 0.5))


@pytest.mark.parametrize("name", FAULTS)
def test_an_odd_file_is_refused(odd_media: Path, name: str) -> None:
    with pytest.raises(MediaError) as caught:
        probe(odd_media / name)
        clip(odd_media / name, 0.0)
    assert caught.value.reason in FAULTS[name]


def test_every_odd_file_ends_as_its_manifest_says(odd_media: Path) -> None:
    with (odd_media / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 38
    for row in rows:
        try:
            info = probe(odd_media / row["file"])
            for start_s in (0.0, max(0.0, info.duration_s - 1.0)):
                assert clip(odd_media / row["file"], start_s)[0].shape == (6, 32, 32, 3)
            status = "too_short" if info.duration_s < 0.999 else "ok"
            state = "silent" if info.audio_state == "silent" else "no_audio" if info.audio_state == "absent" else "ok"
        except MediaError as error:
            status = state = error.reason
            assert error.detail
        assert status in row["expect_mask"].split("|"), row["file"]
        if status == "ok" and (state != "ok" or info.audio_s > 0.999):
            assert state in row["expect_require"].split("|"), row["file"]


def test_lengths_of_picture_and_sound_are_told_apart(odd_media: Path) -> None:
    expected = {
        "plain.mp4": (2.0, 2.0),
        "no_audio.mp4": (2.0, 0.0),
        "audio_longer_than_video.mp4": (0.3, 4.0),
        "audio_shorter_than_video.mp4": (2.0, 0.5),
        "audio_starts_late.mkv": (2.0, 1.0),
        "truncated_half.mkv": (0.9, 0.8),
        "mjpeg_pcm.avi": (2.0, 2.0),
    }
    for name, (picture_s, sound_s) in expected.items():
        info = probe(odd_media / name)
        assert (info.duration_s, info.audio_s) == (
            pytest.approx(picture_s, abs=0.06),
            pytest.approx(sound_s, abs=0.06),
        ), name


def test_a_turned_picture_is_upright(odd_media: Path) -> None:
    """The same film, the second time with a header that says: show it turned by a quarter."""
    plain = decode_recording(odd_media / "plain.mp4", size=32, sample_rate=8000)
    turned = decode_recording(odd_media / "rotated_90.mp4", size=32, sample_rate=8000)
    with av.open(str(odd_media / "rotated_90.mp4")) as container:
        rotation = next(container.decode(video=0)).rotation  # degrees, counter-clockwise
    assert abs(rotation) == 90
    np.testing.assert_array_equal(turned.frames, np.rot90(plain.frames, rotation // 90, axes=(1, 2)))
    info = probe(odd_media / "rotated_90.mp4")
    assert (info.width, info.height) == (120, 160)


def test_a_file_name_may_hold_anything(tmp_path: Path, media: Path) -> None:
    for name in ("a b%d.mp4", "'quoted' \"twice\".mp4", "名前.mp4", "file:x.mp4", "-i.mp4"):
        shutil.copy(media / "plain.mp4", tmp_path / name)
        assert probe(tmp_path / name).width == 48
