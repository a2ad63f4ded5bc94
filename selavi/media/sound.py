"""The sound of a file as mono samples, each where its time stamp says."""

from collections.abc import Callable, Iterator
from itertools import chain, dropwhile
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet

from selavi.media.files import File, seconds

MIXED = -1
"""All channels."""
SILENCE = 33  # of 32768: 60 dB below the loudest
SILENCE_S = 30.0
GAP_S = 0.02
"""Time stamps are often rounded to milliseconds: what is shorter is no gap, and no overlap."""
LONGEST_GAP_S = 3600.0
_BEFORE_S = 0.15
"""The codecs overlap their blocks: the first ones after a seek are not yet what they should be."""
_INTERLEAVED_S = 1.0
"""Sound may lie so far behind the picture of the same time."""
_RESAMPLED_S = 30.0
"""Sound that is resampled at once."""


def read_sound(
    file: File, first_s: float, last_s: float, sample_rate: int, channel: int = MIXED
) -> tuple[np.ndarray, float]:
    """Decode what is heard in [first_s, last_s): all channels mixed, or one of them.

    Gaps are filled with silence.  The sound may change its rate, channels and format at any block; one that has no such
    channel is left out.

    Returns:
        (S,) int16, mono, and the time of the first sample in seconds from the start of the picture.
    """
    packets = _enter(file, first_s - _BEFORE_S if first_s > 0 else float("-inf"))
    assert file.audio is not None
    stream, context = file.audio, file.audio.codec_context
    track = _Track(sample_rate, channel)

    def add(frame: AudioFrame) -> bool:
        """Whether more is to come."""
        if frame.pts is None or not frame.samples:
            return True
        time_s = seconds(stream, frame.pts) - file.origin_s
        if time_s >= last_s:
            return False
        if frame.layout.nb_channels > channel and time_s + frame.samples / frame.sample_rate > first_s:
            track.add(time_s, frame)
        return True

    fault = None
    for packet in chain(packets, [None]):
        try:
            frames = context.decode(packet)
        except av.InvalidDataError as error:
            if track.begun:
                raise
            fault = error  # after a seek the first packet may be a part of one
            continue
        for frame in frames:
            fault = None
            if not add(frame):
                return track.end()
    if fault is not None:
        raise fault
    return track.end()


def _enter(file: File, time_s: float) -> Iterator[Packet]:
    """Packets of the sound from a time to the end.  The file's streams may be others afterwards.

    Matroska has an index of the picture's key frames alone.  Asked for sound, the library reads on from the last block
    that it knows of, a third of a second late in a file of hours; so the picture leads there:

        picture      K-----------K-----------K-----------
        sound        ssssssssssssssssssssssssssssssssssss
        wanted                         time_s
        read                     ......sssssssssssssssss      ... is left out undecoded
    """
    assert file.audio is not None
    if file.picture is not None and file.format == "matroska,webm" and file.seekable and time_s > float("-inf"):
        file.seek(file.picture, time_s - _INTERLEAVED_S)
        packets = file.packets(file.audio)
        first = next(packets, None)
        if first is not None and _time_s(file, first) <= time_s:
            return chain([first], dropwhile(lambda packet: _time_s(file, packet) < time_s, packets))
    file.seek(file.audio, time_s)
    return file.packets(file.audio)


def _time_s(file: File, packet: Packet) -> float:
    """When a packet of the sound begins; infinity where it does not say."""
    assert file.audio is not None
    return float("inf") if packet.pts is None else seconds(file.audio, packet.pts) - file.origin_s


class _Track:
    """Blocks of sound, put where they belong and resampled.

    Half a minute is resampled at once: that takes a third of the time of doing so block by block, and no other memory
    for hours of it.
    """

    def __init__(self, sample_rate: int, channel: int) -> None:
        self.sample_rate, self.channel = sample_rate, channel
        self.begin_s = 0.0
        """When the first sample of all is heard."""
        self._resampled: list[np.ndarray] = []
        self._part: _Part | None = None

    @property
    def begun(self) -> bool:
        return self._part is not None

    def add(self, time_s: float, frame: AudioFrame) -> None:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._part is None:
            self.begin_s = time_s
        elif self._part.kind != kind:
            self._part.end()
            self._part = None
        if self._part is None:
            begin_s = self._where_samples_end(time_s)
            self._part = _Part(kind, begin_s, self.sample_rate, self.channel, self._resampled.append)
        self._part.add(time_s, frame)

    def _where_samples_end(self, time_s: float) -> float:
        """Seconds at which the samples so far end, filled up with silence to a time if that is later."""
        num_samples = sum(map(len, self._resampled))
        missing = round((time_s - self.begin_s) * self.sample_rate) - num_samples
        if missing > LONGEST_GAP_S * self.sample_rate:
            raise ValueError(f"{missing / self.sample_rate:.0f} s are missing in the sound")
        if missing > 0:
            self._resampled.append(np.zeros(missing, np.int16))
            num_samples += missing
        return self.begin_s + num_samples / self.sample_rate

    def end(self) -> tuple[np.ndarray, float]:
        if self._part is None:
            return np.zeros(0, np.int16), 0.0
        self._part.end()
        return np.concatenate(self._resampled) if self._resampled else np.zeros(0, np.int16), self.begin_s


class _Part:
    """Blocks of one kind: format, layout and rate."""

    def __init__(
        self,
        kind: tuple[str, str, int],
        begin_s: float,
        sample_rate: int,
        channel: int,
        give: Callable[[np.ndarray], None],
    ) -> None:
        self.kind, self.begin_s, self.channel, self.give = kind, begin_s, channel, give
        self.rate = kind[2]
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
        self.num_samples = self.num_pending = 0
        self.pieces: list[list[np.ndarray]] = []
        self.dtype: np.dtype[Any] = np.dtype(np.int16)
        self.per_sample = 0
        """Values of a sample that lie in one plane; 0: not known yet."""

    def add(self, time_s: float, frame: AudioFrame) -> None:
        if not self.per_sample:
            values = frame.to_ndarray()
            self.dtype, self.per_sample = values.dtype, values.shape[1] // frame.samples
        missing = round((time_s - self.begin_s) * self.rate) - self.num_samples
        planes = frame.planes
        if missing > GAP_S * self.rate:
            if missing > LONGEST_GAP_S * self.rate:
                raise ValueError(f"{missing / self.rate:.0f} s are missing in the sound")
            zero = 128 if self.dtype == np.uint8 else 0
            self._append([np.full(missing * self.per_sample, zero, self.dtype)] * len(planes), missing)
        overlap = 0 if self.num_samples == 0 else GAP_S * self.rate
        cut = min(-missing, frame.samples) if missing < -overlap else 0
        if cut == frame.samples:
            return
        # The frames go, but what lies in their planes stays as long as these arrays.
        pieces = [np.frombuffer(p, self.dtype, frame.samples * self.per_sample) for p in planes]  # type: ignore[call-overload]
        self._append([piece[cut * self.per_sample :] for piece in pieces], frame.samples - cut)

    def _append(self, values: list[np.ndarray], num_samples: int) -> None:
        self.pieces.append(values)
        self.num_samples += num_samples
        self.num_pending += num_samples
        if self.num_pending >= _RESAMPLED_S * self.rate:
            self._resample()

    def _resample(self) -> None:
        values = np.stack([np.concatenate(plane) for plane in zip(*self.pieces, strict=True)])
        format_name, layout, _ = self.kind
        if self.channel != MIXED:
            is_planar = len(values) > 1 or self.per_sample == 1
            own = values[self.channel] if is_planar else values[0, self.channel :: self.per_sample]
            values = np.ascontiguousarray(own)[None]
            layout = "mono"
        elif (format_name, layout) == ("fltp", "stereo"):  # what the resampler would do, in a third of its time
            values, layout = values.mean(0, keepdims=True), "mono"
        whole = AudioFrame.from_ndarray(values, format=format_name, layout=layout)
        whole.sample_rate = self.rate
        for block in self.resampler.resample(whole):
            self.give(block.to_ndarray()[0])
        self.pieces.clear()
        self.num_pending = 0

    def end(self) -> None:
        if self.pieces:
            self._resample()
        for block in self.resampler.resample(None):
            self.give(block.to_ndarray()[0])


def cut_waveform(waveform: np.ndarray, start_s: float, clip_s: float, sample_rate: int) -> np.ndarray | None:
    """Cut [start_s, start_s + clip_s) from (S,) int16 samples, zeros where there are none; None if nothing is left."""
    length, first = round(clip_s * sample_rate), round(start_s * sample_rate)
    piece = waveform[max(first, 0) : max(first + length, 0)]
    if piece.size == 0:
        return None
    before = min(max(-first, 0), length)
    return np.pad(piece, (before, length - before - piece.size))


def loudest(waveform: np.ndarray) -> int:
    """Largest distance from 0 of (S,) int16 samples, 0 for none: up to 32768, which int16 itself cannot hold."""
    return max(int(waveform.max()), -int(waveform.min())) if waveform.size else 0
