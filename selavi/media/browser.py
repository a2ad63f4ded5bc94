"""What a web browser plays, and turning the rest into it."""

from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from selavi.atomic import write_atomically
from selavi.media.files import DEADLINE_S, LIMITS, Limits, MediaError, seconds
from selavi.media.frames import shape_of
from selavi.media.order import DisplayOrder
from selavi.media.pictures import Resize, Shape, encode_jpeg
from selavi.media.sound import GAP_S
from selavi.media.stills import format_of_still, is_still, read_still, size_of_still
from selavi.media.streams import open_file

_PCM = {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_alaw", "pcm_mulaw"}
_PLAYED: dict[str, tuple[set[str], set[str]]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": ({"h264", "vp9", "av1"}, {"aac", "mp3", "opus", "flac"}),
    "webm": ({"vp8", "vp9", "av1"}, {"opus", "vorbis"}),
    "mp3": (set(), {"mp3", "mp3float"}),
    "aac": (set(), {"aac"}),
    "flac": (set(), {"flac"}),
    "wav": (set(), _PCM),
    "ogg": (set(), {"opus", "vorbis", "flac"}),
}
"""Containers, and the codecs of picture and sound that may be in them."""
_PIXELS = {"yuv420p", "yuvj420p"}
_CONTAINERS = {
    "matroska": "Matroska",
    "avi": "AVI",
    "mpegts": "MPEG-TS",
    "mpeg": "MPEG-PS",
    "mpegvideo": "MPEG video",
    "flv": "FLV",
    "asf": "ASF (WMV)",
}
_CODECS = {"h264": "H.264", "ac3": "AC-3", "eac3": "E-AC-3", "ffv1": "FFV1", "mjpeg": "Motion JPEG", "mp3float": "MP3"}
"""Names shorter than the library's."""

_FPS = 30
_JITTER_S = 0.002
"""Time stamps are often rounded to milliseconds."""
_TICKS = 90_000
"""Ticks a second of the picture's clock."""
_LONGEST_SIDE = 4096
_SAMPLE_RATE = 48_000

Shapes = dict[tuple[int, int], Shape]
"""By the width and height of a picture as it is stored."""


def playable(path: Path) -> str | None:
    """Say why a web browser cannot play a file, from its header alone; None where it can.

    "Can" means that the current Chromium, Firefox and Safari all do, in the containers and codecs of _PLAYED with
    8 bits a colour at 4:2:0 (AV1 also at 10 bits; Safari plays AV1 only where the device decodes it).  Only the
    picture and the sound that are used here count, and a file whose sound alone is unknown counts as not playable.
    What lies behind the header is not looked at: a damaged file may pass.  Chromium 156 was seen to play all of these;
    of what is not in the list it plays some (Matroska, 4:2:2), and of some others it drops the picture or the sound and
    reports no error (HEVC, MPEG-4 part 2, AC-3).

    Returns:
        Words such as "HEVC video", "AC-3 sound", "AVI container", "H.264 video in yuv422p10le", "unreadable file
        (not_media)", fit to be counted.
    """
    try:
        if is_still(path):
            form = format_of_still(path, LIMITS)
            return "TIFF picture" if form == "TIFF" else None
        with open_file(path, LIMITS, DEADLINE_S, needs_picture=False) as file:
            kind = _container_kind(path, file.container)
            if kind not in _PLAYED:
                return f"{_CONTAINERS.get(kind, kind)} container"
            first = next((s for s in file.container.streams.audio if s.codec_context is not None), None)
            video, audio = file.picture, file.audio or first
            for stream, codecs, what in ((video, _PLAYED[kind][0], "video"), (audio, _PLAYED[kind][1], "sound")):
                if stream is not None and stream.codec_context.codec.canonical_name not in codecs:
                    return _name(stream, what)
            if file.audio_fault is not None:
                return "sound that cannot be decoded"
            if _is_not_the_first(file.container, video, audio):
                return "picture or sound that are not the first of their file"
            if video is not None:
                pixels, codec = video.codec_context.pix_fmt, video.codec_context.codec.canonical_name
                if pixels not in _PIXELS | ({"yuv420p10le"} if codec == "av1" else set()):
                    return f"{_name(video, 'video')} in {pixels or 'an unknown format'}"
    except MediaError as error:
        return f"unreadable file ({error.reason})"
    return None


def require_recording(path: Path) -> None:
    """Check, by its header, that a file holds a picture or sound.

    Raises:
        MediaError: it does not, or cannot be read.
    """
    if is_still(path):
        format_of_still(path, LIMITS)
        return
    with open_file(path, LIMITS, DEADLINE_S, needs_picture=False, by_header=True):
        pass


def transcode(source: Path, target: Path, *, short_side: int = 240, limits: Limits = LIMITS) -> None:
    """Turn any media file that can be read here into an .mp4 that every browser plays; a still picture into a JPEG.

    H.264 (yuv420p, upright, even sides, at most 30 frames a second, the short side at most `short_side`) and AAC
    (48 kHz, mono or stereo), with the index in front.  Frames keep their times, counted from the start of the picture
    as everywhere; sound from before it is left out, gaps in the sound are silence.  A source without a picture gives a
    file of sound, one without sound a silent picture.  What cannot be decoded in the middle is skipped, as players
    do.  Colours of HDR files are not tone-mapped.

    The source is decoded and encoded as it is read: memory does not grow with its length.  `target` is written beside
    its name and renamed (selavi.atomic); where this raises, there is none.  Equal sources give equal bytes on one
    machine and PyAV version.

    Args:
        source: media file.
        target: file to write; the container is MP4, or JPEG, whatever the suffix.
        short_side: pixels, twice as many of a still picture; smaller pictures are not enlarged.
        limits: what the file may claim to hold.

    Raises:
        MediaError: the source cannot be opened, is over a limit, or nothing of it can be decoded.
        ValueError: `short_side` is not an even number of at least 16.
        OSError: the target cannot be written.
    """
    if short_side < 16 or short_side % 2:
        raise ValueError(f"expected an even short_side of at least 16, got {short_side}")
    if is_still(source):
        width, height = size_of_still(source, limits, DEADLINE_S)
        still = read_still(source, min(width, height, 2 * short_side), limits, DEADLINE_S)
        with write_atomically(target) as temporary:
            temporary.write_bytes(encode_jpeg(still, 90))
        return
    shapes: Shapes = {}
    picture = _first(source, "video", limits, shapes)
    sound = _first(source, "audio", limits, shapes)
    if picture is None and sound is None:
        raise MediaError(source, "corrupt", "neither a frame nor a sound can be decoded")
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with (
        write_atomically(target) as temporary,
        av.open(str(temporary), "w", format="mp4", options=options) as container,
        closing(_decoded(source, ("video", "audio"), limits, shapes)) as frames,
    ):
        video = _VideoTrack(container, picture, short_side, shapes) if isinstance(picture, VideoFrame) else None
        audio = _AudioTrack(container, sound) if isinstance(sound, AudioFrame) else None
        for time_s, frame in frames:
            if time_s > limits.duration_s:
                raise MediaError(source, "refused", f"{time_s:.0f} s, the limit is {limits.duration_s:.0f} s")
            if isinstance(frame, AudioFrame) and audio is not None:
                audio.add(time_s, frame)
            elif isinstance(frame, VideoFrame) and video is not None:
                video.add(time_s, frame)
        for track in (video, audio):
            if track is not None:
                track.end()


def _is_not_the_first(container: InputContainer, video: VideoStream | None, audio: AudioStream | None) -> bool:
    """Whether a browser, which takes the first default track, would take another one."""
    sounds = sorted(container.streams.audio, key=lambda stream: not stream.disposition & Disposition.default)
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return (video is not None and video.index != pictures[0].index) or (
        audio is not None and audio.index != sounds[0].index
    )


def _container_kind(path: Path, container: InputContainer) -> str:
    """The library's name of the container; Matroska and WebM, which it does not tell apart, by their DocType."""
    if container.format.name != "matroska,webm":
        return container.format.name
    with path.open("rb") as file:
        return "webm" if b"webm" in file.read(64) else "matroska"


def _name(stream: VideoStream | AudioStream, what: str) -> str:
    codec = stream.codec_context.codec
    name = _CODECS.get(codec.canonical_name) or codec.long_name.split(" (")[0]
    return name if name.endswith(what) else f"{name} {what}"


def _first(
    path: Path, kind: Literal["video", "audio"], limits: Limits, shapes: Shapes
) -> VideoFrame | AudioFrame | None:
    """The first frame of the picture or the sound that can be decoded."""
    with closing(_decoded(path, (kind,), limits, shapes)) as frames:
        return next((frame for _, frame in frames), None)


def _decoded(
    path: Path, kinds: tuple[Literal["video", "audio"], ...], limits: Limits, shapes: Shapes
) -> Generator[tuple[float, VideoFrame | AudioFrame], None, None]:
    """Frames of picture and sound in the file's order, with seconds from the start of the picture, none before it.

    `shapes` gets the shape of each size of picture, before the first picture of that size comes.
    """
    with open_file(path, limits, float("inf"), needs_picture=False) as file:
        streams = [
            stream
            for kind, stream in (("video", file.picture), ("audio", file.audio))
            if stream is not None and kind in kinds
        ]
        if not streams:
            return
        order = DisplayOrder()
        by_index = {stream.index: stream for stream in streams}
        packets = ((packet.stream_index, packet) for packet in file.packets(*streams))
        for index, packet in chain(packets, [(index, None) for index in by_index]):
            stream = by_index[index]
            for time_s, frame in _decoded_packet(stream, packet, order):
                time_s -= file.origin_s
                if isinstance(frame, VideoFrame) and (frame.width, frame.height) not in shapes:
                    shapes[frame.width, frame.height] = shape_of(file, frame)
                if time_s > -1e-6 if isinstance(frame, VideoFrame) else time_s + frame.samples / frame.sample_rate > 0:
                    yield time_s, frame


def _decoded_packet(
    stream: VideoStream | AudioStream, packet: Packet | None, order: DisplayOrder
) -> Iterator[tuple[float, VideoFrame | AudioFrame]]:
    """What comes out of the decoder for a packet, with its time on the stream's clock; nothing where it is damaged."""
    if isinstance(stream, AudioStream):
        with suppress(av.InvalidDataError):
            for block in stream.codec_context.decode(packet):
                if block.pts is not None:
                    yield seconds(stream, block.pts), block
        return
    if packet is not None:
        order.feed(packet)
    with suppress(av.InvalidDataError):
        for frame in stream.codec_context.decode(packet):
            for ticks, ordered in order.add(frame):
                if not ordered.is_corrupt:
                    yield seconds(stream, ticks), ordered
    for ticks, ordered in order.end() if packet is None else ():
        if not ordered.is_corrupt:
            yield seconds(stream, ticks), ordered


class _VideoTrack:
    """Resizes, thins out and encodes frames."""

    def __init__(self, container: OutputContainer, first: VideoFrame, short_side: int, shapes: Shapes) -> None:
        self.container = container
        short = max(2, min(*shapes[first.width, first.height].size, short_side) // 2 * 2)
        self.resize = Resize(short, shape=lambda frame: shapes[frame.width, frame.height])
        height, width = self.resize(first).shape[:2]
        self.height, self.width = (min(side // 2 * 2, _LONGEST_SIDE) for side in (height, width))
        self.stream: VideoStream = container.add_stream("libx264", rate=_FPS)
        self.stream.width, self.stream.height, self.stream.pix_fmt = self.width, self.height, "yuv420p"
        self.stream.options = {"crf": "26", "preset": "veryfast"}
        self.stream.gop_size = _FPS
        self.stream.max_b_frames = 0  # as in encode_clip
        self.stream.thread_count = 1
        self.stream.codec_context.flags |= Flags.bitexact
        self.stream.codec_context.time_base = Fraction(1, _TICKS)
        self.due_s, self.last, self.last_s = 0.0, -1, 0.0

    def add(self, time_s: float, frame: VideoFrame) -> None:
        ticks = round(time_s * _TICKS)
        if time_s < self.due_s - _JITTER_S or ticks <= self.last:
            return
        self.due_s, self.last = max(self.due_s, time_s - _JITTER_S) + 1 / _FPS, ticks
        self.last_s = float(frame.duration * (frame.time_base or 0))
        picture = np.ascontiguousarray(self.resize(frame)[: self.height, : self.width])
        even = VideoFrame.from_ndarray(picture, format="rgb24").reformat(self.width, self.height, "yuv420p")
        even.pts, even.time_base = ticks, Fraction(1, _TICKS)
        self.container.mux(self.stream.encode(even))

    def end(self) -> None:
        packets = self.stream.encode(None)
        if packets and self.last_s > 0:
            packets[-1].duration = round(self.last_s * _TICKS)  # the encoder takes it for that of the others
        self.container.mux(packets)


class _AudioTrack:
    """Puts sound where its time stamps say, and encodes it; it may change its rate and channels at any block."""

    def __init__(self, container: OutputContainer, first: AudioFrame) -> None:
        self.container = container
        self.layout = "mono" if first.layout.nb_channels == 1 else "stereo"
        self.stream: AudioStream = container.add_stream("aac", rate=_SAMPLE_RATE, layout=self.layout)
        self.stream.bit_rate = 64_000 if self.layout == "mono" else 96_000
        self.stream.codec_context.flags |= Flags.bitexact
        self.kind: tuple[str, str, int] | None = None
        self.resampler: av.AudioResampler | None = None
        self.begin_s = 0.0
        """Start of the sound of this kind."""
        self.num_samples = 0
        """Samples of it so far, at its own rate."""
        self.num_encoded = 0

    def add(self, time_s: float, frame: AudioFrame) -> None:
        if _kind(frame) != self.kind:
            self._flush()
            self.kind, self.num_samples = _kind(frame), 0
            self.resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=_SAMPLE_RATE)
            self.begin_s = self.num_encoded / _SAMPLE_RATE
        rate = frame.sample_rate
        missing = round((time_s - self.begin_s) * rate) - self.num_samples
        per_sample = None
        if missing > GAP_S * rate or (self.num_samples == 0 and missing < 0):
            values = frame.to_ndarray()
            per_sample = values.shape[1] // frame.samples
        if per_sample is not None and missing > 0:
            silence = np.full((len(values), per_sample * rate), 128 if values.dtype == np.uint8 else 0, values.dtype)
            for at in range(0, missing, rate):  # a second at a time
                self._resample(self._frame(silence[:, : per_sample * min(rate, missing - at)]))
        elif per_sample is not None:  # begins before the picture, or before the end of what came before it
            values = values[:, -missing * per_sample :]
            if not values.size:
                return
            frame = self._frame(values)
        self._resample(frame)

    def end(self) -> None:
        self._flush()
        self.container.mux(self.stream.encode(None))

    def _flush(self) -> None:
        if self.resampler is not None:
            self._encode(self.resampler.resample(None))

    def _frame(self, values: np.ndarray) -> AudioFrame:
        assert self.kind is not None
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(values), format=self.kind[0], layout=self.kind[1])
        frame.sample_rate = self.kind[2]
        return frame

    def _resample(self, frame: AudioFrame) -> None:
        assert self.resampler is not None
        self.num_samples += frame.samples
        frame.pts = None
        self._encode(self.resampler.resample(frame))

    def _encode(self, blocks: list[AudioFrame]) -> None:
        for block in blocks:
            block.pts, block.time_base = self.num_encoded, Fraction(1, _SAMPLE_RATE)
            self.num_encoded += block.samples
            self.container.mux(self.stream.encode(block))


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate
