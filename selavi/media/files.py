"""Open media files, within limits; every fault of the libraries becomes a MediaError."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from selavi.filesystem import NETWORK_ERRORS, fault_of


class MediaError(Exception):
    """A file that cannot be used, and why.

    Attributes:
        reason: one word: vanished, unreadable, empty, refused, not_media, no_video, corrupt, timeout.
    """

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason}: {detail}")
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.path, self.reason, self.detail)  # crosses process borders


@dataclass(frozen=True)
class Limits:
    """What a file may claim to hold.  A file that claims more is refused before anything of that size is allocated."""

    pixels: int = 4096 * 4096
    """Largest frame of a recording."""
    picture_pixels: int = 1 << 27
    """Largest still picture, of which cameras make larger ones."""
    duration_s: float = 24 * 3600.0
    streams: int = 32
    sample_rate: int = 192_000
    channels: int = 24
    recording_bytes: int = 8 << 30
    """Bytes of the frames that decode_recording returns."""


LIMITS = Limits()
DEADLINE_S = 30.0
WALL_FACTOR = 20
"""A deadline counts processor time, so that a busy machine makes no file bad; the clock on the wall may show this many
times as much, for files that wait for a disk that never answers."""

INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
"""Containers with the times of all frames in one clock, and places to seek to."""
UNTIMED = {"avi", "mpegvideo"}
"""Containers without presentation times: what the library gives for them is the order of decoding."""
_SEEKABLE = {*INDEXED, "avi", "mpegts"}
"""Containers in which decoding can begin at any key frame.  Others are decoded from their start."""
_RESTARTED_BY_SEEKING = {*INDEXED, "avi"}
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,wav,mp3,flac,aac"
"""Containers of one file: formats that name other files (concat, hls, dash, image sequences) are not among them."""
_BROKEN = (av.FFmpegError, EOFError, IndexError, MemoryError, OSError, ValueError)


class Deadline:
    """Seconds of processor time that this thread may take from now on, and WALL_FACTOR times as many on the wall."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.until_cpu_s = time.thread_time() + seconds
        self.until_wall_s = time.monotonic() + WALL_FACTOR * seconds

    def check(self, path: Path) -> None:
        """Raise MediaError where it has passed."""
        if time.thread_time() > self.until_cpu_s:
            raise MediaError(path, "timeout", f"decoding it takes more than {self.seconds:g} s of processor time")
        if time.monotonic() > self.until_wall_s:
            raise MediaError(path, "timeout", f"reading it takes more than {WALL_FACTOR * self.seconds:g} s")


@dataclass(frozen=True)
class Jump:
    """Where the clock of a stream jumps: its packets from `first` on, counted from 0, are `ticks` later than they say.

    A recording that was appended to another one, or a recorder that was started again:

        stamps      0 1 2 3 4 | 0 1 2 3 4          a jump back at packet 5
        added       0 0 0 0 0 | 5 5 5 5 5          Jump(first=5, ticks=5)
        shown at    0 1 2 3 4   5 6 7 8 9
    """

    first: int
    ticks: int


class File:
    """An open file, and the two streams that are read of it.

    Args:
        path: of the file.
        reopen: opens the container anew.
        container: as `reopen` gives it.
        picture: index of its stream; None: none is read.
        audio: index of its stream; None: none is read.
        limits: of what is decoded.
        deadline: of everything that is done with the file.
        jumps: of each stream whose clock jumps.
        by_header: whether `reopen` takes the header at its word.
    """

    def __init__(
        self,
        path: Path,
        reopen: Callable[[], InputContainer],
        container: InputContainer,
        picture: int | None,
        audio: int | None,
        limits: Limits,
        deadline: Deadline,
        jumps: dict[int, Sequence[Jump]] | None = None,
        by_header: bool = False,
    ) -> None:
        self.path, self.limits, self.jumps = path, limits, jumps or {}
        self.by_header = by_header
        self._reopen, self._deadline = reopen, deadline
        self._indices = picture, audio
        self.audio_fault: MediaError | None = None
        """Why the sound that the file has cannot be decoded, as far as its header tells."""
        self._use(container)
        leading = self.picture or self.audio
        start = None if leading is None else leading.start_time
        if leading is None or start is None:
            self.origin_s = (container.start_time or 0) / av.time_base
        else:
            self.origin_s = seconds(leading, start)
        """When the picture begins on the clock of the streams, or the sound where there is no picture; every time
        outside this package counts from there."""

    def _use(self, container: InputContainer) -> None:
        self.container = container
        picture, audio = self._indices
        self.picture: VideoStream | None = None if picture is None else container.streams[picture]  # type: ignore[assignment]
        self.audio: AudioStream | None = None if audio is None else container.streams[audio]  # type: ignore[assignment]
        self.stored_size = (0, 0)
        """Width and height of the picture as the file begins."""
        if self.picture is not None:
            self.stored_size = self.picture.codec_context.width, self.picture.codec_context.height
            self.picture.codec_context.options = {"max_pixels": str(self.limits.pixels)}
        for stream in (self.picture, self.audio):
            if stream is not None:
                stream.codec_context.thread_count = 1  # the loader's processes are the parallelism
        self._at_start = True
        self._num_read = dict.fromkeys(self.jumps, 0)

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    @property
    def video(self) -> VideoStream:
        """The picture of a file that has one."""
        assert self.picture is not None, f"{self.path} was opened for its sound"
        return self.picture

    @property
    def format(self) -> str:
        """The library's name of the container."""
        return self.container.format.name

    @property
    def seekable(self) -> bool:
        """Whether decoding may begin in the middle, and sees there what it would see on the way from the start."""
        # A palette comes with the first packet, and changes with others.
        has_palette = self.picture is not None and self.picture.codec_context.pix_fmt == "pal8"
        return self.format in _SEEKABLE and not self.jumps and not has_palette

    def seek(self, stream: VideoStream | AudioStream, time_s: float) -> None:
        """Go to the last key frame of a stream at or before a time; to the start for times before it.

        The streams are others afterwards: ask for `video` and `audio` again.
        """
        # A second before the start is early enough, even for sound, whose first block begins before it is heard.
        earliest_s = seconds(stream, stream.start_time) - 1
        to_start = time_s + self.origin_s <= earliest_s
        if (to_start and self.format not in _RESTARTED_BY_SEEKING) or not self.seekable:
            self.restart()
            return
        self.read_only(stream)
        self._at_start = False
        ticks = int(max(time_s + self.origin_s, earliest_s) / float(stream.time_base or 1))
        try:
            self.container.seek(ticks, stream=stream)
        except av.FFmpegError:  # no key frame that early
            self.restart()

    def restart(self) -> None:
        """Go to the first packet, as if the file had just been opened."""
        if not self._at_start:
            self.container.close()
            self._use(self._reopen())

    def packets(self, *streams: VideoStream | AudioStream) -> Iterator[Packet]:
        """Packets of some streams from here to the end, under the deadline, on a clock without jumps."""
        self.read_only(*streams)
        self._at_start = False
        picture = -1 if self.picture is None else self.picture.index
        untimed = self.format in UNTIMED
        for packet in self.container.demux(*streams):
            self.check()
            if not packet.size:  # an empty one would end the decoding
                continue
            if untimed and packet.stream_index == picture:
                packet.pts = packet.dts
            if packet.stream_index in self.jumps:
                self._bridge(packet)
            yield packet

    def _bridge(self, packet: Packet) -> None:
        number = self._num_read[packet.stream_index]
        self._num_read[packet.stream_index] += 1
        ticks = 0
        for jump in self.jumps[packet.stream_index]:
            if jump.first <= number:
                ticks = jump.ticks
        if packet.pts is not None:
            packet.pts += ticks
        if packet.dts is not None:
            packet.dts += ticks

    def read_only(self, *streams: VideoStream | AudioStream) -> None:
        """Let the container skip the packets of all other streams: it need not even read them."""
        indices = {stream.index for stream in streams}
        for stream in self.container.streams:
            stream.discard = Discard.default if stream.index in indices else Discard.all

    def check(self) -> None:
        """Raise MediaError where the deadline has passed."""
        self._deadline.check(self.path)


def words_of(error: Exception) -> str:
    """A library's words without the number and the path that it puts around them."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_container(path: Path, limits: Limits, deadline_s: float, *, by_header: bool = False) -> InputContainer:
    """Open a local media file.

    `by_header` leaves out the decoding of the first frames, by which the library learns what the header does not tell.

    Raises:
        MediaError: it cannot be opened.
    """
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise MediaError(path, *fault_of(error)) from error
    if not stat.S_ISREG(state.st_mode):
        raise MediaError(path, "refused", "not a regular file")
    if state.st_size == 0:
        raise MediaError(path, "empty", "0 bytes")
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": _FORMATS,
        "max_streams": str(limits.streams + 1),  # one more, so that it is seen to be too many
        "max_pixels": str(limits.pixels),  # while the library looks for the streams
    }
    if by_header:
        options["codec_whitelist"] = "none"
    timeout = None if deadline_s == float("inf") else WALL_FACTOR * deadline_s
    try:
        # "file:" keeps a name such as concat:x from being read as a protocol
        return av.open(f"file:{path}", "r", options=options, metadata_errors="replace", timeout=timeout)
    except av.error.ExitError as error:
        raise MediaError(path, "timeout", f"opening it takes more than {timeout:g} s") from error
    except av.FileNotFoundError as error:
        raise MediaError(path, "vanished", words_of(error)) from error
    except (av.PermissionError, av.ArgumentError, MemoryError) as error:
        words = f"not a container that is read here, or over a limit ({words_of(error)})"
        raise _fault(path, "refused", words, error) from error
    except _BROKEN as error:
        raise _fault(path, "not_media", words_of(error), error) from error


def _fault(path: Path, reason: str, detail: str, error: Exception) -> MediaError:
    """What a library could not read: the system's own fault where it does not give the file, else the file's."""
    if getattr(error, "errno", None) in NETWORK_ERRORS:  # the drive may be back by now
        return MediaError(path, "unreadable", detail)
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
def translated(path: Path, subject: str = "") -> Iterator[None]:
    """Turn every fault of the libraries into a MediaError.

    Args:
        path: of the file.
        subject: the stream that the block is about, such as "sound": the detail begins with it.
    """
    begin = f"{subject}: " if subject else ""
    try:
        yield
    except MediaError as error:
        if not begin or error.detail.startswith(begin):
            raise
        raise MediaError(path, error.reason, begin + error.detail) from error
    except av.error.ExitError as error:
        raise MediaError(path, "timeout", f"{begin}reading it took too long") from error
    except _BROKEN as error:
        raise _fault(path, "corrupt", f"{begin}cannot be decoded: {words_of(error)}", error) from error


def seconds(stream: VideoStream | AudioStream, ticks: int | None) -> float:
    """Ticks of a stream's clock in seconds; None is 0."""
    base = stream.time_base
    return (ticks or 0) * base.numerator / base.denominator if base else 0.0
