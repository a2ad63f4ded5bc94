"""Files with sound alone."""

import errno
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream

from selavi.media import MediaError, SoundError, decode_clip, decode_recording, decoding, facts, probe
from selavi.media.files import translated

RATE = 16_000


def write(path: Path, codec: str, samples: np.ndarray, rate: int = RATE) -> Path:
    """Mono sound in a container by the file's suffix."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(sound, AudioStream)
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype("<i2")[None], format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=sound.codec_context.format, layout="mono", rate=rate)
        size = sound.codec_context.frame_size or None
        fifo = av.AudioFifo()
        for piece in resampler.resample(frame):
            fifo.write(piece)
        while block := fifo.read(size or 1024, partial=True):
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    return path


@pytest.fixture
def click() -> np.ndarray:
    """(48000,) float32: three seconds of faint noise with a loud tenth from 1.5 s on."""
    samples = np.random.default_rng(1).normal(0, 0.01, 3 * RATE).clip(-1, 1).astype(np.float32)
    samples[24_000:25_600] = 0.8 * np.sin(np.arange(1600) * 0.3)
    return samples


SOUNDS = [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "mp3"), ("a.m4a", "aac"), ("a.ogg", "libopus"),
          ("a.opus", "libopus"), ("a.aac", "aac")]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), SOUNDS)
def test_a_sound_file_is_probed_and_decoded(tmp_path: Path, click: np.ndarray, name: str, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg has no {codec} here")
    times = 3 if codec == "libopus" else 1  # which knows 48 kHz
    path = write(tmp_path / name, codec, click.repeat(times), times * RATE)
    found = probe(path, needs_picture=False)
    assert (found.width, found.height, found.fps, found.audio_state) == (0, 0, 0.0, "ok")
    assert found.duration_s == found.audio_s == pytest.approx(3.0, abs=0.15)
    frames, waveform = decode_clip(path, 1.2, 1.0, num_frames=0, size=32, offset=0.5, sample_rate=8000)
    assert frames.shape == (0, 32, 32, 3)
    assert waveform is not None and waveform.shape == (8000,)
    loud = np.flatnonzero(np.abs(waveform.astype(int)) > 8000)
    assert loud.min() / 8000 == pytest.approx(0.3, abs=0.07)  # codecs delay the sound a little
    assert loud.max() / 8000 == pytest.approx(0.4, abs=0.07)
    with pytest.raises(MediaError) as fault:
        probe(path)
    assert fault.value.reason == "no_video"
    with pytest.raises(MediaError, match="no_video"):
        decode_clip(path, 0.0, 1.0, num_frames=2, size=32, offset=0.5, sample_rate=8000)


def test_silence_is_told(tmp_path: Path, click: np.ndarray) -> None:
    assert probe(write(tmp_path / "a.wav", "pcm_s16le", click * 0), needs_picture=False).audio_state == "silent"


def test_a_film_is_what_it_was(media: Path) -> None:
    for name in ("plain", "mute", "short_sound"):
        path = media / f"{name}.mp4"
        assert probe(path) == probe(path, needs_picture=False)
        assert probe(path).width == 48


def test_a_text_is_no_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_text("not a sound at all\n" * 50)
    with pytest.raises(MediaError) as fault:
        probe(path, needs_picture=False)
    assert fault.value.reason in ("not_media", "no_video")


@pytest.mark.parametrize("status", ["vanished", "unreadable", "timeout"])
def test_a_drive_that_goes_away_between_picture_and_sound_breaks_no_sound(
    media: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """What passes is no fact about a file: nobody keeps it as a film without sound."""
    path = media / "plain.mp4"

    def go_away(*_: object) -> None:
        raise MediaError(path, status, "the drive is away")

    monkeypatch.setattr(decoding, "read_sound", go_away)
    monkeypatch.setattr(facts, "read_sound", go_away)
    for read in (
        lambda: decode_recording(path, size=16, sample_rate=8000),
        lambda: decode_clip(path, 0.0, 1.0, num_frames=2, size=16, offset=0.5, sample_rate=8000),
        lambda: probe(path),
    ):
        with pytest.raises(MediaError) as caught:
            read()
        assert caught.value.reason == status and not isinstance(caught.value, SoundError)


def test_what_a_network_says_is_no_fault_of_a_file(media: Path) -> None:
    for number in (errno.ESTALE, errno.ENOTCONN):
        with pytest.raises(MediaError, match="unreadable"), translated(media / "plain.mp4"):
            raise OSError(number, "said by the library, though the file can be read again")
