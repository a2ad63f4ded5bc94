"""Media files in and out: the only user of PyAV."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream


def encode_clip(
    path: Path,
    frames: np.ndarray,
    waveform: np.ndarray | None,
    *,
    fps: float | Fraction,
    sample_rate: int,
    crf: int = 23,
    gop: int = 12,
    audio_bitrate: int = 48_000,
) -> None:
    """Write an .mp4 of H.264 (yuv420p) and AAC (mono).

    Equal input gives equal bytes on one machine and PyAV version.

    Args:
        path: file to write; the container is MP4 whatever the suffix, so a temporary name will do.
        frames: (T, h, w, 3) uint8 RGB, h and w even.
        waveform: (S,) float32 in [-1, 1], or None for a file without a sound track.
        fps: frames a second.
        sample_rate: samples a second of `waveform`; one that AAC knows (8000, 16000, 24000, 44100 ...).
        crf: constant rate factor of x264, 0 (lossless) to 51 (worst).
        gop: frames from one key frame to the next: few make seeking fast and the file larger.
        audio_bitrate: bits a second of the sound track.

    Raises:
        ValueError: the arrays have another shape or type.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"expected frames (T, h, w, 3) uint8, got {frames.shape} {frames.dtype}")
    num_frames, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"expected an even height and width (yuv420p halves both), got {height} x {width}")
    if waveform is not None and (waveform.ndim != 1 or waveform.dtype != np.float32 or waveform.size == 0):
        raise ValueError(f"expected waveform (S,) float32, got {waveform.shape} {waveform.dtype}")

    rate = Fraction(fps).limit_denominator(1001)
    # Bit-exact muxing leaves out the library's version and the creation time.
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        video: VideoStream = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"crf": str(crf), "preset": "veryfast"}
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

        for index in range(num_frames):
            frame = VideoFrame.from_ndarray(frames[index], format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            planes = np.ascontiguousarray(waveform)[None]
            sound = AudioFrame.from_ndarray(planes, format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = sample_rate, 0, Fraction(1, sample_rate)
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))


class MediaError(Exception):
    """A file that cannot be used, and why.

    Attributes:
        reason: one word: vanished, empty, not_media, no_video, corrupt.
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
    fps: float
    width: int
    height: int
    audio_state: str
    """ok, silent (nothing above SILENCE in the first SILENCE_S seconds) or absent."""


@dataclass(frozen=True)
class Recording:
    """A whole file, decoded."""

    frames: np.ndarray
    """(T, h, w, 3) uint8, the short side resized."""
    times_s: np.ndarray
    """(T,) float64, ascending, from the start of the file."""
    waveform: np.ndarray
    """(S,) float32 in [-1, 1], mono, from the start of the file; S = 0 without sound."""


SILENCE = 1e-3
SILENCE_S = 30.0
_BROKEN = (av.FFmpegError, EOFError, IndexError, MemoryError, OSError, ValueError)


def probe(path: Path) -> MediaInfo:
    """Open a file, decode its first frame and its sound up to SILENCE_S seconds.

    Raises:
        MediaError: the file cannot be read, has no picture, or nothing of it can be decoded.
    """
    with _open(path) as container:
        video = container.streams.video[0]
        first = next(container.decode(video), None)
        if first is None:
            raise MediaError(path, "corrupt", "no frame can be decoded")
        width, height = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
        fps = float(video.average_rate or video.guessed_rate or 0)
        duration_s = (container.duration or 0) / av.time_base
        if duration_s <= 0:  # some containers do not say: the last packet does
            container.seek(0)
            ends = [
                float((p.pts + (p.duration or 0)) * p.time_base) for p in container.demux(video) if p.pts is not None
            ]
            duration_s = max(ends, default=0.0) - _start_s(container)
        state = "absent"
        if container.streams.audio:
            container.seek(0)
            waveform, _ = _sound(container, 0.0, SILENCE_S, 8000)
            state = "absent" if waveform.size == 0 else "ok" if np.abs(waveform).max() > SILENCE else "silent"
    return MediaInfo(duration_s, fps, width, height, state)


def decode_clip(
    path: Path, start_s: float, clip_s: float, *, num_frames: int, size: int, offset: float, sample_rate: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode the window [start_s, start_s + clip_s) of a file and nothing else.

    Args:
        path: media file.
        start_s: start of the window, in seconds from the start of the file.
        clip_s: length of the window in seconds.
        num_frames: frames wanted, evenly spaced from the start of the window; 0 for none.
        size: side of the square frames; the short side is resized to it and the long side cropped.
        offset: where the square lies on the long side, from 0 (left or top) to 1.
        sample_rate: of the sound, in samples a second; 0 for none.

    Returns:
        Frames (num_frames, size, size, 3) uint8 and the waveform (round(clip_s * sample_rate),) float32 in [-1, 1],
        None where the file has no sound in the window.

    Raises:
        MediaError: see there.
    """
    frames = np.zeros((0, size, size, 3), np.uint8)
    waveform = None
    with _open(path) as container:
        if num_frames:
            wanted_s = frame_times(start_s, clip_s, num_frames)
            decoded = list(_frames_between(container, wanted_s[0], wanted_s[-1]))
            if not decoded:
                raise MediaError(path, "corrupt", f"no frame in the window at {start_s:.3f} s")
            times_s = np.array([time_s for time_s, _ in decoded])
            resize = VideoReformatter()
            used = latest_frames(times_s, wanted_s)
            squares = {i: crop_square(_to_rgb(decoded[i][1], size, resize), offset) for i in set(used.tolist())}
            frames = np.stack([squares[i] for i in used])
        if sample_rate and container.streams.audio:
            margin_s = 0.05  # for the resampler to settle
            _seek(container, container.streams.audio[0], max(0.0, start_s - 0.3))  # codecs overlap their blocks
            sound, first_s = _sound(container, start_s - margin_s, start_s + clip_s + margin_s, sample_rate)
            waveform = cut_waveform(sound, start_s - first_s, clip_s, sample_rate)
    return frames, waveform


def decode_recording(path: Path, *, size: int, sample_rate: int) -> Recording:
    """Decode a whole file: frames with the short side resized to `size`, and the sound.

    Raises:
        MediaError: see there.
    """
    with _open(path) as container:
        resize = VideoReformatter()
        decoded = [(t, _to_rgb(frame, size, resize)) for t, frame in _frames_between(container, 0.0, float("inf"))]
        if not decoded:
            raise MediaError(path, "corrupt", "no frame can be decoded")
        waveform = np.zeros(0, np.float32)
        if container.streams.audio:
            container.seek(0)
            sound, first_s = _sound(container, 0.0, float("inf"), sample_rate)
            if sound.size:
                waveform = np.concatenate([np.zeros(max(0, round(first_s * sample_rate)), np.float32), sound])
    times_s, frames = zip(*decoded, strict=True)
    return Recording(np.stack(frames), np.array(times_s), waveform)


def decode_frames_at(path: Path, times_s: Sequence[float], short_side: int) -> np.ndarray:
    """Decode the frames shown at some ascending times (in seconds from the start of the file).

    Returns:
        (len(times_s), h, w, 3) uint8 with the short side resized to `short_side`.

    Raises:
        MediaError: see there.
    """
    with _open(path) as container:
        decoded = list(_frames_between(container, times_s[0], times_s[-1]))
        if not decoded:
            raise MediaError(path, "corrupt", f"no frame at {times_s[0]:.3f} s")
        resize = VideoReformatter()
        used = latest_frames(np.array([t for t, _ in decoded]), np.asarray(times_s))
        return np.stack([_to_rgb(decoded[i][1], short_side, resize) for i in used])


def frame_times(start_s: float, clip_s: float, num_frames: int) -> np.ndarray:
    """Times at which the frames of a clip are shown: start + i * clip_s / num_frames."""
    return start_s + np.arange(num_frames) * (clip_s / num_frames)


def latest_frames(times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Index of the frame on screen at each wanted time: the last one that began by then, else the first."""
    return np.maximum(np.searchsorted(times_s, wanted_s + 1e-6, side="right") - 1, 0)


def crop_square(frames: np.ndarray, offset: float) -> np.ndarray:
    """Cut a square as large as the short side from (..., h, w, 3), at `offset` in [0, 1] along the long side."""
    height, width = frames.shape[-3:-1]
    side = min(height, width)
    top, left = round((height - side) * offset), round((width - side) * offset)
    return frames[..., top : top + side, left : left + side, :]


def cut_waveform(waveform: np.ndarray, start_s: float, clip_s: float, sample_rate: int) -> np.ndarray | None:
    """Cut [start_s, start_s + clip_s) from (S,) samples, zeros where there is none; None where nothing is left."""
    length, first = round(clip_s * sample_rate), round(start_s * sample_rate)
    piece = waveform[max(first, 0) : max(first + length, 0)]
    if piece.size == 0:
        return None
    before = min(max(-first, 0), length)
    return np.pad(piece, (before, length - before - piece.size)).astype(np.float32)


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    """Open a local media file that has a picture; every fault of the libraries becomes a MediaError."""
    try:
        if path.stat().st_size == 0:
            raise MediaError(path, "empty", "0 bytes")
    except OSError as error:
        raise MediaError(path, "vanished", error.strerror or str(error)) from error
    try:
        container = av.open(str(path), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except _BROKEN as error:
        raise MediaError(path, "not_media", str(error) or type(error).__name__) from error
    with container:
        if not container.streams.video:
            raise MediaError(path, "no_video", "no picture stream")
        for stream in (*container.streams.video, *container.streams.audio):
            stream.codec_context.thread_count = 1  # the loader's processes are the parallelism
        try:
            yield container
        except _BROKEN as error:
            raise MediaError(path, "corrupt", str(error) or type(error).__name__) from error


def _start_s(container: InputContainer) -> float:
    """When the file begins on the clock of its streams; every time outside this module counts from there."""
    return (container.start_time or 0) / av.time_base


def _seek(container: InputContainer, stream: VideoStream | AudioStream, time_s: float) -> None:
    container.seek(int((time_s + _start_s(container)) / (stream.time_base or Fraction(1, av.time_base))), stream=stream)


def _frames_between(container: InputContainer, first_s: float, last_s: float) -> Iterator[tuple[float, VideoFrame]]:
    """Yield (time, frame) from the frame on screen at first_s to the one on screen at last_s."""
    frames = _timed_frames(container)
    if first_s > 0:
        _seek(container, container.streams.video[0], first_s)
        landed = next(frames, None)
        if landed is not None and landed[0] <= first_s:
            frames = chain([landed], frames)
        else:  # some containers (.ts) know no earlier key frame: read from the start
            container.seek(0)
            frames = _timed_frames(container)
    earlier = None
    for time_s, frame in frames:
        if time_s > last_s + 1e-6:
            break
        if time_s <= first_s:
            earlier = (time_s, frame)
            continue
        if earlier is not None:
            yield earlier
            earlier = None
        yield time_s, frame
    if earlier is not None:
        yield earlier


def _timed_frames(container: InputContainer) -> Iterator[tuple[float, VideoFrame]]:
    for frame in container.decode(container.streams.video[0]):
        if frame.time is not None:
            yield frame.time - _start_s(container), frame


def _to_rgb(frame: VideoFrame, short_side: int, resize: VideoReformatter) -> np.ndarray:
    """Resize in swscale so that the short side has `short_side` pixels, convert to RGB, turn upright: (h, w, 3)."""
    scale = short_side / min(frame.width, frame.height)
    width, height = (max(short_side, round(side * scale)) for side in (frame.width, frame.height))
    rgb = resize.reformat(frame, width, height, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
    return np.rot90(rgb, frame.rotation // 90) if frame.rotation % 360 else rgb


def _sound(container: InputContainer, first_s: float, last_s: float, sample_rate: int) -> tuple[np.ndarray, float]:
    """Decode sound from the current position until last_s; return mono samples and the time of the first one."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
    begin_s, pieces = None, []
    for frame in container.decode(container.streams.audio[0]):
        if frame.time is None:
            continue
        time_s = frame.time - _start_s(container)
        if time_s >= last_s:
            break
        if time_s + frame.samples / frame.sample_rate <= first_s:
            continue
        begin_s = time_s if begin_s is None else begin_s
        frame.pts = None
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    if begin_s is None:
        return np.zeros(0, np.float32), 0.0
    pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    return np.concatenate(pieces), begin_s
