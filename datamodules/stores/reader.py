"""What every store has in common: a window of a recording is read by the row of a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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
