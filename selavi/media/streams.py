"""Which streams of a file are read, and what has to be known of them before."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate, islice
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from selavi.filesystem import look
from selavi.media.files import (
    INDEXED,
    UNTIMED,
    Deadline,
    File,
    Jump,
    Limits,
    MediaError,
    open_container,
    seconds,
    translated,
)
from selavi.media.sound import SILENCE, SILENCE_S, loudest, read_sound

_DESCRIBED = {".mp4", ".m4v", ".m4a", ".mov"}
"""Names of files whose header usually tells all about their streams."""
_STILLS = {"mjpeg", "png", "bmp", "gif", "tiff", "webp", "jpegls", "jpeg2000"}
"""Codecs of pictures: next to a stream of another codec, one of these is a cover."""
_JUMP_BACK_S, _JUMP_AHEAD_S = 1.0, 10.0
"""Steps of a clock that are neither a wrong stamp nor a pause of the recording.  A step back to a key frame of the
picture is where two recordings were joined, however short it is."""
_REMEMBERED = 1 << 14
"""Files of which a process remembers what took reading them to learn."""
MAIN = -1
"""The picture that a player shows."""
_CHECKED_FRAMES = 64
"""Frames at the start of a file from which the order of its stamps is judged."""


@contextmanager
def open_file(
    path: Path,
    limits: Limits,
    deadline_s: float,
    needs_picture: bool = True,
    *,
    stream: int = MAIN,
    by_header: bool = False,
) -> Iterator[File]:
    """Open a local media file, by default one that has a picture; faults of the libraries become MediaErrors.

    Which streams: docs/data.md, "Which picture, which sound, which times".

    Args:
        path: of the file.
        limits: what it may claim to hold.
        deadline_s: seconds of processor time for all that is done with it.
        needs_picture: False: a file with sound alone will do.
        stream: the picture that is read instead of the one that a player shows, from 0, if there is one.
        by_header: take a header at its word where it tells all that is needed; to look further is most of the time of
            opening a file.

    Raises:
        MediaError: also of what happens inside of the block.
    """
    deadline = Deadline(deadline_s)
    with translated(path):
        by_header = by_header and path.suffix.lower() in _DESCRIBED
        container = open_container(path, limits, deadline_s, by_header=by_header)
        try:
            picture, sounds = choose_streams(path, container, limits)
            if by_header and not _is_described(container, picture, sounds):
                container.close()
                by_header = False
                container = open_container(path, limits, deadline_s)
                picture, sounds = choose_streams(path, container, limits)
            if picture is None and (needs_picture or not sounds):
                raise MediaError(path, "no_video", "no picture stream" + ("" if needs_picture else ", and no sound"))
            main, picture = picture, picture if stream == MAIN else _picture_number(stream, container, limits, path)
            audio, fault = _usable_sound(path, sounds, limits)
            streams = [stream for stream in (picture, audio) if stream is not None]
            jumps: dict[int, Sequence[Jump]] = {}
            if streams and container.format.name not in INDEXED | UNTIMED:
                jumps = dict(_clock_jumps(*_identity(path), limits, tuple(stream.index for stream in streams)))
        except BaseException:
            container.close()
            raise
        reopen = partial(open_container, path, limits, deadline_s, by_header=by_header)
        chosen = [None if stream is None else stream.index for stream in (picture, audio)]
        file = File(path, reopen, container, chosen[0], chosen[1], limits, deadline, jumps, by_header)
        file.audio_fault = fault
        if main is not None and stream != MAIN:  # all streams are on the clock of the main picture
            file.origin_s = seconds(main, main.start_time)
        try:
            yield file
        finally:
            file.close()


def choose_streams(
    path: Path, container: InputContainer, limits: Limits
) -> tuple[VideoStream | None, list[AudioStream]]:
    """The picture that a player would show, and the sound tracks, the one that a player would play first.

    Raises:
        MediaError: the file or its picture is over a limit, or there is no decoder for the picture.
    """

    def require(name: str, value: float, limit: float) -> None:
        if value > limit:
            raise MediaError(path, "refused", f"{value:.0f} {name}, the limit is {limit:.0f}")

    require("streams", len(container.streams), limits.streams)
    # Where a clock may jump, the first and the last stamp do not tell how long it ran: probe measures that.
    believed = container.format.name in INDEXED | UNTIMED
    if believed:
        require("seconds", (container.duration or 0) / av.time_base, limits.duration_s)
    picture = choose_picture(container.streams.video)
    if picture is not None:
        _require_picture(path, picture, limits)
        if believed:
            require("seconds", seconds(picture, picture.duration), limits.duration_s)
    return picture, sorted(container.streams.audio, key=lambda stream: not stream.disposition & Disposition.default)


def _require_picture(path: Path, picture: VideoStream, limits: Limits) -> None:
    if picture.codec_context is None:
        raise MediaError(path, "refused", "picture: there is no decoder for it")
    pixels = picture.codec_context.width * picture.codec_context.height
    if pixels > limits.pixels:
        raise MediaError(path, "refused", f"{pixels:.0f} pixels, the limit is {limits.pixels:.0f}")


def _picture_number(number: int, container: InputContainer, limits: Limits, path: Path) -> VideoStream | None:
    """The picture stream of a number, covers left out; None where there are not so many.

    Raises:
        MediaError: it is over a limit, or there is no decoder for it.
    """
    pictures = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if number >= len(pictures):
        return None
    _require_picture(path, pictures[number], limits)
    return pictures[number]


def choose_picture(streams: Sequence[VideoStream]) -> VideoStream | None:
    """The picture that is read: no cover; then one that moves, then the one flagged default, then the first."""

    def rank(stream: VideoStream) -> tuple[bool, bool]:
        name = "" if stream.codec_context is None else stream.codec_context.name
        still = stream.frames == 1 or (stream.frames == 0 and name in _STILLS)
        return still, not stream.disposition & Disposition.default

    pictures = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    return min(pictures, key=rank, default=None)


def _usable_sound(
    path: Path, sounds: Sequence[AudioStream], limits: Limits
) -> tuple[AudioStream | None, MediaError | None]:
    """The first sound track that can be heard, else the first; and why that cannot be decoded, if it is known."""
    if not sounds:
        return None, None
    faults = {stream.index: _fault_of(path, stream, limits) for stream in sounds}
    usable = [stream for stream in sounds if faults[stream.index] is None]
    if len(usable) > 1:
        index = _first_heard(*_identity(path), limits, tuple(stream.index for stream in usable))
        usable = [stream for stream in usable if stream.index == index]
    return (usable[0], None) if usable else (None, faults[sounds[0].index])


def _fault_of(path: Path, stream: AudioStream, limits: Limits) -> MediaError | None:
    context = stream.codec_context
    if context is None:
        return MediaError(path, "refused", "sound: there is no decoder for it")
    for name, value, limit in (
        ("samples a second", context.sample_rate, limits.sample_rate),
        ("channels", context.layout.nb_channels, limits.channels),
    ):
        if value > limit:
            return MediaError(path, "refused", f"sound: {value:.0f} {name}, the limit is {limit:.0f}")
    return None


def _identity(path: Path) -> tuple[Path, int, int]:
    seen = look(path)
    if seen.status:
        raise MediaError(path, seen.status, seen.reason)
    return path, seen.bytes, seen.mtime_ns


@lru_cache(_REMEMBERED)
def _first_heard(path: Path, num_bytes: int, mtime_ns: int, limits: Limits, indices: tuple[int, ...]) -> int:
    """The first of some sound tracks with anything above SILENCE in its first SILENCE_S seconds, else the first."""
    reopen = partial(open_container, path, limits, float("inf"))
    for index in indices:
        file = File(path, reopen, reopen(), None, index, limits, Deadline(float("inf")))
        try:
            with translated(path):
                waveform, _ = read_sound(file, float("-inf"), SILENCE_S, 8000)
        except MediaError:
            continue  # a track that cannot be decoded is not heard
        finally:
            file.close()
        if loudest(waveform) > SILENCE:
            return index
    return indices[0]


@lru_cache(_REMEMBERED)
def _clock_jumps(
    path: Path, num_bytes: int, mtime_ns: int, limits: Limits, indices: tuple[int, ...]
) -> tuple[tuple[int, tuple[Jump, ...]], ...]:
    """Read all packets of some streams, the leading one first, and find where their clocks jump."""
    with translated(path), open_container(path, limits, float("inf")) as container:
        streams: list[VideoStream | AudioStream] = [container.streams[index] for index in indices]  # type: ignore[misc]
        # A long pause of one stream is a pause; where all streams jump ahead it is the clock.
        strict = {stream.index: _Clock(stream, float("inf")) for stream in streams}
        wide = {stream.index: _Clock(stream, _JUMP_AHEAD_S) for stream in streams}
        for packet in container.demux(*streams):
            for clocks in (strict, wide) if packet.size else ():
                if clocks[packet.stream_index].add(packet) and packet.stream_index == indices[0]:
                    for other in clocks.values():
                        other.note_jump_of_leading()
    all_alike = len(wide) > 1 and len({len(clock.firsts) for clock in wide.values()}) == 1
    clocks = wide if all_alike else strict
    leading = clocks[indices[0]]
    jumps = []
    for index, clock in clocks.items():
        # What the leading stream is put off by keeps picture and sound together.
        shared = leading.offsets_s()
        firsts = clock.firsts if len(clock.firsts) == len(shared) else clock.firsts_by_leading
        offsets_s, firsts = (shared, firsts) if shared else (clock.offsets_s(), clock.firsts)
        if offsets_s:
            ticks = [round(offset_s / clock.tick_s) for offset_s in offsets_s]
            jumps.append((index, tuple(map(Jump, firsts, ticks))))
    return tuple(jumps)


class _Clock:
    """The stamps of one stream, from packet to packet.

    Args:
        stream: of the packets.
        ahead_s: a step of more seconds is a jump.
    """

    def __init__(self, stream: VideoStream | AudioStream, ahead_s: float) -> None:
        self.tick_s, self.ahead_s = float(stream.time_base or 1), ahead_s
        self.is_picture = isinstance(stream, VideoStream)
        self.firsts: list[int] = []
        """Numbers of the packets at which the clock jumped."""
        self.firsts_by_leading: list[int] = []
        """Numbers of the packets that came next when the clock of the leading stream jumped."""
        self._begins: list[int] = []  # lowest presentation time from there on, or from the start
        self._ends: list[int] = []  # highest end of a packet until the next jump
        self._num_packets = 0
        self._last: int | None = None

    def add(self, packet: Packet) -> bool:
        """Take a packet; returns whether the clock jumped there."""
        number = self._num_packets
        self._num_packets += 1
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None:
            return False
        step_s = 0.0 if self._last is None else (stamp - self._last) * self.tick_s
        joined = self.is_picture and packet.is_keyframe and step_s < 0
        jumped = joined or step_s < -_JUMP_BACK_S or step_s > self.ahead_s
        shown = stamp if packet.pts is None else packet.pts
        end = shown + (packet.duration or 0)
        if self._last is None or jumped:
            self._begins.append(shown)
            self._ends.append(end)
        if jumped:
            self.firsts.append(number)
        self._begins[-1] = min(self._begins[-1], shown)
        self._ends[-1] = max(self._ends[-1], end)
        self._last = stamp
        return jumped

    def note_jump_of_leading(self) -> None:
        """The clock of the leading stream has jumped: remember the place."""
        self.firsts_by_leading.append(self._num_packets)

    def offsets_s(self) -> list[float]:
        """What the packets after each jump are to be put off by, so that they follow what came before."""
        steps = [end - begin for end, begin in zip(self._ends, self._begins[1:], strict=False)]
        return [ticks * self.tick_s for ticks in accumulate(steps)]


@lru_cache(_REMEMBERED)
def stamps_are_shuffled(path: Path, num_bytes: int, mtime_ns: int, limits: Limits, index: int) -> bool:
    """Whether the first frames of a picture come out of the decoder in another order than that of their stamps.

    Stamps of decoding ascend from packet to packet, which those of showing do not where frames are reordered: so most
    files need not be decoded to be told apart.
    """
    with translated(path), open_container(path, limits, float("inf")) as container:
        stream = next(stream for stream in container.streams.video if stream.index == index)
        context = stream.codec_context
        context.thread_count = 1
        packets = [packet for packet in islice(container.demux(stream), _CHECKED_FRAMES) if packet.size]
        stamps = [packet.pts for packet in packets if packet.pts is not None]
        if not context.has_b_frames or stamps != sorted(stamps):
            return False
        frames = [frame.pts for packet in (*packets, None) for frame in context.decode(packet)]
        shown = [stamp for stamp in frames if stamp is not None]
        return shown != sorted(shown)


def is_shuffled(file: File) -> bool:
    """stamps_are_shuffled of an open file's picture, looked at once a process."""
    return stamps_are_shuffled(*_identity(file.path), file.limits, file.video.index)


def _is_described(container: InputContainer, picture: VideoStream | None, sounds: Sequence[AudioStream]) -> bool:
    """Whether the header has told when the streams begin and what they are."""
    streams = [*([] if picture is None else [picture]), *sounds]
    return (
        "mov" in container.format.name
        and len(sounds) <= 1
        and len(streams) == len(container.streams.video) + len(container.streams.audio)
        and all(stream.codec_context is not None for stream in streams)
        and all(stream.start_time is not None and stream.duration for stream in streams)
        and (picture is None or picture.codec_context.width * picture.codec_context.height > 0)
        # Few bits a pixel mean a palette, which only the packets tell.
        and (picture is None or picture.codec_context.bits_per_coded_sample not in range(1, 17))
        and all(s.codec_context.sample_rate * s.codec_context.layout.nb_channels > 0 for s in sounds)
    )
