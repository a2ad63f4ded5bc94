"""Facts, frames and sound of media files."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame

from selavi.media.files import DEADLINE_S, LIMITS, File, Limits, MediaError, open_file, seconds
from selavi.media.pictures import Pictures, Resize


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
_SKIPPABLE = {"h264", "mpeg4", "mpeg2video", "mpeg1video"}
"""Codecs whose frames that no other frame refers to can be left out without changing any other bit.  In HEVC such a
frame may still be referred to by a higher temporal layer."""
_TIMED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts"}
"""Containers whose packets carry right times from any place on.  Others are decoded from their start."""
_LOOK_AHEAD = 1000
"""Packets that may wait for what follows them; many more times than frames can be reordered."""


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
    with open_file(path, limits, deadline_s, needs_picture) as file:
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
            heard_s = max(0.0, seconds(file.audio, file.audio.start_time) - file.origin_s) + SILENCE_S
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
    with open_file(path, limits, deadline_s, needs_picture=num_frames > 0, by_header=True) as file:
        if num_frames:
            frames = _pictures(file, frame_times(start_s, clip_s, num_frames), size, offset)
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
    with open_file(path, limits, float("inf")) as file:
        to_rgb, shape = Resize(size), None
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
    with open_file(path, limits, float("inf")) as file:
        if file.audio is None:
            return np.zeros(0, np.int16)
        file.seek(file.audio, float("-inf"))
        sound, first_s = _sound(file, 0.0, float("inf"), sample_rate)
        skip = round(first_s * sample_rate)
        return np.concatenate([np.zeros(max(0, skip), np.int16), sound[max(0, -skip) :]]) if sound.size else sound


def decode_frames_at(path: Path, times_s: Sequence[float], short_side: int) -> np.ndarray:
    """Decode the frames shown at some ascending times (in seconds from the start of the picture).

    Returns:
        (len(times_s), h, w, 3) uint8 with the short side resized to `short_side`.

    Raises:
        MediaError: see there.
    """
    with open_file(path, LIMITS, DEADLINE_S, by_header=True) as file:
        return _pictures(file, np.asarray(times_s, float), short_side)


def frame_times(start_s: float, clip_s: float, num_frames: int) -> np.ndarray:
    """Times at which the frames of a clip are shown: start + i * clip_s / num_frames."""
    return start_s + np.arange(num_frames) * (clip_s / num_frames)


def latest_frames(times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Index of the frame on screen at each wanted time: the last one that began by then, else the first."""
    return np.maximum(np.searchsorted(times_s, wanted_s + 1e-6, side="right") - 1, 0)


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


def _lengths(file: File) -> dict[int, float]:
    """Seconds of each stream: what the container says, else until the end of the last packet."""
    both = [stream for stream in (file.picture, file.audio) if stream is not None]
    told = [stream for stream in both if stream.duration and file.container.format.name in _TIMED]
    lengths = {stream.index: seconds(stream, stream.duration) for stream in told}
    streams = [stream for stream in both if stream.index not in lengths]
    if not streams:
        return lengths
    ends: dict[int, float] = {}
    # Reading the last half minute is enough if every stream shows up in it.
    near_end = (file.container.start_time or 0) + (file.container.duration or 0) - 30 * av.time_base
    for place in (near_end, float("-inf")) if near_end > 0 else (float("-inf"),):
        file.seek(both[0], place / av.time_base - file.origin_s)
        file.read_only(*streams)
        for packet in file.container.demux(*streams):
            file.check()
            if packet.pts is not None:
                stream = next(stream for stream in streams if stream.index == packet.stream_index)
                end_s = seconds(stream, packet.pts + (packet.duration or 0) - (stream.start_time or 0))
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


def _pictures(file: File, wanted_s: np.ndarray, short_side: int, offset: float | None = None) -> np.ndarray:
    """What is on screen at ascending times, as latest_frames says; frames are resized as they come."""

    def pictures() -> Pictures:
        return Pictures(len(wanted_s), short_side, offset)

    # Some containers (.ts) land behind the time that was asked for.
    for earlier_s in (0.0, 12.0) if file.container.format.name in _TIMED else ():
        found = _pictures_by_packets(file, wanted_s, max(0.0, wanted_s[0] - earlier_s), pictures())
        if found is not None:
            return found
        if wanted_s[0] <= earlier_s:
            break
    return _pictures_by_frames(file, wanted_s, pictures())


def _pictures_by_packets(file: File, wanted_s: np.ndarray, from_s: float, pictures: Pictures) -> np.ndarray | None:
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
    index_of: dict[int, int] = {}  # of those that are wanted, by pts
    known = None  # every frame with a pts up to here has been read
    begun = ended = False
    first_pts = 0
    entered = not sought  # by an intra frame: streams with periodic refresh have entries that take time to recover

    def decode(packet: Packet | None) -> None:
        nonlocal entered
        for frame in context.decode(packet):
            entered = entered or (frame.pts == first_pts and frame.pict_type == PictureType.I)
            if frame.pts in wanted and frame.pts not in index_of and not frame.is_corrupt:
                index_of[frame.pts] = pictures.add(frame)

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
    if not entered or any(pts not in index_of for pts in wanted):
        return None
    chosen = [bisect_right(shown, bound) - 1 for bound in bounds]
    if min(chosen) < 0 or any(shown[at] not in index_of for at in chosen):
        return None
    return pictures.take([index_of[shown[at]] for at in chosen])


def _pictures_by_frames(file: File, wanted_s: np.ndarray, pictures: Pictures) -> np.ndarray:
    """Decode everything from the start of the file, and go by the times of the frames."""
    file.seek(file.video, float("-inf"))
    latest: VideoFrame | None = None
    index: int | None = None  # of the latest frame
    found: list[int] = []

    def take() -> None:
        nonlocal index
        if latest is None:
            raise MediaError(file.path, "corrupt", f"no frame at {wanted_s[0]:.3f} s")
        if latest.is_corrupt:
            raise MediaError(file.path, "corrupt", f"the frame at {wanted_s[len(found)]:.3f} s is damaged")
        index = pictures.add(latest) if index is None else index
        found.append(index)

    for time_s, frame in _timed_frames(file):
        while latest is not None and len(found) < len(wanted_s) and time_s > wanted_s[len(found)] + 1e-6:
            take()
        if len(found) == len(wanted_s):
            break
        latest, index = frame, None
    while len(found) < len(wanted_s):
        take()
    return pictures.take(found)


def _timed_frames(file: File) -> Iterator[tuple[float, VideoFrame]]:
    """Every frame from here to the end; a file may begin between two key frames, with what cannot be decoded."""
    begun = False
    for packet in chain(file.packets(file.video), [None]):
        begun = begun or packet is None or packet.is_keyframe
        for frame in file.video.codec_context.decode(packet) if begun else ():
            if frame.pts is not None:
                yield seconds(file.video, frame.pts) - file.origin_s, frame


def _sound(file: File, first_s: float, last_s: float, sample_rate: int) -> tuple[np.ndarray, float]:
    """Decode sound from the current position until last_s; return mono samples and the time of the first one.

    Samples lie where their time stamps say: gaps are filled with silence.  Half a minute is resampled at once: that
    takes a third of the time of doing so block by block, and no other memory for hours of it.
    """
    assert file.audio is not None
    stream, context = file.audio, file.audio.codec_context
    begin_s, length, kind = 0.0, 0, None
    dtype: np.dtype[Any] = np.dtype(np.int16)
    per_sample = 1
    pieces: list[list[np.ndarray]] = []
    num_pending = 0
    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
    resampled: list[np.ndarray] = []

    def append(values: list[np.ndarray], num_samples: int) -> None:
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
        values = np.stack([np.concatenate(plane) for plane in zip(*pieces, strict=True)])
        layout = kind[1]
        if kind[:2] == ("fltp", "stereo"):  # what the resampler would do, in a third of its time
            values, layout = values.mean(0, keepdims=True), "mono"
        whole = AudioFrame.from_ndarray(values, format=kind[0], layout=layout)
        whole.sample_rate = kind[2]
        resampled.extend(block.to_ndarray()[0] for block in resampler.resample(whole))
        pieces.clear()
        num_pending = 0

    def add(frame: AudioFrame) -> bool:
        """Whether more is wanted."""
        nonlocal begin_s, kind, dtype, per_sample
        num_samples, rate = frame.samples, frame.sample_rate
        if frame.pts is None or not num_samples:
            return True
        time_s = seconds(stream, frame.pts) - file.origin_s
        if time_s >= last_s:
            return False
        if time_s + num_samples / rate <= first_s:
            return True
        found = (frame.format.name, frame.layout.name, rate)
        if kind is None:
            begin_s, kind = time_s, found
            values = frame.to_ndarray()
            dtype, per_sample = values.dtype, values.shape[1] // num_samples
        elif kind != found:
            raise ValueError(f"the sound changes from {kind} in the middle")
        missing = round((time_s - begin_s) * rate) - length
        planes = frame.planes
        if missing > GAP_S * rate:
            if missing > LONGEST_GAP_S * rate:
                raise ValueError(f"{missing / rate:.0f} s are missing in the sound")
            zero = 128 if dtype == np.uint8 else 0
            append([np.full(missing * per_sample, zero, dtype)] * len(planes), missing)
        # The frames go, but what lies in their planes stays as long as these arrays.
        append([np.frombuffer(p, dtype, num_samples * per_sample) for p in planes], num_samples)  # type: ignore[call-overload]
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
GAP_S = 0.02
"""Time stamps are often rounded to milliseconds: what is shorter is no gap."""
LONGEST_GAP_S = 3600.0
