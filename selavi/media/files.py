"""Open media files, within limits; every fault of the libraries becomes a MediaError."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from selavi.filesystem import fault_of


class MediaError(Exception):
    """A file that cannot be used, and why.

    Attributes:
        reason: one word: vanished, unreadable, empty, refused, not_media, no_video, corrupt, timeout.
    """

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason}: {detail}")
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self) -> tuple[type, tuple[Path, str, str]]:
        return MediaError, (self.path, self.reason, self.detail)  # crosses process borders


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


LIMITS = Limits()
DEADLINE_S = 30.0

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,mp3,flac,aac"
"""Containers of one file: formats that name other files (concat, hls, dash, image sequences) are not among them."""
_DESCRIBED = {".mp4", ".m4v", ".m4a", ".mov"}
"""Names of files whose header usually tells all about their streams."""
_BROKEN = (av.FFmpegError, EOFError, IndexError, MemoryError, OSError, ValueError)


@dataclass
class File:
    """An open file, and the two streams that are read of it."""

    path: Path
    container: InputContainer
    picture: VideoStream | None
    audio: AudioStream | None
    origin_s: float
    """When the picture begins on the clock of the streams, or the sound where there is no picture; every time outside
    this package counts from there."""
    until_s: float

    @property
    def video(self) -> VideoStream:
        """The picture of a file that has one."""
        assert self.picture is not None, f"{self.path} was opened for its sound"
        return self.picture

    def seek(self, stream: VideoStream | AudioStream, time_s: float) -> None:
        """Go to the last key frame of a stream at or before a time; to the start for times before it."""
        self.read_only(stream)
        # A second before the start is early enough, even for sound, whose first block begins before it is heard.
        earliest_s = seconds(stream, stream.start_time) - 1
        ticks = int(max(time_s + self.origin_s, earliest_s) / float(stream.time_base or 1))
        try:
            self.container.seek(ticks, stream=stream)
        except av.FFmpegError:  # no key frame that early
            self.container.seek(0)

    def packets(self, stream: VideoStream | AudioStream) -> Iterator[Packet]:
        """Packets of a stream from here to the end, under the deadline."""
        self.read_only(stream)
        for packet in self.container.demux(stream):
            self.check()
            if packet.size:  # an empty one would end the decoding
                yield packet

    def read_only(self, *streams: VideoStream | AudioStream) -> None:
        """Let the container skip the packets of all other streams: it need not even read them."""
        wanted = {stream.index for stream in streams}
        for stream in self.container.streams:
            stream.discard = Discard.default if stream.index in wanted else Discard.all

    def check(self) -> None:
        """Raise MediaError where the deadline has passed."""
        if time.monotonic() > self.until_s:
            raise MediaError(self.path, "timeout", "decoding it took longer than allowed")


def _say(error: Exception) -> str:
    """A library's words without the number and the path that it puts around them."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def open_container(
    path: Path, limits: Limits, deadline_s: float, *, by_header: bool = False
) -> Iterator[InputContainer]:
    """Open a local media file; every fault of the libraries, also one inside the block, becomes a MediaError.

    `by_header` leaves out the decoding of the first frames, by which the library learns what the header does not tell.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise MediaError(path, *fault_of(error)) from error
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
    if by_header:
        options["codec_whitelist"] = "none"
    timeout = None if deadline_s == float("inf") else deadline_s
    try:
        # "file:" keeps a name such as concat:x from being read as a protocol
        container = av.open(f"file:{path}", "r", options=options, metadata_errors="replace", timeout=timeout)
    except av.error.ExitError as error:
        raise MediaError(path, "timeout", f"opening it took longer than {deadline_s:g} s") from error
    except av.FileNotFoundError as error:
        raise MediaError(path, "vanished", _say(error)) from error
    except (av.PermissionError, av.ArgumentError, MemoryError) as error:
        words = f"not a container that is read here, or over a limit ({_say(error)})"
        raise _fault(path, "refused", words, error) from error
    except _BROKEN as error:
        raise _fault(path, "not_media", _say(error), error) from error
    with container:
        try:
            yield container
        except av.error.ExitError as error:
            raise MediaError(path, "timeout", f"reading it took longer than {deadline_s:g} s") from error
        except _BROKEN as error:
            raise _fault(path, "corrupt", _say(error), error) from error


def _fault(path: Path, reason: str, detail: str, error: Exception) -> MediaError:
    """What a library could not read: the system's own fault where it does not give the file, else the file's."""
    try:
        with path.open("rb") as file:
            # The library says EIO of broken files as well: only the system knows whether it is the disk's.
            while file.read(1 << 20) and getattr(error, "errno", None) == errno.EIO:
                pass
            file.seek(0, os.SEEK_END)
    except OSError as refused:
        return MediaError(path, *fault_of(refused))
    return MediaError(path, reason, detail)


@contextmanager
def open_file(
    path: Path, limits: Limits, deadline_s: float, needs_picture: bool = True, *, by_header: bool = False
) -> Iterator[File]:
    """Open a local media file, by default one that has a picture, as open_container does.

    `by_header`: take a header at its word where it tells all that is needed; to look further is most of the time of
    opening a file.
    """
    until_s = time.monotonic() + deadline_s
    with ExitStack() as stack:
        by_header = by_header and path.suffix.lower() in _DESCRIBED
        container = stack.enter_context(open_container(path, limits, deadline_s, by_header=by_header))
        picture, audio = choose_streams(path, container, limits)
        if by_header and not _is_described(container, picture, audio):
            stack.close()
            container = stack.enter_context(open_container(path, limits, deadline_s))
            picture, audio = choose_streams(path, container, limits)
        leading = picture if needs_picture else picture or audio
        if leading is None:
            raise MediaError(path, "no_video", "no picture stream" + ("" if needs_picture else ", and no sound"))
        start = leading.start_time
        origin_s = (container.start_time or 0) / av.time_base if start is None else seconds(leading, start)
        yield File(path, container, picture, audio, origin_s, until_s)


def _is_described(container: InputContainer, picture: VideoStream | None, audio: AudioStream | None) -> bool:
    """Whether the header has told when both streams begin and what they are."""
    found = [stream for stream in (picture, audio) if stream is not None]
    return (
        "mov" in container.format.name
        and len(found) == len(container.streams.video) + len(container.streams.audio)
        and all(stream.start_time is not None and stream.duration for stream in found)
        and (picture is None or picture.codec_context.width * picture.codec_context.height > 0)
        and (audio is None or audio.codec_context.sample_rate * audio.codec_context.layout.nb_channels > 0)
    )


def choose_streams(
    path: Path, container: InputContainer, limits: Limits
) -> tuple[VideoStream | None, AudioStream | None]:
    """The first picture that is no cover and the first sound track, ready to be decoded by one thread.

    Raises:
        MediaError: one of them is over a limit, or there is no decoder for the picture.
    """

    def require(name: str, value: float, limit: float) -> None:
        if value > limit:
            raise MediaError(path, "refused", f"{value:.0f} {name}, the limit is {limit:.0f}")

    require("streams", len(container.streams), limits.streams)
    require("seconds", (container.duration or 0) / av.time_base, limits.duration_s)
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    video, audio = next(iter(pictures), None), next(iter(container.streams.audio), None)
    if video is not None and video.codec_context is None:
        raise MediaError(path, "refused", "no decoder for its picture")
    if audio is not None and audio.codec_context is None:
        audio = None
    if video is not None:
        require("pixels", video.codec_context.width * video.codec_context.height, limits.pixels)
        video.codec_context.options = {"max_pixels": str(limits.pixels)}
    if audio is not None:
        require("samples a second", audio.codec_context.sample_rate, limits.sample_rate)
        require("channels", audio.codec_context.layout.nb_channels, limits.channels)
    for stream in (video, audio):
        if stream is not None:
            require("seconds", seconds(stream, stream.duration), limits.duration_s)
            stream.codec_context.thread_count = 1  # the loader's processes are the parallelism
    return video, audio


def seconds(stream: VideoStream | AudioStream, ticks: int | None) -> float:
    """Ticks of a stream's clock in seconds; None is 0."""
    base = stream.time_base
    return (ticks or 0) * base.numerator / base.denominator if base else 0.0
