"""Files that claim too much, or are not what they are called, are refused before they cost anything."""

import json
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from selavi.media import Limits, MediaError, decode_clip, decode_recording, encode_clip, probe

CHILD = """
import json, resource, sys
from pathlib import Path
from selavi.media import MediaError, decode_clip, probe

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

probe(Path(sys.argv[1]))
before, found = peak(), {}
for name in sys.argv[2:]:
    found[name] = []
    for attempt in (probe, lambda p: decode_clip(p, 0, 1, num_frames=4, size=32, offset=0.5, sample_rate=8000)):
        try:
            attempt(Path(name))
            found[name].append("ok")
        except MediaError as error:
            found[name].append(error.reason)
print(json.dumps([peak() - before, found]))
"""


def write_avi(path: Path, codec: str = "mjpeg", num_sounds: int = 1) -> Path:
    """One second of grey with silence."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        sounds = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(num_sounds)]
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for sound in sounds:
            block = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            block.sample_rate, block.time_base, block.pts = 8000, Fraction(1, 8000), 0
            container.mux(sound.encode(block))
            container.mux(sound.encode(None))
    return path


def patch(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


@pytest.fixture
def bombs(tmp_path: Path, media: Path) -> dict[str, Path]:
    """Small files with headers that promise gigabytes."""
    pixels = patch(write_avi(tmp_path / "pixels.avi"), struct.pack(">HH", 48, 64), struct.pack(">HH", 32768, 32768))
    header = patch(
        write_avi(tmp_path / "header.avi", "rawvideo"), struct.pack("<II", 64, 48), struct.pack("<II", 32768, 32768)
    )
    rate = patch(
        write_avi(tmp_path / "rate.avi"), struct.pack("<HHI", 1, 1, 8000), struct.pack("<HHI", 1, 8, 655_350)
    )  # fmt: skip
    channels = patch(
        write_avi(tmp_path / "channels.avi"), struct.pack("<HHI", 1, 1, 8000), struct.pack("<HHI", 1, 64, 8000)
    )  # fmt: skip
    hours = tmp_path / "hours.mp4"
    data = bytearray((media / "mute.mp4").read_bytes().replace(b"edts", b"free"))
    scale = data.index(b"mdhd") + 16
    data[scale : scale + 4] = struct.pack(">I", 1)
    delta = data.index(b"stts") + 16
    data[delta : delta + 4] = struct.pack(">I", 36_000)  # seconds now: 36 frames of ten hours
    data[scale + 4 : scale + 8] = struct.pack(">I", 36 * 36_000)
    hours.write_bytes(data)
    streams = write_avi(tmp_path / "streams.mkv", "libx264", 40)
    return {p.stem: p for p in (pixels, header, rate, channels, hours, streams)}


def test_a_bomb_is_refused_before_it_takes_memory(bombs: dict[str, Path], tmp_path: Path) -> None:
    good = write_avi(tmp_path / "good.avi")
    command = [sys.executable, "-c", CHILD, str(good), *map(str, bombs.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown_mb, found = json.loads(done.stdout.splitlines()[-1])
    # Sizes over the limit make the library forget them, or the decoder fail.
    expected = dict.fromkeys(bombs, ["refused"] * 2) | dict.fromkeys(("pixels", "header"), ["corrupt"] * 2)
    # A sound that promises too much is not decoded; the picture beside it is good.
    expected |= {name: ["ok", "refused"] for name in ("rate", "channels")}
    assert {Path(name).stem: reasons for name, reasons in found.items()} == expected
    assert grown_mb < 64


def test_limits_are_the_callers(media: Path) -> None:
    path = media / "plain.mp4"
    for limits in (
        Limits(pixels=1000),
        Limits(duration_s=2),
        Limits(streams=1),
    ):
        with pytest.raises(MediaError) as caught:
            probe(path, limits)
        assert caught.value.reason == "refused", limits
    for limits in (Limits(sample_rate=4000), Limits(channels=0)):
        info = probe(path, limits)
        assert info.audio_state == "broken" and info.audio_reason and "the limit is" in info.audio_reason
    with pytest.raises(MediaError, match=r"refused: over 0\.0 GB"):
        decode_recording(path, size=32, sample_rate=8000, limits=Limits(recording_bytes=100_000))


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile '{other}'\nduration 1\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{other}</BaseURL></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".ffconcat", ".m3u8"])
def test_a_file_that_names_others_is_refused(tmp_path: Path, media: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_text(text.format(other=media / "plain.mp4"))
    for attempt in (probe, lambda p: decode_clip(p, 0, 1, num_frames=2, size=16, offset=0.5, sample_rate=0)):
        with pytest.raises(MediaError) as caught:
            attempt(path)
        assert caught.value.reason in ("refused", "not_media")


def test_a_picture_file_is_no_recording(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "photo.mp4"
    Image.new("RGB", (64, 48)).save(path, format="PNG")
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason in ("refused", "not_media")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    (tmp_path / "folder.mp4").mkdir()
    for name in ("pipe.mp4", "folder.mp4"):
        with pytest.raises(MediaError) as caught:
            probe(tmp_path / name)
        assert caught.value.reason == "refused"


def test_a_name_is_never_a_protocol(tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "http:x.mp4", "pipe:0", "data:x.mp4"):
        Path(name).write_bytes((media / "plain.mp4").read_bytes())
        assert probe(Path(name)).width == 48


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_corrupt(tmp_path: Path, media: Path, share: float) -> None:
    """The header comes first, so that most of it could be decoded."""
    whole = (media / "plain.mp4").read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason == "corrupt"


def test_flipped_bytes_end_in_frames_or_a_media_error(tmp_path: Path, media: Path) -> None:
    whole = (media / "plain.mp4").read_bytes()
    outcomes = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        data = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(len(data) // 2 if seed % 2 else 0, len(data), 40)
        data[places] = rng.integers(0, 256, 40)
        path = tmp_path / f"{seed}.mp4"
        path.write_bytes(data.tobytes())
        twice = []
        for _ in range(2):
            try:
                probe(path)
                frames, _ = decode_clip(path, 1.5, 1.0, num_frames=4, size=16, offset=0.5, sample_rate=8000)
                twice.append(frames.tobytes())
            except MediaError as error:
                twice.append(error.reason)
        assert twice[0] == twice[1]
        outcomes.append(twice[0])
    assert any(isinstance(outcome, str) for outcome in outcomes)


def test_a_cover_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        frame.pts = 0
        packets = [*cover.encode(frame), *cover.encode(None)]
        block = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        block.sample_rate, block.pts = 8000, 0
        container.mux([*packets, *sound.encode(block), *sound.encode(None)])
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason == "no_video"


def test_fast_decoding_leaves_out_the_deblocking(tmp_path: Path, moving_square: np.ndarray) -> None:
    for fast in (False, True):
        encode_clip(tmp_path / f"{fast}.mp4", moving_square, None, fps=12, sample_rate=8000, fast_decode=fast)
    settings = {fast: (tmp_path / f"{fast}.mp4").read_bytes() for fast in (False, True)}
    assert b"cabac=1" in settings[False] and b"deblock=1" in settings[False]
    assert b"cabac=0" in settings[True] and b"deblock=0" in settings[True]
