"""Where and when the evidence for a clip's cluster lies."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evidence:
    """The evidence for one cluster in one clip."""

    id: str
    cluster: int
    start_s: float
    """Start of the clip within its file: 0, as a clip here is a whole recording."""
    times_s: np.ndarray
    """(4,) when the pictures are shown: (i + 0.5) / 4 of the recording."""
    video: np.ndarray | None
    """(4, h, w) uint8 over the whole frame, 255 at the clip's most; 0 outside the square that the model sees."""
    audio: np.ndarray | None
    """(bands, columns) uint8 over the whole recording, the lowest band first, 255 at the clip's most; 0 where the
    model did not listen."""
    video_peak: float | None
    """The score that 255 stands for: the window's, if all positions were like this one."""
    audio_peak: float | None
