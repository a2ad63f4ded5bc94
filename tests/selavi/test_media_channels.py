"""One channel of the sound of files, and modalities that hear one each."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream

from datamodules.loading.dataset import read_view
from datamodules.loading.sampling import even_view
from selavi.config import load_config
from selavi.errors import UsageError
from selavi.media import decode_clip
from selavi.media.sound import MIXED
from selavi.modalities import Request, Streams, Window, reads_media, reads_sound, request_of, requests_of

RATE = 16_000
TONES = (400.0, 1000.0)
TWO = ("modalities={near: audio, far: audio}", "near.channel=0", "far.channel=1", f"audio.sample_rate={RATE}")


def write(path: Path, codec: str, channels: int = 2) -> Path:
    """Two seconds, a tone of its own in each channel."""
    layout = {1: "mono", 2: "stereo"}[channels]
    time_s = np.arange(2 * RATE) / RATE
    planes = np.stack([0.3 * np.sin(2 * np.pi * tone * time_s) for tone in TONES[:channels]]).astype(np.float32)
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=RATE, layout=layout)
        assert isinstance(sound, AudioStream)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = RATE
        fifo = av.AudioFifo()
        for piece in av.AudioResampler(format=sound.codec_context.format, layout=layout, rate=RATE).resample(frame):
            fifo.write(piece)
        while block := fifo.read(sound.codec_context.frame_size or 1024, partial=True):
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    return path


def strength(waveform: np.ndarray, tone: float) -> float:
    """Amplitude of a tone in int16 samples, 1 for the loudest possible."""
    spectrum = np.abs(np.fft.rfft(waveform / 32768)) / (len(waveform) / 2)
    return float(spectrum[round(tone * len(waveform) / RATE)])


def heard(path: Path, channel: int) -> np.ndarray | None:
    return decode_clip(path, 0.5, 1.0, num_frames=0, size=8, offset=0.5, sample_rate=RATE, channel=channel)[1]


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.m4a", "aac")])
def test_a_channel_is_heard_alone_and_at_its_time(tmp_path: Path, name: str, codec: str) -> None:
    path = write(tmp_path / name, codec)
    mixed = heard(path, MIXED)
    assert mixed is not None
    both = [heard(path, channel) for channel in (0, 1)]
    for own, waveform in enumerate(both):
        assert waveform is not None and waveform.shape == (RATE,) and waveform.dtype == np.int16
        assert strength(waveform, TONES[own]) == pytest.approx(0.3, abs=0.02)
        assert strength(waveform, TONES[1 - own]) < 0.01
    assert both[0] is not None and both[1] is not None
    assert np.abs(mixed - (both[0].astype(int) + both[1]) / 2).max() < 200
    assert heard(path, 2) is None


def test_requests_of_channels_are_read_one_by_one_and_frames_once() -> None:
    config = load_config(None, [*TWO])
    seen = load_config(None, ["modalities={eye: video, near: audio, far: audio}", *TWO[1:]])
    near, far = (Request(sample_rate=RATE, channel=channel) for channel in (0, 1))
    assert requests_of(config, ["near", "far"]) == {near: ["near"], far: ["far"]}
    with_frames = near | Request(num_frames=seen.video.num_frames, size=seen.video.decode_size)
    assert requests_of(seen, ["eye", "near", "far"]) == {with_frames: ["near", "eye"], far: ["far"]}
    assert requests_of(seen, ["eye"]) == {Request(num_frames=30, size=144): ["eye"]}
    assert reads_media(config) and reads_sound(config, ["far"]) and not reads_sound(seen, ["eye"])
    with pytest.raises(UsageError, match="one read gives one form of a stream"):
        request_of(config, ["near", "far"])


def test_each_modality_gets_its_channel_and_lacks_one_that_is_not_there(tmp_path: Path) -> None:
    class Reader:
        """Of one file."""

        def __init__(self, path: Path) -> None:
            self.path = path

        def read(self, row: int, window: Window, request: Request) -> Streams:
            clip = (window.start_s, window.clip_s)
            wanted = {"num_frames": 0, "size": 8, "offset": 0.5, "sample_rate": request.sample_rate}
            return Streams(None, decode_clip(self.path, *clip, **wanted, channel=request.channel)[1])  # type: ignore[arg-type]

    config = load_config(None, [*TWO])
    for channels in (2, 1):
        path = write(tmp_path / f"{channels}.wav", "pcm_s16le", channels)
        facts = {"audio_state": "ok", "audio_s": 2.0, "audio_reason": None}
        clip = read_view(Reader(path), 0, even_view(0, 1, 2.0, 1.0), config, ["near", "far"], facts)
        assert clip.present == {"near": True, "far": channels == 2}
        assert strength(clip.inputs["near"], TONES[0]) > 0.25
        assert (strength(clip.inputs["far"], TONES[1]) > 0.25) is (channels == 2)
