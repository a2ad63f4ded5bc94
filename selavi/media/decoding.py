"""Frames and sound of media files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from selavi.filesystem import PASSING
from selavi.media.files import DEADLINE_S, LIMITS, File, Limits, MediaError, translated
from selavi.media.frames import frames_between, pictures_at, shape_of
from selavi.media.pictures import Resize, crop_square
from selavi.media.sound import MIXED, cut_waveform, read_sound
from selavi.media.stills import is_still, read_still
from selavi.media.streams import MAIN, open_file


@dataclass(frozen=True)
class Recording:
    """A whole file, decoded."""

    frames: np.ndarray
    """(T, h, w, 3) uint8, the short side resized; T = 0 without a picture."""
    times_s: np.ndarray
    """(T,) float64, ascending, from the start of the picture."""
    waveform: np.ndarray
    """(S,) int16, mono, from the start of the picture; S = 0 without sound."""
    audio_fault: str | None = None
    """Why there is no sound though the file has one: it cannot be decoded."""


class SoundError(MediaError):
    """The sound of a clip cannot be decoded; its picture can.

    Attributes:
        frames: the clip's pictures, as decode_clip returns them.
    """

    def __init__(self, path: Path, reason: str, detail: str, frames: np.ndarray | None) -> None:
        super().__init__(path, reason, detail)
        self.frames = frames

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return SoundError, (self.path, self.reason, self.detail, self.frames)


def decode_clip(
    path: Path,
    start_s: float,
    clip_s: float,
    *,
    num_frames: int,
    size: int,
    offset: float,
    sample_rate: int,
    channel: int = MIXED,
    stream: int = MAIN,
    deadline_s: float = DEADLINE_S,
    limits: Limits = LIMITS,
) -> tuple[np.ndarray | None, np.ndarray | None]:
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
        channel: of the sound, from 0; MIXED for all of them.
        stream: of the pictures, from 0, covers left out; MAIN for the one that a player shows.
        deadline_s: seconds of processor time that this may take.  Checked between packets: a call into the libraries
            that never returns is not ended.
        limits: what the file may claim to hold.

    Returns:
        Frames (num_frames, size, size, 3) uint8, None where the file has no such stream; and the waveform
        (round(clip_s * sample_rate),) int16, None where the file has no such sound in the window.

    Raises:
        SoundError: the frames were decoded, and the sound cannot be.
        MediaError: the frames cannot be decoded, or the file cannot be read.
    """
    frames: np.ndarray | None = np.zeros((0, size, size, 3), np.uint8)
    waveform = None
    if is_still(path):
        picture = crop_square(read_still(path, size, limits, deadline_s), offset)
        return np.repeat(picture[None], num_frames, 0), None
    with open_file(path, limits, deadline_s, needs_picture=num_frames > 0, stream=stream, by_header=True) as file:
        if file.picture is None and num_frames:
            frames = None
        elif num_frames:
            with translated(path, "picture"):
                frames = pictures_at(file, frame_times(start_s, clip_s, num_frames), size, offset)
        if sample_rate:
            try:
                waveform = _window_of_sound(file, start_s, clip_s, sample_rate, channel)
            except MediaError as error:
                if not num_frames or error.reason in PASSING:
                    raise
                raise SoundError(path, error.reason, error.detail, frames) from error
    return frames, waveform


def _window_of_sound(file: File, start_s: float, clip_s: float, sample_rate: int, channel: int) -> np.ndarray | None:
    _require_sound(file)
    if file.audio is None:
        return None
    margin_s = 0.05  # for the resampler to settle
    with translated(file.path, "sound"):
        sound, first_s = read_sound(file, start_s - margin_s, start_s + clip_s + margin_s, sample_rate, channel)
    return cut_waveform(sound, start_s - first_s, clip_s, sample_rate)


def _require_sound(file: File) -> None:
    """Raise MediaError where the file has a sound that cannot be decoded, as far as its header tells."""
    if file.audio_fault is not None:
        raise file.audio_fault


def decode_recording(
    path: Path,
    *,
    size: int,
    sample_rate: int,
    start_s: float = 0.0,
    end_s: float = float("inf"),
    limits: Limits = LIMITS,
    deadline_s: float = float("inf"),
) -> Recording:
    """Decode a file or a span of it.

    Times count from start_s, so that of the first frame, which is on screen by then, may be below 0.

    Args:
        path: media file.
        size: the short side of the frames is resized to it; 0: none is decoded.
        sample_rate: of the sound; 0: it is not decoded.
        start_s: where the span begins.
        end_s: where it ends.
        limits: what the file may claim to hold.
        deadline_s: seconds of processor time that frames and sound may take each.

    Raises:
        MediaError: the frames cannot be decoded, or the file cannot be read; where no frames are asked for, or the
            file has none, also where the sound cannot be decoded, and where that may pass.
    """
    span: _Span = {"start_s": start_s, "end_s": end_s, "limits": limits, "deadline_s": deadline_s}
    times_s, frames, taken = [], [], 0
    try:
        for time_s, frame in stream_frames(path, size=size, **span) if size else ():
            times_s.append(time_s - start_s)
            frames.append(frame)
            taken += frame.size
            if taken > limits.recording_bytes:
                raise MediaError(path, "refused", f"over {limits.recording_bytes / 1e9:.1f} GB once decoded")
    except MediaError as error:
        if error.reason != "no_video" or not sample_rate:
            raise
    waveform, fault = np.zeros(0, np.int16), None
    try:
        waveform = decode_sound(path, sample_rate=sample_rate, **span) if sample_rate else waveform
    except MediaError as error:
        if not frames or error.reason in PASSING:
            raise
        fault = error.detail
    whole = np.stack(frames) if frames else np.zeros((0, 1, 1, 3), np.uint8)
    return Recording(whole, np.array(times_s), waveform, fault)


class _Span(TypedDict):
    """What of a file is decoded, and within which limits."""

    start_s: float
    end_s: float
    limits: Limits
    deadline_s: float


def stream_frames(
    path: Path,
    *,
    size: int,
    start_s: float = 0.0,
    end_s: float = float("inf"),
    limits: Limits = LIMITS,
    deadline_s: float = float("inf"),
) -> Iterator[tuple[float, np.ndarray]]:
    """Decode every frame that is on screen in [start_s, end_s) of a file, one at a time.

    Yields:
        Seconds from the start of the picture, ascending, and the frame, (h, w, 3) uint8 with the short side resized to
        `size`; all frames of one shape, also where the picture changes its size: see Shape.

    Raises:
        MediaError: the file cannot be read, or no frame of it can be decoded.
    """
    if is_still(path):
        yield 0.0, read_still(path, size, limits, deadline_s)
        return
    with open_file(path, limits, deadline_s, by_header=end_s < float("inf")) as file, translated(path, "picture"):
        to_rgb = Resize(size, shape=lambda frame: shape_of(file, frame))
        count = 0
        for time_s, frame in frames_between(file, start_s, end_s):
            yield time_s, to_rgb(frame)
            count += 1
        if not count:
            raise MediaError(path, "corrupt", "no frame can be decoded")


def decode_sound(
    path: Path,
    *,
    sample_rate: int,
    start_s: float = 0.0,
    end_s: float = float("inf"),
    limits: Limits = LIMITS,
    deadline_s: float = float("inf"),
) -> np.ndarray:
    """Decode the sound of a file in [start_s, end_s): (S,) int16, mono, from start_s on; S = 0 without sound.

    Raises:
        MediaError: the file cannot be read, or the sound that it has cannot be decoded.
    """
    if is_still(path):
        return np.zeros(0, np.int16)
    with open_file(path, limits, deadline_s, needs_picture=False, by_header=end_s < float("inf")) as file:
        _require_sound(file)
        if file.audio is None:
            return np.zeros(0, np.int16)
        if end_s < float("inf"):
            span = _window_of_sound(file, start_s, end_s - start_s, sample_rate, MIXED)
            return np.zeros(0, np.int16) if span is None else span
        with translated(path, "sound"):
            sound, first_s = read_sound(file, 0.0, float("inf"), sample_rate)
        skip = round(first_s * sample_rate)
        whole = np.concatenate([np.zeros(max(0, skip), np.int16), sound[max(0, -skip) :]]) if sound.size else sound
        return whole[round(start_s * sample_rate) :]


def decode_frames_at(path: Path, times_s: Sequence[float], short_side: int) -> np.ndarray:
    """Decode the frames shown at some ascending times (in seconds from the start of the picture).

    Returns:
        (len(times_s), h, w, 3) uint8 with the short side resized to `short_side`.

    Raises:
        MediaError: they cannot be decoded, or the file cannot be read.
    """
    if is_still(path):
        return np.repeat(read_still(path, short_side, LIMITS, DEADLINE_S)[None], len(times_s), 0)
    with open_file(path, LIMITS, DEADLINE_S, by_header=True) as file, translated(path, "picture"):
        return pictures_at(file, np.asarray(times_s, float), short_side)


def frame_times(start_s: float, clip_s: float, num_frames: int) -> np.ndarray:
    """Times at which the frames of a clip are shown: start + i * clip_s / num_frames."""
    return start_s + np.arange(num_frames) * (clip_s / num_frames)


def latest_frames(times_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """Index of the frame on screen at each wanted time: the last one that began by then, else the first."""
    return np.maximum(np.searchsorted(times_s, wanted_s + 1e-6, side="right") - 1, 0)
