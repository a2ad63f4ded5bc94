"""Where and when the evidence for a clip's cluster lies."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EvidenceMap:
    """Evidence over the positions of a recording."""

    levels: np.ndarray
    """uint8, 255 at the clip's most, 0 where the model did not look or listen.  video: (4, h, w) over the whole frame;
    audio: (bands, columns) over the whole recording, the lowest band first."""
    peak: float
    """The score that 255 stands for: the window's, if all positions were like this one."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for one cluster in one clip."""

    id: str
    cluster: int
    start_s: float
    """Start of the clip within its file: 0, as a clip here is a whole recording."""
    times_s: np.ndarray
    """(4,) when the pictures are shown: (i + 0.5) / 4 of the recording."""
    maps: Mapping[str, EvidenceMap]
    """One for each modality that the clip has and whose evidence can be shown."""

    def levels(self, modality: str) -> np.ndarray | None:
        """The levels of one modality's map; None where the clip has none."""
        return self.maps[modality].levels if modality in self.maps else None
