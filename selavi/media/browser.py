"""What a web browser plays, and turning the rest into it."""

from collections.abc import Generator
from contextlib import closing
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
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from selavi.atomic import write_atomically
from selavi.media.files import DEADLINE_S, LIMITS, Limits, MediaError, choose_streams, open_container, seconds
from selavi.media.pictures import Resize

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
"""Of the picture's clock, a second."""
_LONGEST_SIDE = 4096
_SAMPLE_RATE = 48_000


def playable(path: Path) -> str | None:
    """Say why a web browser cannot play a file, from its header alone; None where it can.

    "Can" means that the current Chromium, Firefox and Safari all do, in the containers and codecs of _PLAYED with
    8 bits a colour at 4:2:0 (AV1 also at 10 bits; Safari plays AV1 only where the device decodes it).  Only the first
    picture and the first sound track count, and a file whose sound alone is unknown counts as not playable.  What
    lies behind the header is not looked at: a damaged file may pass.  Chromium 156 was seen to play all of these; of
    what is not in the list it plays some (Matroska, 4:2:2), and of some others it drops the picture or the sound and
    reports no error (HEVC, MPEG-4 part 2, AC-3).

    Returns:
        Words such as "HEVC video", "AC-3 sound", "AVI container", "H.264 video in yuv422p10le", "unreadable file
        (not_media)", fit to be counted.
    """
    try:
        with open_container(path, LIMITS, DEADLINE_S) as container:
            video, audio = choose_streams(path, container, LIMITS)
            if video is None and audio is None:
                return "neither picture nor sound"
            kind = _container_kind(path, container)
            if kind not in _PLAYED:
                return f"{_CONTAINERS.get(kind, kind)} container"
            for stream, known, what in ((video, _PLAYED[kind][0], "video"), (audio, _PLAYED[kind][1], "sound")):
                if stream is not None and stream.codec_context.codec.canonical_name not in known:
                    return _name(stream, what)
            if video is not None:
                pixels, codec = video.codec_context.pix_fmt, video.codec_context.codec.canonical_name
                if pixels not in _PIXELS | ({"yuv420p10le"} if codec == "av1" else set()):
                    return f"{_name(video, 'video')} in {pixels or 'an unknown format'}"
    except MediaError as error:
        return f"unreadable file ({error.reason})"
    return None


def transcode(source: Path, target: Path, *, short_side: int = 240, limits: Limits = LIMITS) -> None:
    """Turn any media file that can be read here into an .mp4 that every browser plays.

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
        target: file to write; the container is MP4 whatever the suffix.
        short_side: pixels; smaller pictures are not enlarged.
        limits: what the file may claim to hold.

    Raises:
        MediaError: the source cannot be opened, is over a limit, or nothing of it can be decoded.
        ValueError: `short_side` is not an even number of at least 16.
        OSError: the target cannot be written.
    """
    if short_side < 16 or short_side % 2:
        raise ValueError(f"expected an even short_side of at least 16, got {short_side}")
    picture = _first(source, "video", limits)
    sound = _first(source, "audio", limits)
    if picture is None and sound is None:
        raise MediaError(source, "corrupt", "neither a frame nor a sound can be decoded")
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with (
        write_atomically(target) as temporary,
        av.open(str(temporary), "w", format="mp4", options=options) as container,
        closing(_decoded(source, ("video", "audio"), limits)) as frames,
    ):
        video = _VideoTrack(container, picture, short_side) if isinstance(picture, VideoFrame) else None
        audio = _AudioTrack(container, source, sound) if isinstance(sound, AudioFrame) else None
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


def _first(path: Path, kind: Literal["video", "audio"], limits: Limits) -> VideoFrame | AudioFrame | None:
    """The first frame of the picture or the sound that can be decoded."""
    with closing(_decoded(path, (kind,), limits)) as frames:
        return next((frame for _, frame in frames), None)


def _decoded(
    path: Path, kinds: tuple[Literal["video", "audio"], ...], limits: Limits
) -> Generator[tuple[float, VideoFrame | AudioFrame], None, None]:
    """Frames of picture and sound in the file's order, with seconds from the start of the picture, none before it."""
    with open_container(path, limits, float("inf")) as container:
        video, audio = choose_streams(path, container, limits)
        timed = audio if video is None else video
        if timed is None:
            raise MediaError(path, "no_video", "neither picture nor sound")
        start = timed.start_time
        origin_s = (container.start_time or 0) / av.time_base if start is None else seconds(timed, start)
        streams: dict[int, VideoStream | AudioStream] = {}
        if video is not None and "video" in kinds:
            streams[video.index] = video
        if audio is not None and "audio" in kinds:
            streams[audio.index] = audio
        if not streams:
            return
        packets = ((packet.stream_index, packet) for packet in container.demux(*streams.values()) if packet.size)
        for index, packet in chain(packets, [(index, None) for index in streams]):
            try:
                frames = streams[index].codec_context.decode(packet)
            except av.InvalidDataError:
                continue
            for frame in frames:
                if frame.pts is None or (isinstance(frame, VideoFrame) and frame.is_corrupt):
                    continue
                time_s = seconds(streams[index], frame.pts) - origin_s
                if time_s > -1e-6 if isinstance(frame, VideoFrame) else time_s + frame.samples / frame.sample_rate > 0:
                    yield time_s, frame


class _VideoTrack:
    """Resizes, thins out and encodes frames."""

    def __init__(self, container: OutputContainer, first: VideoFrame, short_side: int) -> None:
        self.container = container
        short = max(2, min(first.width, first.height, short_side) // 2 * 2)
        self.resize = Resize(short)
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
    """Puts sound where its time stamps say, and encodes it."""

    def __init__(self, container: OutputContainer, source: Path, first: AudioFrame) -> None:
        self.container, self.source, self.kind = container, source, _kind(first)
        mono = first.layout.nb_channels == 1
        self.stream: AudioStream = container.add_stream("aac", rate=_SAMPLE_RATE, layout="mono" if mono else "stereo")
        self.stream.bit_rate = 64_000 if mono else 96_000
        self.stream.codec_context.flags |= Flags.bitexact
        self.num_samples = 0
        """Of the source's, encoded so far."""

    def add(self, time_s: float, frame: AudioFrame) -> None:
        if _kind(frame) != self.kind:
            raise MediaError(self.source, "corrupt", f"the sound changes from {self.kind} in the middle")
        rate = frame.sample_rate
        missing = round(time_s * rate) - self.num_samples
        values = None
        if missing > _GAP_S * rate:
            values = frame.to_ndarray()
            shape = (len(values), values.shape[1] // frame.samples)
            silence = np.full((shape[0], shape[1] * rate), 128 if values.dtype == np.uint8 else 0, values.dtype)
            for at in range(0, missing, rate):  # a second at a time
                self._encode(self._frame(silence[:, : shape[1] * min(rate, missing - at)]))
        elif self.num_samples == 0 and missing < 0:  # begins before the picture
            values = frame.to_ndarray()
            values = values[:, -missing * (values.shape[1] // frame.samples) :]
            if not values.size:
                return
            frame = self._frame(values)
        self._encode(frame)

    def end(self) -> None:
        self.container.mux(self.stream.encode(None))

    def _frame(self, values: np.ndarray) -> AudioFrame:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(values), format=self.kind[0], layout=self.kind[1])
        frame.sample_rate = self.kind[2]
        return frame

    def _encode(self, frame: AudioFrame) -> None:
        frame.pts, frame.time_base = self.num_samples, Fraction(1, self.kind[2])
        self.num_samples += frame.samples
        self.container.mux(self.stream.encode(frame))


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


_GAP_S = 0.02
"""As in decoding: what is shorter is no gap."""
