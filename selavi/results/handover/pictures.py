"""Pictures of recordings as JPEG files, for tools that draw boxes.  Runs in worker processes: imports little."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selavi.atomic import write_atomically
from selavi.media import MediaError, decode_frames_at, encode_jpeg, is_still

QUALITY = 90


@dataclass(frozen=True)
class PictureJob:
    """Pictures of one clip to write."""

    source: Path
    row: int
    """Number of the clip, for readers that have no file."""
    start_s: float
    """Where the clip begins in its recording."""
    times_s: tuple[float, ...]
    """Ascending moments of the clip."""
    short_side: int
    """Pixels of the shorter side."""
    targets: tuple[Path, ...]
    """A file for each moment."""


PictureReader = Callable[[PictureJob], Sequence[np.ndarray]]
"""Gives the pictures, (h, w, 3) uint8 each, at a job's moments."""
PictureSize = tuple[int, int]
"""Width and height, in pixels."""


def write_pictures(job: PictureJob, read: PictureReader) -> list[PictureSize]:
    """Write the pictures of a clip; returns their sizes as they are written.

    Raises:
        MediaError: the recording cannot be decoded.
    """
    try:
        pictures = read(job)
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # whatever a hostile file makes of a library: one clip left out, not the end of it all
        raise MediaError(job.source, "corrupt", f"{type(error).__name__}: {error}") from error
    for target, picture in zip(job.targets, pictures, strict=True):
        with write_atomically(target) as temporary:
            temporary.write_bytes(encode_jpeg(picture, QUALITY))
    return [(picture.shape[1], picture.shape[0]) for picture in pictures]


def read_pictures(job: PictureJob) -> Sequence[np.ndarray]:
    """Decode the pictures from a media file.

    Raises:
        MediaError: they cannot be decoded.
    """
    if is_still(job.source):
        return [*decode_frames_at(job.source, [0.0], job.short_side)] * len(job.times_s)
    # One seek a picture: a single call would decode all that lies between the first and the last.
    return [decode_frames_at(job.source, [job.start_s + time_s], job.short_side)[0] for time_s in job.times_s]
