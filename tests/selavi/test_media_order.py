"""Frames come in the order in which they were drawn, at their times, from wherever one begins to read."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selavi.media import (
    crop_square,
    decode_clip,
    decode_frames_at,
    decode_recording,
    frame_times,
    latest_frames,
    probe,
    stream_frames,
    transcode,
)
from tests.films import SIZE, Film, draw, number_of, write


def check(path: Path, film: Film, rng: np.random.Generator) -> None:
    """Read a film in every way, and compare."""
    whole = decode_recording(path, size=48, sample_rate=8000)
    assert [number_of(frame) for frame in whole.frames] == list(range(film.num_frames))
    step_s = float(1 / film.rate)
    # MPEG program streams stamp some frames only, and what the library puts in between may be a frame late.
    slack_s = step_s if film.suffix in (".mpg", ".vob") else 0.0
    np.testing.assert_allclose(whole.times_s, np.arange(film.num_frames) * step_s, atol=0.0016 + slack_s)
    info = probe(path)
    assert info.duration_s == pytest.approx(film.num_frames * step_s, abs=1.01 * step_s + slack_s)
    assert info.fps == pytest.approx(float(film.rate), rel=0.03)
    streamed = list(stream_frames(path, size=48))
    assert [time_s for time_s, _ in streamed] == whole.times_s.tolist()
    for _ in range(6):
        start_s = float(rng.uniform(0, max(0.0, info.duration_s - 0.5)))
        count = int(rng.integers(1, 14))
        clip_s = float(rng.uniform(0.1, 0.5))
        frames, _ = decode_clip(path, start_s, clip_s, num_frames=count, size=48, offset=0.5, sample_rate=0)
        used = latest_frames(whole.times_s, frame_times(start_s, clip_s, count))
        np.testing.assert_array_equal(frames, crop_square(whole.frames[used], 0.5), str(start_s))
        at = decode_frames_at(path, [start_s], 48)
        np.testing.assert_array_equal(at[0], whole.frames[used[0]])


KINDS = (
    *((suffix, "libx264") for suffix in (".mp4", ".mkv", ".avi", ".ts", ".m2ts", ".flv", ".mov")),
    *((suffix, "mpeg4") for suffix in (".avi", ".divx", ".mp4", ".mkv", ".3gp")),
    *((suffix, "mpeg2video") for suffix in (".mpg", ".vob", ".ts", ".mov")),
    (".m2v", "mpeg2video"),
    (".m1v", "mpeg1video"),
    (".wmv", "wmv2"),
    (".avi", "mjpeg"),
    (".webm", "libvpx"),
    (".mp4", "libx265"),
)
FORMATS = {".m2v": "mpeg2video", ".m1v": "mpeg1video", ".divx": "avi", ".m2ts": "mpegts"}
NO_B = {"mjpeg", "libvpx", "wmv2"}
RATES = [Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(24), Fraction(50)]


@st.composite
def films(draw_from: st.DrawFn) -> Film:
    suffix, codec = draw_from(st.sampled_from(KINDS))
    options: dict[str, str] = {}
    if codec == "libx264":
        options["x264-params"] = draw_from(st.sampled_from(["", "open-gop=1", "bframes=4:b-pyramid=strict"]))
    if codec == "libvpx":
        options |= {"deadline": "realtime", "cpu-used": "8"}
    if codec == "libx265":
        options["x265-params"] = "log-level=none"
    return Film(
        suffix,
        codec,
        num_frames=draw_from(st.integers(30, 100)),
        rate=draw_from(st.sampled_from(RATES)),
        num_b=0 if codec in NO_B or suffix == ".3gp" else draw_from(st.integers(0, 4 if codec == "libx264" else 2)),
        gop=draw_from(st.sampled_from([1, 5, 12, 40])),
        options=tuple(sorted(options.items())),
        start_s=draw_from(st.sampled_from([0.0, 0.0, 2.0])) if suffix in (".mkv", ".ts", ".m2ts") else 0.0,
    )


def check_any(film: Film, seed: int) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / f"film{film.suffix}", film, FORMATS.get(film.suffix))
        check(path, film, np.random.default_rng(seed))


@settings(max_examples=30, suppress_health_check=list(HealthCheck), derandomize=True)
@given(films(), st.integers(0, 1000))
def test_every_way_of_reading_gives_the_frames_in_their_order(film: Film, seed: int) -> None:
    check_any(film, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=500, suppress_health_check=list(HealthCheck), derandomize=True)
@given(films(), st.integers(0, 1000))
def test_every_way_of_reading_gives_the_frames_in_their_order_at_length(film: Film, seed: int) -> None:
    check_any(film, seed)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("num_b", [0, 3])
def test_stamps_of_decoding_are_seen_to_be_such(tmp_path: Path, suffix: str, num_b: int) -> None:
    film = Film(suffix, "libx264", num_b=num_b, stamped_by_decoding=True)
    path = write(tmp_path / f"film{suffix}", film)
    check(path, film, np.random.default_rng(0))
    assert probe(path).timing == ("counted" if num_b or suffix == ".avi" else "stamps")


def test_a_transcoded_film_keeps_the_order(tmp_path: Path) -> None:
    film = Film(".avi", "libx264", num_b=3)
    transcode(write(tmp_path / "film.avi", film), tmp_path / "film.mp4", short_side=48)
    whole = decode_recording(tmp_path / "film.mp4", size=48, sample_rate=8000)
    assert [number_of(frame) for frame in whole.frames] == list(range(film.num_frames))
    np.testing.assert_allclose(whole.times_s, np.arange(film.num_frames) / 25, atol=0.001)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("parts", [2, 3])
def test_joined_streams_follow_each_other(tmp_path: Path, codec: str, parts: int) -> None:
    """The clock begins anew in each part."""
    film = Film(".ts", codec, num_frames=40, num_b=2)
    part = write(tmp_path / "part.ts", film).read_bytes()
    (tmp_path / "joined.ts").write_bytes(part * parts)
    whole = decode_recording(tmp_path / "joined.ts", size=48, sample_rate=8000)
    assert [number_of(frame) for frame in whole.frames] == list(range(40)) * parts
    np.testing.assert_allclose(whole.times_s, np.arange(40 * parts) / 25, atol=0.001)
    info = probe(tmp_path / "joined.ts")
    assert info.timing == "bridged" and info.duration_s == pytest.approx(40 * parts / 25, abs=0.05)
    for start_s in (0.3, 1.5, 1.7, 2.4):
        frames, _ = decode_clip(
            tmp_path / "joined.ts", start_s, 0.4, num_frames=10, size=48, offset=0.5, sample_rate=0
        )  # fmt: skip
        used = latest_frames(whole.times_s, frame_times(start_s, 0.4, 10))
        np.testing.assert_array_equal(frames, crop_square(whole.frames[used], 0.5))


def test_a_pause_in_a_film_is_no_jump(tmp_path: Path) -> None:
    """A slide that is shown for a minute, in a container whose clock might jump."""
    with av.open(str(tmp_path / "slides.ts"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number, time_s in enumerate((0, 1, 61, 62)):
            frame = draw(number)
            frame.pts, frame.time_base = time_s * 25, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = decode_recording(tmp_path / "slides.ts", size=48, sample_rate=8000)
    np.testing.assert_allclose(whole.times_s, [0, 1, 61, 62], atol=0.01)


def test_packed_bitstreams_are_counted(tmp_path: Path) -> None:
    """As DivX and XviD wrote MPEG-4 into AVI: a frame and the one shown before it in one packet, then an empty one."""
    film = Film(".avi", "mpeg4", num_frames=60, num_b=1, gop=10)
    path = write(tmp_path / "plain.avi", film)
    with av.open(str(path)) as container:
        pieces = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        extradata = container.streams.video[0].codec_context.extradata
    pack(tmp_path / "packed.avi", pieces, extradata)
    check(tmp_path / "packed.avi", film, np.random.default_rng(1))


def is_b(piece: bytes) -> bool:
    """Whether a piece of MPEG-4 part 2 is a B-frame: vop_coding_type 2, the first two bits of its picture's header."""
    return piece[piece.index(b"\x00\x00\x01\xb6") + 4] >> 6 == 2


def pack(path: Path, pieces: list[bytes], extradata: bytes) -> None:
    marker = b"\x00\x00\x01\xb2DivX503b1393p"
    empty = b"\x00\x00\x01\xb6\x50\x00\x7f"  # a P-frame that is not coded
    packed: list[bytes] = []
    index = 0
    while index < len(pieces):
        piece = pieces[index]
        if index + 1 < len(pieces) and is_b(pieces[index + 1]):
            packed += [piece + pieces[index + 1], empty]
            index += 2
        else:
            packed.append(piece)
            index += 1
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.extradata = extradata + marker
        for number, content in enumerate(packed):
            packet = av.Packet(marker + content if number == 0 else content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            packet.is_keyframe = not is_b(content) and content[content.index(b"\x00\x00\x01\xb6") + 4] >> 6 == 0
            container.mux(packet)


def test_films_differ(tmp_path: Path) -> None:
    """The check sees a wrong order: else it could not fail."""
    film = Film(".mp4", "libx264")
    path = write(tmp_path / "film.mp4", film)
    with pytest.raises(AssertionError):
        check(path, replace(film, rate=Fraction(24)), np.random.default_rng(0))
    with pytest.raises(AssertionError):
        check(path, replace(film, num_frames=69), np.random.default_rng(0))
