"""What a media file holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av

from selavi.filesystem import PASSING
from selavi.media.files import DEADLINE_S, INDEXED, LIMITS, UNTIMED, File, Limits, MediaError, seconds, translated
from selavi.media.frames import shape_of, timed_frames
from selavi.media.pictures import quarter_turns
from selavi.media.sound import SILENCE, SILENCE_S, loudest, read_sound
from selavi.media.stills import is_still, size_of_still
from selavi.media.streams import is_shuffled, open_file

Timing = Literal["stamps", "counted", "bridged", "still"]
"""Where the times of frames come from: the file's stamps; the order of decoding and the rate of the container, where
the stamps are missing or those of decoding; or stamps of which the jumps were taken out.  A still picture has none."""


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds, as far as the tools need it."""

    duration_s: float
    """Seconds of the picture; of the sound where there is no picture."""
    fps: float
    width: int
    """As shown: upright, with square pixels.  0 where there is no picture, and so are height and fps."""
    height: int
    audio_state: str
    """ok, silent (nothing above SILENCE in the first SILENCE_S seconds of sound), absent, or broken: there is sound,
    but it cannot be decoded."""
    audio_s: float
    """Seconds of sound, 0 where there is none that can be decoded."""
    audio_reason: str | None
    """Why the sound is broken."""
    timing: Timing


def probe(
    path: Path, limits: Limits = LIMITS, *, deadline_s: float = DEADLINE_S, needs_picture: bool = True
) -> MediaInfo:
    """Open a file, decode its first frame and the first SILENCE_S seconds of its sound.

    A sound that cannot be decoded is a fact about the sound; the picture counts all the same.

    Args:
        path: media file.
        limits: what the file may claim to hold.
        deadline_s: seconds of processor time that this may take.
        needs_picture: False: a file with sound alone will do.

    Raises:
        MediaError: the file cannot be read, is over a limit, has no picture, is cut off, nothing of it can be decoded,
            or that took longer than `deadline_s`.
    """
    if is_still(path):
        return _still(*size_of_still(path, limits, deadline_s))
    with open_file(path, limits, deadline_s, needs_picture) as file:
        width = height = 0
        timing: Timing = "stamps"
        if file.picture is not None:
            with translated(path, "picture"):
                width, height = _first_shape(file)
                timing = _timing(file)
        state, reason = _sound_state(file)
        audible = state in ("ok", "silent")
        if file.picture is None and not audible:
            raise MediaError(path, "corrupt" if reason else "no_video", reason or "no picture, and no sound")
        lengths_s, fps = _lengths(file, audible)
        audio_s = lengths_s[file.audio.index] if audible and file.audio is not None else 0.0
        duration_s = audio_s if file.picture is None else lengths_s[file.picture.index]
        if duration_s > limits.duration_s:
            raise MediaError(path, "refused", f"{duration_s:.0f} s, the limit is {limits.duration_s:.0f} s")
        if "mov" in file.format:
            _require_whole(path)
    return MediaInfo(duration_s, fps, width, height, state, audio_s, reason, timing)


def probe_picture(path: Path, limits: Limits = LIMITS, *, deadline_s: float = DEADLINE_S) -> MediaInfo:
    """As probe, of a file that is meant as a still picture: of a GIF what it shows at time 0.

    Raises:
        MediaError: as probe.
    """
    info = probe(path, limits, deadline_s=deadline_s)
    return _still(info.width, info.height)


def _still(width: int, height: int) -> MediaInfo:
    return MediaInfo(0.0, 0.0, width, height, "absent", 0.0, None, "still")


def _first_shape(file: File) -> tuple[int, int]:
    """Width and height at which the picture is shown, upright; decodes its first frame."""
    first = next(timed_frames(file), None)
    if first is None:
        raise MediaError(file.path, "corrupt", "no frame can be decoded")
    width, height = shape_of(file, first[1]).size
    return (height, width) if quarter_turns(first[1]) % 2 else (width, height)


def _timing(file: File) -> Timing:
    if file.jumps:
        return "bridged"
    return "counted" if file.format in UNTIMED or is_shuffled(file) else "stamps"


def _sound_state(file: File) -> tuple[str, str | None]:
    """The state of the sound, and why it is broken if it is; decodes its beginning."""
    if file.audio is None:
        return ("absent", None) if file.audio_fault is None else ("broken", file.audio_fault.detail)
    try:
        with translated(file.path, "sound"):
            heard_s = max(0.0, seconds(file.audio, file.audio.start_time) - file.origin_s) + SILENCE_S
            waveform, _ = read_sound(file, float("-inf"), heard_s, 8000)
    except MediaError as error:
        if error.reason in PASSING:
            raise
        return "broken", error.detail
    if waveform.size == 0:
        return "absent", None
    return ("ok" if loudest(waveform) > SILENCE else "silent"), None


def _lengths(file: File, audible: bool) -> tuple[dict[int, float], float]:
    """Seconds of each stream, and frames a second: what the container says, or what its packets do.

    A container that says how long its streams are is believed; else the ends of the last packets count, for which the
    last half minute is enough where the container can be searched.  The rate of one that has no index is a guess, made
    from its first frames: all of it is counted.
    """
    streams = [stream for stream in (file.picture, file.audio if audible else None) if stream is not None]
    measured = file.format not in INDEXED | {"avi", "mpegts"} or bool(file.jumps)
    lengths_s = {}
    if not measured and file.format != "avi":  # of which the header keeps its word when the rest is cut off
        lengths_s = {s.index: seconds(s, s.duration) for s in streams if s.duration}
    missing = [stream.index for stream in streams if stream.index not in lengths_s]
    fps = 0.0 if file.picture is None else float(file.picture.average_rate or file.picture.guessed_rate or 0)
    if not missing:
        return lengths_s, fps
    near_end = (file.container.start_time or 0) + (file.container.duration or 0) - 30 * av.time_base
    places = [float("-inf")] if measured or near_end <= 0 else [near_end / av.time_base - file.origin_s, float("-inf")]
    for place_s in places:
        spans = _read_spans(file, missing, place_s)
        if len(spans) == len(missing):
            break
    if measured and file.picture is not None and file.picture.index in spans:
        fps = spans[file.picture.index].rate() or fps
    lengths_s |= {index: spans[index].end_s if index in spans else 0.0 for index in missing}
    return lengths_s, fps


@dataclass
class _Span:
    """The packets of a stream, in seconds from its start."""

    num_packets: int = 0
    first_s: float = float("inf")
    last_s: float = float("-inf")
    end_s: float = 0.0
    last_has_end: bool = True

    def add(self, time_s: float, length_s: float) -> None:
        self.num_packets += 1
        self.first_s = min(self.first_s, time_s)
        if time_s > self.last_s:
            self.last_s, self.last_has_end = time_s, length_s > 0
        self.end_s = max(self.end_s, time_s + length_s)

    def rate(self) -> float:
        """Packets a second; 0.0 for one alone."""
        return (self.num_packets - 1) / (self.last_s - self.first_s) if self.last_s > self.first_s else 0.0


def _read_spans(file: File, indices: list[int], from_s: float) -> dict[int, _Span]:
    """Read the packets of some streams from a time to the end; streams without one there are left out."""
    leading = file.picture or file.audio
    assert leading is not None
    file.seek(leading, from_s)
    streams = [stream for stream in (file.picture, file.audio) if stream is not None and stream.index in indices]
    by_index = {stream.index: stream for stream in streams}
    spans: dict[int, _Span] = {}
    for packet in file.packets(*streams):
        stream = by_index[packet.stream_index]
        if packet.pts is not None:
            time_s = seconds(stream, packet.pts - (stream.start_time or 0))
            spans.setdefault(stream.index, _Span()).add(time_s, seconds(stream, packet.duration or 0))
    for span in spans.values():
        if not span.last_has_end and span.rate():  # a frame without a duration lasts as long as the others
            span.end_s = max(span.end_s, span.last_s + 1 / span.rate())
    return spans


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
