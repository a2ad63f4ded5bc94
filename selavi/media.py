"""Media files in and out: the only user of PyAV."""

import stat
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image


def encode_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    waveform: np.ndarray | None,
    *,
    fps: float | Fraction,
    sample_rate: int,
    crf: int = 23,
    gop: int = 12,
    audio_bitrate: int = 48_000,
    fast_decode: bool = False,
) -> None:
    """Write an .mp4 of H.264 (yuv420p) and AAC (mono).

    Equal input gives equal bytes on one machine and PyAV version.

    Args:
        path: file to write; the container is MP4 whatever the suffix, so a temporary name will do.
        frames: (T, h, w, 3) uint8 RGB, h and w even; or (h, w, 3) one by one, none of which is kept.
        waveform: (S,) int16, or float32 in [-1, 1]; None for a file without a sound track.
        fps: frames a second.
        sample_rate: samples a second of `waveform`; one that AAC knows (8000, 16000, 24000, 44100 ...).
        crf: constant rate factor of x264, 0 (lossless) to 51 (worst).
        gop: frames from one key frame to the next: few make seeking fast and the file larger.
        audio_bitrate: bits a second of the sound track.
        fast_decode: leave out what makes H.264 small and slow to read (deblocking, arithmetic coding).

    Raises:
        ValueError: the arrays have another shape or type.
    """
    if isinstance(frames, np.ndarray) and (frames.ndim != 4 or not len(frames)):
        raise ValueError(f"expected frames (T, h, w, 3) uint8, got {frames.shape} {frames.dtype}")
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError("expected frames (T, h, w, 3) uint8, got none")
    if first.ndim != 3 or first.shape[-1] != 3 or first.dtype != np.uint8 or 0 in first.shape:
        raise ValueError(f"expected frames (T, h, w, 3) uint8, got each {first.shape} {first.dtype}")
    height, width, _ = first.shape
    if height % 2 or width % 2:
        raise ValueError(f"expected an even height and width (yuv420p halves both), got {height} x {width}")
    if waveform is not None and (
        waveform.ndim != 1 or waveform.dtype not in (np.int16, np.float32) or waveform.size == 0
    ):
        raise ValueError(f"expected waveform (S,) int16 or float32, got {waveform.shape} {waveform.dtype}")

    rate = Fraction(fps).limit_denominator(1001)
    # Bit-exact muxing leaves out the library's version and the creation time.
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        video: VideoStream = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        tune = {"tune": "fastdecode"} if fast_decode else {}
        video.options = {"crf": str(crf), "preset": "veryfast", **tune}
        video.gop_size = gop
        video.max_b_frames = 0  # time stamps then start at 0 and need no edit list
        video.thread_count = 1  # x264 divides the picture among threads, which changes the bytes
        video.codec_context.flags |= Flags.bitexact
        audio: AudioStream | None = None
        if waveform is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
            audio.bit_rate = audio_bitrate
            audio.options = {"aac_coder": "fast"}  # the default search doubles the time to write a short file
            audio.codec_context.flags |= Flags.bitexact

        for index, picture in enumerate(chain([first], pictures)):
            # Converted here: what the encoder does by itself gave other bytes in one encoding of a hundred.
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            for at in range(0, len(waveform), _ENCODED_AT_ONCE):
                samples = waveform[at : at + _ENCODED_AT_ONCE]
                samples = samples.astype(np.float32) / 32768 if samples.dtype == np.int16 else samples
                sound = AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = sample_rate, at, Fraction(1, sample_rate)
                container.mux(audio.encode(sound))
            container.mux(audio.encode(None))


_ENCODED_AT_ONCE = 1_000_000
"""Samples."""


def recompress(frames: np.ndarray, *, fps: float | Fraction, crf: int) -> np.ndarray:
    """Encode frames as H.264 (yuv420p, the preset of encode_clip) and decode them again, in memory.

    Args:
        frames: (T, h, w, 3) uint8 RGB.  Where h or w is odd the last row or column is doubled on the way.
        fps: frames a second, which the encoder spends its bits by.
        crf: constant rate factor of x264, 0 (lossless but for the colours' resolution) to 51 (worst).

    Returns:
        (T, h, w, 3) uint8: what is left of them.

    Raises:
        ValueError: the array has another shape or type, or crf lies outside of its range.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"expected frames (T, h, w, 3) uint8, got {frames.shape} {frames.dtype}")
    if not 0 <= crf <= 51:
        raise ValueError(f"expected a crf of 0 to 51, got {crf}")
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    rate = Fraction(fps).limit_denominator(1001)
    encoder: VideoCodecContext = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = even.shape[2], even.shape[1], "yuv420p"
    encoder.framerate, encoder.time_base = rate, 1 / rate
    encoder.options = {"crf": str(crf), "preset": "veryfast"}
    encoder.max_b_frames = 0
    encoder.thread_count = 1  # see encode_clip
    packets = []
    for index, picture in enumerate(even):
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = index, 1 / rate
        packets += encoder.encode(frame)
    decoder: VideoCodecContext = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    shown = [frame for packet in (*packets, *encoder.encode(None), None) for frame in decoder.decode(packet)]
    assert len(shown) == len(frames), f"{len(shown)} of {len(frames)} frames came back"
    return np.stack([frame.to_ndarray(format="rgb24") for frame in shown])[:, :height, :width]


class MediaError(Exception):
    """A file that cannot be used, and why.

    Attributes:
        reason: one word: vanished, empty, refused, not_media, no_video, corrupt, timeout.
    """

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason}: {detail}")
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self) -> tuple[type, tuple[Path, str, str]]:
        return MediaError, (self.path, self.reason, self.detail)  # crosses process borders


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds, as far as the tools need it."""

    duration_s: float
    """Seconds of the picture; of the sound where there is no picture."""
    fps: float
    width: int
    """0 where there is no picture, and so are height and fps."""
    height: int
    audio_state: str
    """ok, silent (nothing above SILENCE in the first SILENCE_S seconds of sound) or absent."""
    audio_s: float
    """Seconds of sound, 0 where there is none."""


@dataclass(frozen=True)
class Limits:
    """What a file may claim to hold.  A file that claims more is refused before anything of that size is allocated."""

    pixels: int = 4096 * 4096
    duration_s: float = 24 * 3600.0
    streams: int = 32
    sample_rate: int = 192_000
    channels: int = 24
    recording_bytes: int = 8 << 30
    """Of the frames that decode_recording returns."""


@dataclass(frozen=True)
class Recording:
    """A whole file, decoded."""

    frames: np.ndarray
    """(T, h, w, 3) uint8, the short side resized."""
    times_s: np.ndarray
    """(T,) float64, ascending, from the start of the picture."""
    waveform: np.ndarray
    """(S,) int16, mono, from the start of the picture; S = 0 without sound."""


SILENCE = 33  # of 32768: 60 dB below the loudest
SILENCE_S = 30.0
LIMITS = Limits()
DEADLINE_S = 30.0

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,mp3,flac,aac"
"""Containers of one file: formats that name other files (concat, hls, dash, image sequences) are not among them."""
_SKIPPABLE = {"h264", "mpeg4", "mpeg2video", "mpeg1video"}
"""Codecs whose frames that no other frame refers to can be left out without changing any other bit.  In HEVC such a
frame may still be referred to by a higher temporal layer."""
_TIMED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts"}
"""Containers whose packets carry right times from any place on.  Others are decoded from their start."""
_LOOK_AHEAD = 1000
"""Packets that may wait for what follows them; many more times than frames can be reordered."""
_BROKEN = (av.FFmpegError, EOFError, IndexError, MemoryError, OSError, ValueError)


def probe(
    path: Path, limits: Limits = LIMITS, *, deadline_s: float = DEADLINE_S, needs_picture: bool = True
) -> MediaInfo:
    """Open a file, decode its first frame and the first SILENCE_S seconds of its sound.

    Of several pictures or sound tracks the first counts; a cover picture is none.

    Args:
        path: media file.
        limits: what the file may claim to hold.
        deadline_s: seconds that this may take.
        needs_picture: False: a file with sound alone will do.

    Raises:
        MediaError: the file cannot be read, is over a limit, has no picture, is cut off, nothing of it can be decoded,
            or that took longer than `deadline_s`.
    """
    with _open(path, limits, deadline_s, needs_picture) as file:
        width = height = 0
        fps = 0.0
        if file.picture is not None:
            first = next(_timed_frames(file), None)
            if first is None:
                raise MediaError(path, "corrupt", "no frame can be decoded")
            frame = first[1]
            width, height = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
            fps = float(file.video.average_rate or file.video.guessed_rate or 0)
        state, audio_s = "absent", 0.0
        if file.audio is not None:
            file.seek(file.audio, float("-inf"))
            heard_s = max(0.0, _seconds(file.audio, file.audio.start_time) - file.origin_s) + SILENCE_S
            waveform, _ = _sound(file, float("-inf"), heard_s, 8000)
            state = "absent" if waveform.size == 0 else "ok" if loudest(waveform) > SILENCE else "silent"
        lengths = _lengths(file)
        if file.audio is not None and state != "absent":
            audio_s = lengths[file.audio.index]
        duration_s = audio_s if file.picture is None else lengths[file.video.index]
        if duration_s > limits.duration_s:
            raise MediaError(path, "refused", f"{duration_s:.0f} s, the limit is {limits.duration_s:.0f} s")
        if "mov" in file.container.format.name:
            _require_whole(path)
    return MediaInfo(duration_s, fps, width, height, state, audio_s)


def decode_clip(
    path: Path,
    start_s: float,
    clip_s: float,
    *,
    num_frames: int,
    size: int,
    offset: float,
    sample_rate: int,
    deadline_s: float = DEADLINE_S,
    limits: Limits = LIMITS,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode the window [start_s, start_s + clip_s) of a file and, as far as its codec permits, nothing else.

    Args:
        path: media file.
        start_s: start of the window, in seconds from the start of the picture.
        clip_s: length of the window in seconds.
        num_frames: frames wanted, evenly spaced from the start of the window; 0 for none, and a file with sound alone
            will do: its times then count from the start of the sound.
        size: side of the square frames; the short side is resized to it and the long side cropped.
        offset: where the square lies on the long side, from 0 (left or top) to 1.
        sample_rate: of the sound, in samples a second; 0 for none.
        deadline_s: seconds that this may take.  Checked between packets: a call into the libraries that never
            returns is not ended.
        limits: what the file may claim to hold.

    Returns:
        Frames (num_frames, size, size, 3) uint8 and the waveform (round(clip_s * sample_rate),) int16, None
        where the file has no sound in the window.

    Raises:
        MediaError: see there.
    """
    frames = np.zeros((0, size, size, 3), np.uint8)
    waveform = None
    with _open(path, limits, deadline_s, needs_picture=num_frames > 0) as file:
        if num_frames:
            to_rgb = _Resize(size)
            squares = _pictures(
                file, frame_times(start_s, clip_s, num_frames), lambda f: crop_square(to_rgb(f), offset)
            )
            frames = np.stack(squares)
        if sample_rate and file.audio is not None:
            margin_s = 0.05  # for the resampler to settle
            # The codecs overlap their blocks: the first ones after a seek are not yet what they should be.
            file.seek(file.audio, start_s - margin_s - 0.15)
            sound, first_s = _sound(file, start_s - margin_s, start_s + clip_s + margin_s, sample_rate)
            waveform = cut_waveform(sound, start_s - first_s, clip_s, sample_rate)
    return frames, waveform


def decode_recording(path: Path, *, size: int, sample_rate: int, limits: Limits = LIMITS) -> Recording:
    """Decode a whole file: frames with the short side resized to `size`, and the sound.

    Raises:
        MediaError: see there.
    """
    times_s, frames, taken = [], [], 0
    for time_s, frame in stream_frames(path, size=size, limits=limits):
        times_s.append(time_s)
        frames.append(frame)
        taken += frame.size
        if taken > limits.recording_bytes:
            raise MediaError(path, "refused", f"over {limits.recording_bytes / 1e9:.1f} GB once decoded")
    waveform = decode_sound(path, sample_rate=sample_rate, limits=limits)
    return Recording(np.stack(frames), np.array(times_s), waveform)


def stream_frames(path: Path, *, size: int, limits: Limits = LIMITS) -> Iterator[tuple[float, np.ndarray]]:
    """Decode every frame of a file, one at a time.

    Yields:
        Seconds from the start of the picture, ascending, and the frame, (h, w, 3) uint8 with the short side resized to
        `size`; all frames of one shape.

    Raises:
        MediaError: see there.
    """
    with _open(path, limits, float("inf")) as file:
        to_rgb, shape = _Resize(size), None
        for time_s, frame in _timed_frames(file):
            picture = to_rgb(frame)
            shape = shape or picture.shape
            if picture.shape != shape:
                raise ValueError(f"the picture changes from {shape[1]} x {shape[0]} to another shape")
            yield time_s, picture
        if shape is None:
            raise MediaError(path, "corrupt", "no frame can be decoded")


def decode_sound(path: Path, *, sample_rate: int, limits: Limits = LIMITS) -> np.ndarray:
    """Decode the whole sound of a file: (S,) int16, mono, from the start of the picture; S = 0 without sound.

    Raises:
        MediaError: see there.
    """
    with _open(path, limits, float("inf")) as file:
        if file.audio is None:
            return np.zeros(0, np.int16)
        file.seek(file.audio, float("-inf"))
        sound, first_s = _sound(file, 0.0, float("inf"), sample_rate)
        skip = round(first_s * sample_rate)
        return np.concatenate([np.zeros(max(0, skip), np.int16), sound[max(0, -skip) :]]) if sound.size else sound


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """Encode (h, w, 3) uint8 as a JPEG file with a quality of 1 to 100, colour at half the resolution."""
    file = BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return file.getvalue()


def decode_jpegs(files: Sequence[bytes | memoryview], *, size: int = 0, offset: float | None = None) -> np.ndarray:
    """Decode JPEG files of one size.

    FFmpeg's decoder takes three quarters of the time of libjpeg's (benchmarks/prepared.py).

    Args:
        files: one or more.
        size: pixels to which the short side is resized; 0: as it is.
        offset: cut squares at this place of the long side, as crop_square does; None: whole frames.

    Returns:
        (T, h, w, 3) uint8.

    Raises:
        ValueError: one of them is no JPEG, is damaged, or has another size than the first.
    """
    context = VideoCodecContext.create("mjpeg", "r")
    context.thread_count = 1
    context.options = {"err_detect": "explode"}  # else half a file is half a picture
    resize, reformatter = _Resize(size, offset), VideoReformatter()
    pictures: np.ndarray | None = None
    for number, file in enumerate(files):
        frames = context.decode(Packet(bytes(file))) if len(file) else []
        if len(frames) != 1:
            raise ValueError(f"expected one picture in a JPEG file of {len(file)} bytes, found {len(frames)}")
        if size:
            picture = resize(frames[0])
        else:  # without resizing, swscale's way into rgb24 is the fastest
            plane = reformatter.reformat(frames[0], format="rgb24", threads=1).planes[0]
            samples = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
            lines = samples.reshape(-1, plane.line_size)[:, : 3 * plane.width]
            picture = lines.reshape(plane.height, plane.width, 3)
            picture = picture if offset is None else crop_square(picture, offset)
        if pictures is None:
            pictures = np.empty((len(files), *picture.shape), np.uint8)
        pictures[number] = picture
    if pictures is None:
        raise ValueError("expected JPEG files, got none")
    return pictures


def decode_frames_at(path: Path, times_s: Sequence[float], short_side: int) -> np.ndarray:
    """Decode the frames shown at some ascending times (in seconds from the start of the picture).

    Returns:
        (len(times_s), h, w, 3) uint8 with the short side resized to `short_side`.

    Raises:
        MediaError: see there.
    """
    with _open(path, LIMITS, DEADLINE_S) as file:
        return np.stack(_pictures(file, np.asarray(times_s, float), _Resize(short_side)))


def frame_times(start_s: float, clip_s: float, num_frames: int) -> np.ndarray:
    """Times at which the frames of a clip are shown: start + i * clip_s / num_frames."""
    return start_s + np.arange(num_frames) * (clip_s / num_frames)


def latest_frames(times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Index of the frame on screen at each wanted time: the last one that began by then, else the first."""
    return np.maximum(np.searchsorted(times_s, wanted_s + 1e-6, side="right") - 1, 0)


def crop_square(frames: np.ndarray, offset: float) -> np.ndarray:
    """Cut a square as large as the short side from (..., h, w, C), at `offset` in [0, 1] along the long side."""
    height, width = frames.shape[-3:-1]
    side = min(height, width)
    top, left = round((height - side) * offset), round((width - side) * offset)
    return frames[..., top : top + side, left : left + side, :]


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


@dataclass
class _File:
    """An open file, and the two streams that are read of it."""

    path: Path
    container: InputContainer
    picture: VideoStream | None
    audio: AudioStream | None
    origin_s: float
    """When the picture begins on the clock of the streams, or the sound where there is no picture; every time outside
    this module counts from there."""
    until_s: float

    @property
    def video(self) -> VideoStream:
        """The picture of a file that has one."""
        assert self.picture is not None, f"{self.path} was opened for its sound"
        return self.picture

    def seek(self, stream: VideoStream | AudioStream, time_s: float) -> None:
        """Go to the last key frame of a stream at or before a time; to the start for times before it."""
        # A second before the start is early enough, even for sound, whose first block begins before it is heard.
        earliest_s = _seconds(stream, stream.start_time) - 1
        ticks = int(max(time_s + self.origin_s, earliest_s) / float(stream.time_base or 1))
        try:
            self.container.seek(ticks, stream=stream)
        except av.FFmpegError:  # no key frame that early
            self.container.seek(0)

    def packets(self, stream: VideoStream | AudioStream) -> Iterator[Packet]:
        """Packets of a stream from here to the end, under the deadline."""
        for packet in self.container.demux(stream):
            self.check()
            if packet.size:  # an empty one would end the decoding
                yield packet

    def check(self) -> None:
        """Raise MediaError where the deadline has passed."""
        if time.monotonic() > self.until_s:
            raise MediaError(self.path, "timeout", "decoding it took longer than allowed")


def _say(error: Exception) -> str:
    """A library's words without the number and the path that it puts around them."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def _open(path: Path, limits: Limits, deadline_s: float, needs_picture: bool = True) -> Iterator[_File]:
    """Open a local media file, by default one that has a picture; a library's fault becomes a MediaError."""
    until_s = time.monotonic() + deadline_s
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise MediaError(path, "vanished", _say(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(path, "refused", "not a regular file")
    if found.st_size == 0:
        raise MediaError(path, "empty", "0 bytes")
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": _FORMATS,
        "max_streams": str(limits.streams + 1),  # one more, so that it is seen to be too many
        "max_pixels": str(limits.pixels),  # while the library looks for the streams
    }
    timeout = None if deadline_s == float("inf") else deadline_s
    try:
        # "file:" keeps a name such as concat:x from being read as a protocol
        container = av.open(f"file:{path}", "r", options=options, metadata_errors="replace", timeout=timeout)
    except av.error.ExitError as error:
        raise MediaError(path, "timeout", f"opening it took longer than {deadline_s:g} s") from error
    except av.FileNotFoundError as error:
        raise MediaError(path, "vanished", _say(error)) from error
    except (av.PermissionError, av.ArgumentError, MemoryError) as error:
        raise MediaError(
            path, "refused", f"not a container that is read here, or over a limit ({_say(error)})"
        ) from error
    except _BROKEN as error:
        raise MediaError(path, "not_media", _say(error)) from error
    with container:
        try:
            picture, audio = _choose_streams(path, container, limits, needs_picture)
            origin_s = (container.start_time or 0) / av.time_base
            leading = picture or audio
            if leading is not None and leading.start_time is not None:
                origin_s = _seconds(leading, leading.start_time)
            yield _File(path, container, picture, audio, origin_s, until_s)
        except av.error.ExitError as error:
            raise MediaError(path, "timeout", f"reading it took longer than {deadline_s:g} s") from error
        except _BROKEN as error:
            raise MediaError(path, "corrupt", _say(error)) from error


def _choose_streams(
    path: Path, container: InputContainer, limits: Limits, needs_picture: bool
) -> tuple[VideoStream | None, AudioStream | None]:
    """The first picture and the first sound track, one of them at least, ready to be decoded by one thread."""

    def require(name: str, value: float, limit: float) -> None:
        if value > limit:
            raise MediaError(path, "refused", f"{value:.0f} {name}, the limit is {limit:.0f}")

    require("streams", len(container.streams), limits.streams)
    require("seconds", (container.duration or 0) / av.time_base, limits.duration_s)
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    video, audio = next(iter(pictures), None), next(iter(container.streams.audio), None)
    if audio is not None and audio.codec_context is None:
        audio = None
    if video is None and (needs_picture or audio is None):
        raise MediaError(path, "no_video", "no picture stream" + ("" if needs_picture else ", and no sound"))
    if video is not None:
        if video.codec_context is None:
            raise MediaError(path, "refused", "no decoder for its picture")
        require("pixels", video.codec_context.width * video.codec_context.height, limits.pixels)
        video.codec_context.options = {"max_pixels": str(limits.pixels)}
    if audio is not None:
        require("samples a second", audio.codec_context.sample_rate, limits.sample_rate)
        require("channels", audio.codec_context.layout.nb_channels, limits.channels)
    for stream in (video, audio):
        if stream is not None:
            require("seconds", _seconds(stream, stream.duration), limits.duration_s)
            stream.codec_context.thread_count = 1  # the loader's processes are the parallelism
    return video, audio


def _seconds(stream: VideoStream | AudioStream, ticks: int | None) -> float:
    return float((ticks or 0) * (stream.time_base or 0))


def _lengths(file: _File) -> dict[int, float]:
    """Seconds of each stream: what the container says, else until the end of the last packet."""
    both = [stream for stream in (file.picture, file.audio) if stream is not None]
    told = [stream for stream in both if stream.duration and file.container.format.name in _TIMED]
    lengths = {stream.index: _seconds(stream, stream.duration) for stream in told}
    streams = [stream for stream in both if stream.index not in lengths]
    if not streams:
        return lengths
    ends: dict[int, float] = {}
    # Reading the last half minute is enough if every stream shows up in it.
    near_end = (file.container.start_time or 0) + (file.container.duration or 0) - 30 * av.time_base
    for place in (near_end, float("-inf")) if near_end > 0 else (float("-inf"),):
        file.seek(both[0], place / av.time_base - file.origin_s)
        for packet in file.container.demux(*streams):
            file.check()
            if packet.pts is not None:
                stream = next(stream for stream in streams if stream.index == packet.stream_index)
                end_s = _seconds(stream, packet.pts + (packet.duration or 0) - (stream.start_time or 0))
                ends[stream.index] = max(end_s, ends.get(stream.index, 0.0))
        if len(ends) == len(streams):
            break
    return lengths | {stream.index: ends.get(stream.index, 0.0) for stream in streams}


def _require_whole(path: Path) -> None:
    """Raise MediaError where the boxes of an MP4 file reach beyond its end."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:  # the length is in the eight bytes that follow
                length = int.from_bytes(header[8:16], "big")
            if kind not in (b"ftyp", b"mdat", b"moov", b"moof", b"free", b"skip", b"wide") or length < 8:
                return  # length 0: to the end of the file; other boxes, or rubbish behind the last one
            at += length
    if at > size:
        raise MediaError(path, "corrupt", f"cut off: {size} of {at} bytes")


def _pictures(file: _File, wanted_s: np.ndarray, convert: Callable[[VideoFrame], np.ndarray]) -> list[np.ndarray]:
    """What is on screen at ascending times, as latest_frames says; frames are converted as they come."""
    # Some containers (.ts) land behind the time that was asked for.
    for earlier_s in (0.0, 12.0) if file.container.format.name in _TIMED else ():
        found = _pictures_by_packets(file, wanted_s, max(0.0, wanted_s[0] - earlier_s), convert)
        if found is not None:
            return found
        if wanted_s[0] <= earlier_s:
            break
    return _pictures_by_frames(file, wanted_s, convert)


def _pictures_by_packets(
    file: _File, wanted_s: np.ndarray, from_s: float, convert: Callable[[VideoFrame], np.ndarray]
) -> list[np.ndarray] | None:
    """Find out from the packets which frames are wanted, and let the decoder skip others as far as that is exact.

    A packet is decided on as soon as those read after it show whether its frame is on screen at a wanted time: packets
    come ordered by decoding time (dts), and none has an earlier presentation time (pts).

    Returns:
        None where the packets do not say enough or a wanted frame does not come out of the decoder.
    """
    stream, context = file.video, file.video.codec_context
    ticks_per_s = 1 / float(stream.time_base or 1)
    # The frame on screen at a wanted time is the last one whose pts is not above its bound.
    bounds = np.floor((wanted_s + file.origin_s + 1e-6) * ticks_per_s).astype(np.int64).tolist()
    sought = from_s > 0
    file.seek(stream, from_s if sought else float("-inf"))
    intra = context.codec.intra_only
    skippable = context.name in _SKIPPABLE
    shown: list[int] = []  # pts of all packets so far, ascending
    waiting: deque[Packet] = deque()
    wanted: set[int] = set()
    pictures: dict[int, np.ndarray] = {}
    known = None  # every frame with a pts up to here has been read
    begun = ended = False
    first_pts = 0
    entered = not sought  # by an intra frame: streams with periodic refresh have entries that take time to recover

    def decode(packet: Packet | None) -> None:
        nonlocal entered
        for frame in context.decode(packet):
            entered = entered or (frame.pts == first_pts and frame.pict_type == PictureType.I)
            if frame.pts in wanted and not frame.is_corrupt:
                pictures[frame.pts] = convert(frame)

    def is_wanted(packet: Packet) -> bool | None:
        """None: what has been read does not tell."""
        at = bisect_left(bounds, packet.pts)
        if packet.pts is None or packet.is_discard or at == len(bounds):
            return False
        following = bisect_right(shown, packet.pts)
        if following < len(shown) and shown[following] <= bounds[at]:
            return False
        return True if ended or (known is not None and known >= bounds[at]) else None

    packets = file.packets(stream)
    try:
        while not ended:
            packet = next(packets, None)
            if packet is None:
                ended = True
            elif packet.pts is None or (packet.dts is not None and packet.dts > packet.pts):
                return None
            elif sought and not begun and not packet.is_keyframe:
                continue
            elif sought and not begun and packet.pts > bounds[0]:
                return None
            else:
                first_pts = first_pts if begun else packet.pts
                begun = True
                at = bisect_left(shown, packet.pts)
                if len(waiting) == _LOOK_AHEAD or (at < len(shown) and shown[at] == packet.pts):
                    return None
                if not packet.is_discard:
                    shown.insert(at, packet.pts)
                waiting.append(packet)
                known = packet.dts
                ended = known is not None and known >= bounds[-1]
            while waiting:
                verdict = is_wanted(waiting[0])
                if verdict is None:
                    break
                packet = waiting.popleft()
                if verdict and packet.pts is not None:
                    wanted.add(packet.pts)
                elif intra or (ended and not any(is_wanted(later) for later in waiting)):
                    continue
                if skippable:
                    context.skip_frame = "DEFAULT" if verdict else "NONREF"
                decode(packet)
        decode(None)
    except av.InvalidDataError:
        return None
    finally:
        context.skip_frame = "DEFAULT"
    if not entered or any(pts not in pictures for pts in wanted):
        return None
    chosen = [bisect_right(shown, bound) - 1 for bound in bounds]
    if min(chosen) < 0 or any(shown[at] not in pictures for at in chosen):
        return None
    return [pictures[shown[at]] for at in chosen]


def _pictures_by_frames(
    file: _File, wanted_s: np.ndarray, convert: Callable[[VideoFrame], np.ndarray]
) -> list[np.ndarray]:
    """Decode everything from the start of the file, and go by the times of the frames."""
    file.seek(file.video, float("-inf"))
    latest: VideoFrame | None = None
    picture: np.ndarray | None = None
    found: list[np.ndarray] = []

    def take() -> None:
        nonlocal picture
        if latest is None:
            raise MediaError(file.path, "corrupt", f"no frame at {wanted_s[0]:.3f} s")
        if latest.is_corrupt:
            raise MediaError(file.path, "corrupt", f"the frame at {wanted_s[len(found)]:.3f} s is damaged")
        picture = convert(latest) if picture is None else picture
        found.append(picture)

    for time_s, frame in _timed_frames(file):
        while latest is not None and len(found) < len(wanted_s) and time_s > wanted_s[len(found)] + 1e-6:
            take()
        if len(found) == len(wanted_s):
            return found
        latest, picture = frame, None
    while len(found) < len(wanted_s):
        take()
    return found


def _timed_frames(file: _File) -> Iterator[tuple[float, VideoFrame]]:
    """Every frame from here to the end; a file may begin between two key frames, with what cannot be decoded."""
    begun = False
    for packet in chain(file.packets(file.video), [None]):
        begun = begun or packet is None or packet.is_keyframe
        for frame in file.video.codec_context.decode(packet) if begun else ():
            if frame.pts is not None:
                yield _seconds(file.video, frame.pts) - file.origin_s, frame


class _Resize:
    """Frame -> (h, w, 3) uint8 RGB, upright, the short side resized inside swscale; with an offset, a square of it."""

    def __init__(self, short_side: int, offset: float | None = None) -> None:
        self.short_side, self.offset, self.reformatter = short_side, offset, VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        scale = self.short_side / min(frame.width, frame.height)
        width, height = (max(self.short_side, round(side * scale)) for side in (frame.width, frame.height))
        # Into planes, on one thread, swscale takes a quarter of the time that it takes into rgb24, to the same bits.
        resized = self.reformatter.reformat(frame, width, height, "gbrp", interpolation=Interpolation.AREA, threads=1)
        green, blue, red = (self._cut(plane, frame.rotation // 90) for plane in resized.planes)
        rgb = np.empty((*red.shape, 3), np.uint8)
        rgb[..., 0], rgb[..., 1], rgb[..., 2] = red, green, blue
        return rgb

    def _cut(self, plane: VideoPlane, quarter_turns: int) -> np.ndarray:
        samples = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
        values = samples.reshape(-1, plane.line_size)[: plane.height, : plane.width]
        upright = np.rot90(values, quarter_turns)
        return upright if self.offset is None else crop_square(upright[..., None], self.offset)[..., 0]


def _sound(file: _File, first_s: float, last_s: float, sample_rate: int) -> tuple[np.ndarray, float]:
    """Decode sound from the current position until last_s; return mono samples and the time of the first one.

    Samples lie where their time stamps say: gaps are filled with silence.  Half a minute is resampled at once: that
    takes a third of the time of doing so block by block, and no other memory for hours of it.
    """
    assert file.audio is not None
    stream, context = file.audio, file.audio.codec_context
    begin_s, length, kind = 0.0, 0, None
    pieces: list[np.ndarray] = []
    num_pending = 0
    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
    resampled: list[np.ndarray] = []

    def append(values: np.ndarray, num_samples: int) -> None:
        nonlocal length, num_pending
        assert kind is not None
        pieces.append(values)
        length += num_samples
        num_pending += num_samples
        if num_pending >= _RESAMPLED_S * kind[2]:
            resample()

    def resample() -> None:
        nonlocal num_pending
        assert kind is not None
        whole = AudioFrame.from_ndarray(np.concatenate(pieces, 1), format=kind[0], layout=kind[1])
        whole.sample_rate = kind[2]
        resampled.extend(block.to_ndarray()[0] for block in resampler.resample(whole))
        pieces.clear()
        num_pending = 0

    def add(frame: AudioFrame) -> bool:
        """Whether more is wanted."""
        nonlocal begin_s, kind
        if frame.pts is None or not frame.samples:
            return True
        time_s = _seconds(stream, frame.pts) - file.origin_s
        if time_s >= last_s:
            return False
        if time_s + frame.samples / frame.sample_rate <= first_s:
            return True
        values = frame.to_ndarray()
        if kind is None:
            begin_s, kind = time_s, (frame.format.name, frame.layout.name, frame.sample_rate)
        elif kind != (frame.format.name, frame.layout.name, frame.sample_rate):
            raise ValueError(f"the sound changes from {kind} in the middle")
        missing = round((time_s - begin_s) * frame.sample_rate) - length
        if missing > _GAP_S * frame.sample_rate:
            if missing > _LONGEST_GAP_S * frame.sample_rate:
                raise ValueError(f"{missing / frame.sample_rate:.0f} s are missing in the sound")
            per_sample = values.shape[1] // frame.samples
            zero = 128 if values.dtype == np.uint8 else 0
            append(np.full((len(values), missing * per_sample), zero, values.dtype), missing)
        append(values, frame.samples)
        return True

    def read() -> None:
        fault = None
        for packet in chain(file.packets(stream), [None]):
            try:
                frames = context.decode(packet)
            except av.InvalidDataError as error:
                if kind is not None:
                    raise
                fault = error  # after a seek the first packet may be a part of one
                continue
            for frame in frames:
                fault = None
                if not add(frame):
                    return
        if fault is not None:
            raise fault

    read()
    if kind is None:
        return np.zeros(0, np.int16), 0.0
    if pieces:
        resample()
    resampled.extend(block.to_ndarray()[0] for block in resampler.resample(None))
    return (np.concatenate(resampled) if resampled else np.zeros(0, np.int16)), begin_s


_RESAMPLED_S = 30.0
"""Sound that is resampled at once."""
_GAP_S = 0.02
"""Time stamps are often rounded to milliseconds: what is shorter is no gap."""
_LONGEST_GAP_S = 3600.0
