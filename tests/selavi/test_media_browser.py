"""What browsers play, and turning the rest into it."""

import csv
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from selavi.media import (
    Limits,
    MediaError,
    decode_frames_at,
    decode_recording,
    decode_sound,
    encode_clip,
    playable,
    probe,
    stream_frames,
    transcode,
)

NO_MEDIA = {"header_zeroed", "html_error_page", "lfs_pointer", "random_bytes", "text_named", "truncated_no_moov"}


@pytest.fixture(scope="module")
def odd(shared: Path) -> Path:
    folder = shared / "data" / "oddmedia"
    if not folder.exists():
        pytest.skip("no odd media here")
    return folder


def write(
    path: Path, video: str | None, audio: str | None, *, pixels: str = "yuv420p", container: str | None = None
) -> Path:
    """A second of grey with a tone."""
    with av.open(str(path), "w", format=container) as file:
        if video:
            pictures = file.add_stream(video, rate=10)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, pixels
            if video == "libx265":
                pictures.options = {"x265-params": "log-level=none"}
        if audio:
            sounds = file.add_stream(audio, rate=48_000, layout="stereo")
        if video:
            for index in range(10):
                grey = np.full((48, 64, 3), 10 * index, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = index, Fraction(1, 10)
                file.mux(pictures.encode(frame))
            file.mux(pictures.encode(None))
        if audio:
            tone = (0.3 * np.sin(np.arange(48_000) * 0.05)).astype(np.float32)
            block = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
            block.sample_rate, block.time_base, block.pts = 48_000, Fraction(1, 48_000), 0
            file.mux(sounds.encode(block))
            file.mux(sounds.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "video", "audio", "pixels", "why"),
    [
        # Chromium 156 was seen to play these, with pictures and sound.
        ("a.mp4", "libx264", "aac", "yuv420p", None),
        ("a.mov", "libx264", "aac", "yuv420p", None),
        ("b.mp4", "libx264", "libopus", "yuv420p", None),
        ("c.mp4", "libvpx-vp9", "libmp3lame", "yuv420p", None),
        ("a.webm", "libvpx-vp9", "libopus", "yuv420p", None),
        ("b.webm", "libvpx", None, "yuv420p", None),
        ("a.mp3", None, "libmp3lame", "", None),
        ("a.wav", None, "pcm_s16le", "", None),
        ("a.flac", None, "flac", "", None),
        ("a.opus", None, "libopus", "", None),
        ("a.m4a", None, "aac", "", None),
        # It drops the picture of the first three and the sound of the next two, and says nothing.
        ("d.mp4", "libx265", "aac", "yuv420p", "HEVC video"),
        ("e.mp4", "mpeg4", "aac", "yuv420p", "MPEG-4 part 2 video"),
        ("f.mp4", "mjpeg", "aac", "yuvj420p", "Motion JPEG video"),
        ("g.mp4", "libx264", "ac3", "yuv420p", "AC-3 sound"),
        ("h.mp4", "libx264", "alac", "yuv420p", "ALAC sound"),
        ("a.avi", "libx264", "libmp3lame", "yuv420p", "AVI container"),
        ("a.flv", "libx264", "aac", "yuv420p", "FLV container"),
        ("a.ts", "libx264", "aac", "yuv420p", "MPEG-TS container"),
        ("a.mpg", "mpeg2video", "mp2", "yuv420p", "MPEG-PS container"),
        ("b.m4a", None, "alac", "", "ALAC sound"),
        # It plays these, others do not.
        ("a.mkv", "libx264", "aac", "yuv420p", "Matroska container"),
        ("i.mp4", "libx264", "aac", "yuv420p10le", "H.264 video in yuv420p10le"),
        ("j.mp4", "libx264", "aac", "yuv422p", "H.264 video in yuv422p"),
    ],
)
def test_a_header_says_what_browsers_play(
    tmp_path: Path, name: str, video: str | None, audio: str | None, pixels: str, why: str | None
) -> None:
    container = "ipod" if name.endswith("m4a") else None
    path = write(tmp_path / name, video, audio, pixels=pixels, container=container)
    assert playable(path) == why
    transcode(path, tmp_path / "target.mp4")
    assert playable(tmp_path / "target.mp4") is None


def test_an_unreadable_file_is_not_playable(tmp_path: Path, media: Path) -> None:
    assert playable(tmp_path / "none.mp4") == "unreadable file (vanished)"
    assert playable(media / "text.mp4") == "unreadable file (not_media)"
    assert playable(media / "empty.mp4") == "unreadable file (empty)"


def test_every_odd_file_ends_as_a_playable_file_or_an_error(odd: Path, tmp_path: Path) -> None:
    with (odd / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 38
    for row in rows:
        source, target = odd / row["file"], tmp_path / f"{row['file']}.mp4"
        try:
            transcode(source, target, short_side=96)
        except MediaError as error:
            stem = source.stem
            expected = {"zero_bytes": "empty", "bit_rot_5pct": "corrupt"}.get(stem)
            assert error.reason == (expected or "not_media"), row["file"]
            assert expected or stem in NO_MEDIA, row["file"]
            assert not target.exists()
            continue
        assert playable(target) is None, row["file"]
        with av.open(str(target)) as made:
            kinds = {stream.type: stream for stream in made.streams}
            assert set(kinds) == {kind for kind in ("video", "audio") if row[kind]}, row["file"]
            if "video" in kinds:
                context = kinds["video"].codec_context
                assert context.width % 2 == context.height % 2 == 0
                assert min(context.width, context.height) <= 96
                assert 0 < kinds["video"].frames <= int(row["video_decoded"])
    assert not list(tmp_path.glob(".*"))  # nothing half written


def test_pictures_keep_their_times_their_sound_and_stand_upright(odd: Path, tmp_path: Path) -> None:
    transcode(odd / "rotated_90.mp4", tmp_path / "upright.mp4", short_side=120)
    before = decode_frames_at(odd / "rotated_90.mp4", [0.5, 1.5], 120)
    after = decode_frames_at(tmp_path / "upright.mp4", [0.5, 1.5], 120)
    assert after.shape == before.shape == (2, 160, 120, 3)
    alike = [np.corrcoef(np.rot90(after, turn, (1, 2)).ravel(), before.ravel())[0, 1] for turn in (0, 2)]
    assert alike[0] > 0.95 and alike[1] < 0.5
    sounds = [decode_sound(p, sample_rate=16_000) for p in (odd / "rotated_90.mp4", tmp_path / "upright.mp4")]
    length = min(map(len, sounds))
    assert np.corrcoef(sounds[0][:length], sounds[1][:length])[0, 1] > 0.9


def test_variable_rates_keep_their_times(odd: Path, tmp_path: Path) -> None:
    transcode(odd / "vfr.mp4", tmp_path / "vfr.mp4")
    before, after = ([t for t, _ in stream_frames(p, size=32)] for p in (odd / "vfr.mp4", tmp_path / "vfr.mp4"))
    assert all(min(abs(t - other) for other in before) < 1e-3 for t in after)
    assert max(np.diff(after)) == pytest.approx(max(np.diff(before)), abs=1 / 30)


@pytest.mark.parametrize(
    ("fps", "most"), [(120, 16), (60, 16), (50, 16), (30, 15), (25, 13), (Fraction(30000, 1001), 15)]
)
def test_at_most_thirty_frames_a_second(tmp_path: Path, fps: float, most: int) -> None:
    frames = np.zeros((round(fps / 2), 32, 48, 3), np.uint8)
    encode_clip(tmp_path / "fast.mp4", frames, None, fps=fps, sample_rate=8000)
    transcode(tmp_path / "fast.mp4", tmp_path / "slow.mp4")
    times_s = decode_recording(tmp_path / "slow.mp4", size=32, sample_rate=8000).times_s
    assert min(len(frames), 13) <= len(times_s) <= most
    assert min(np.diff(times_s)) > 0.015


def test_the_flash_and_the_click_stay_together(tmp_path: Path) -> None:
    frames = np.full((50, 64, 96, 3), 30, np.uint8)
    frames[25:28] = 220
    waveform = np.zeros(32_000, np.float32)
    waveform[16_000:16_080] = 0.8
    encode_clip(tmp_path / "a.mp4", frames, waveform, fps=25, sample_rate=16_000)
    transcode(tmp_path / "a.mp4", tmp_path / "b.mp4")
    made = decode_recording(tmp_path / "b.mp4", size=64, sample_rate=16_000)
    flash_s = made.times_s[np.argmax(made.frames.mean((1, 2, 3)) > 120)]
    click_s = np.argmax(np.abs(made.waveform.astype(int)) > 5000) / 16_000
    assert flash_s == pytest.approx(1.0, abs=1e-3) and click_s == pytest.approx(1.0, abs=0.01)


def late_and_broken_sound(path: Path) -> Path:
    """Two seconds of picture from 1 s on the file's clock; tones at 0.5 to 1.5 s and 2.5 to 3 s of that clock."""
    with av.open(str(path), "w", format="matroska") as file:
        pictures = file.add_stream("libx264", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt, pictures.max_b_frames = 64, 48, "yuv420p", 0
        sounds = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 10 + index, Fraction(1, 10)
            file.mux(pictures.encode(frame))
        file.mux(pictures.encode(None))
        for start_s, length_s in ((0.5, 1.0), (2.5, 0.5)):
            tone = (9000 * np.sin(np.arange(round(8000 * length_s)) * 0.5)).astype(np.int16)
            for at in range(0, len(tone), 400):
                block = av.AudioFrame.from_ndarray(tone[None, at : at + 400], format="s16", layout="mono")
                block.sample_rate, block.time_base = 8000, Fraction(1, 8000)
                block.pts = round(8000 * start_s) + at
                file.mux(sounds.encode(block))
        file.mux(sounds.encode(None))
    return path


def test_gaps_in_the_sound_are_silence_and_sound_before_the_picture_is_left_out(tmp_path: Path) -> None:
    transcode(late_and_broken_sound(tmp_path / "a.mkv"), tmp_path / "b.mp4")
    heard = np.abs(decode_sound(tmp_path / "b.mp4", sample_rate=8000).astype(int))
    loud = [heard[round(8000 * (t - 0.02)) : round(8000 * (t + 0.02))].max() > 4000 for t in (0.1, 0.4, 0.6, 1.4, 1.6)]
    assert loud == [True, True, False, False, True]
    assert len(heard) / 8000 == pytest.approx(2.0, abs=0.1)


def test_equal_sources_give_equal_bytes(media: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        transcode(media / "plain.mp4", tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    found = probe(tmp_path / "a.mp4")
    assert (found.width, found.height) == (48, 32)  # smaller pictures are not enlarged


def test_what_cannot_be_done_leaves_nothing_behind(media: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.mp4").write_text("as it was")
    with pytest.raises(MediaError, match="not_media"):
        transcode(media / "text.mp4", tmp_path / "kept.mp4")
    with pytest.raises(MediaError, match=r"refused.*the limit is 1"):
        transcode(media / "plain.mp4", tmp_path / "kept.mp4", limits=Limits(duration_s=1.0))
    assert (tmp_path / "kept.mp4").read_text() == "as it was"
    assert os.listdir(tmp_path) == ["kept.mp4"]
    with pytest.raises(OSError):
        transcode(media / "plain.mp4", tmp_path / "kept.mp4" / "below_a_file.mp4")
    with pytest.raises(ValueError, match="even short_side"):
        transcode(media / "plain.mp4", tmp_path / "kept.mp4", short_side=99)


CHILD = """
import resource, sys
from pathlib import Path
from selavi.media import transcode

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

short, long, target = map(Path, sys.argv[1:])
transcode(short, target)
before = peak_mb()
transcode(long, target)
print(peak_mb() - before)
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """A hundred seconds more are 37 MB of frames and samples once decoded."""
    for name, seconds in (("short", 3), ("long", 100)):
        pictures = (np.full((64, 96, 3), index % 250, np.uint8) for index in range(10 * seconds))
        sound = np.zeros(48_000 * seconds, np.int16)
        encode_clip(tmp_path / f"{name}.mp4", pictures, sound, fps=10, sample_rate=48_000)
    paths = [str(tmp_path / name) for name in ("short.mp4", "long.mp4", "target.mp4")]
    child = subprocess.run([sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, check=True)
    assert float(child.stdout) < 12
