"""What every store has in common: a window of a recording is read by the row of a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from selavi.media import Recording, crop_square, cut_waveform, frame_times, latest_frames
from selavi.modalities import Request, Streams, Window


class ClipReader(Protocol):
    """Where clips come from: files, recordings decoded ahead, or shards.  Addressed by the rows of one table."""

    def read(self, row: int, window: Window, request: Request) -> Streams:
        """Read what is asked for of a window of the recording in a row.

        Raises:
            SoundError: its sound cannot be decoded; the exception holds the frames.
            MediaError: the recording cannot be read.
        """
        ...


@dataclass(frozen=True)
class Facts:
    """What can be read of a recording."""

    duration_s: float
    """Windows lie in [0, duration_s)."""
    columns: Mapping[str, Any]
    """What the manifest says of it, as far as modalities ask for it (`Modality.columns`)."""


class ProbingReader(ClipReader, Protocol):
    """A ClipReader of recordings that need not have been probed before."""

    def facts(self, row: int) -> Facts:
        """Probe the recording in a row.

        Raises:
            MediaError: it cannot be read, or nothing of it can be used.
        """
        ...


def cut_window(recording: Recording, start_s: float, window: Window, request: Request) -> Streams:
    """What is asked for of a window, out of what is decoded already.

    Args:
        recording: its frames have the size, and its sound the rate, that is asked for.
        start_s: where the window begins in it; its own begin is not read.
        window: its length, and where the square lies.
        request: what is asked for.
    """
    frames, waveform = None, None
    if request.num_frames and len(recording.frames):
        used = latest_frames(recording.times_s, frame_times(start_s, window.clip_s, request.num_frames))
        frames = np.ascontiguousarray(crop_square(recording.frames[used], window.offset))
    if request.sample_rate:
        waveform = cut_waveform(recording.waveform, start_s, window.clip_s, request.sample_rate)
    return Streams(frames, waveform)
