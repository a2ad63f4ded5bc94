"""What every parser of boxes and masks returns, and how its file is read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from selavi.errors import UsageError
from selavi.scores.boxes import box_mask, clip_box, consensus

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2) as shares of width and height, in [0, 1]."""
MOST_BYTES = 500_000_000
"""Largest file that is read: the largest published one has some ten million."""
MOST_PIXELS = 100_000_000
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Annotation:
    """Where something lies in one picture of a clip.

    Attributes:
        name: of the clip or the picture, as its set names it.
        start_s: where the clip begins in its recording; None where the set does not say.
        time_s: moment of the picture in the clip; None where the set does not say.
        people: the boxes of each person who looked; () of one who saw nothing.
        needed: how many people make a pixel certain.
        label: of what lies there; None where the set does not say, or there are several.
        mask: file of a picture that is not black where something lies, in place of boxes.
    """

    name: str
    start_s: float | None = None
    time_s: float | None = None
    people: tuple[tuple[Box, ...], ...] = ()
    needed: int = 1
    label: str | None = None
    mask: Path | None = None

    def truth(self, height: int, width: int) -> np.ndarray:
        """(h, w) float64 in [0, 1]: how certain it is that something lies there.

        Raises:
            UsageError: the mask cannot be read.
        """
        if self.mask is not None:
            return read_mask(self.mask, height, width).astype(np.float64)
        masks = [box_mask(boxes, height, width) for boxes in self.people]
        return consensus(masks, self.needed) if masks else np.zeros((height, width))


@dataclass
class Annotations:
    """All annotations of a file or a folder.

    Attributes:
        rows: in its order.
        num_clipped: boxes that reached out of their picture, of which the part inside is kept.
        num_dropped: boxes of which nothing is inside, or that have no area.
    """

    rows: list[Annotation] = field(default_factory=list)
    num_clipped: int = 0
    num_dropped: int = 0

    def clip(self, boxes: Sequence[Sequence[float]]) -> tuple[Box, ...]:
        """The boxes as they lie in their picture, and count what is changed.

        Raises:
            ValueError: one has not four numbers.
        """
        kept = []
        for given in boxes:
            left, top, right, bottom = (float(edge) for edge in given)
            clipped = clip_box((left, top, right, bottom))
            if clipped is None:
                self.num_dropped += 1
                continue
            self.num_clipped += clipped != (left, top, right, bottom)
            kept.append(clipped)
        return tuple(kept)

    def add_picture(
        self, name: str, boxes: Sequence[Mapping[str, Any]], category: str, start_s: float | None = None
    ) -> None:
        """Add an annotation for each category of a picture's boxes, or one without boxes where it has none.

        Args:
            name: of the picture.
            boxes: each with `normbox`, (x, y, width, height) as shares.
            category: the key of a box's category.
            start_s: of the clip.
        """
        categories = sorted({box[category] for box in boxes})
        for one in categories or [None]:
            own = [from_corner(box["normbox"]) for box in boxes if box[category] == one]
            label = None if one is None else str(one)
            self.rows.append(Annotation(name, start_s, people=(self.clip(own),), label=label))

    def notes(self) -> list[str]:
        """What was changed, a sentence each."""
        counts = (
            (self.num_clipped, "boxes reach out of their picture and were clipped"),
            (self.num_dropped, "boxes have no area in their picture and were left out"),
        )
        return [f"{count} {what}" for count, what in counts if count]


@dataclass(frozen=True)
class AnnotationFormat:
    """One format of annotations.

    Attributes:
        title: what the user reads, such as "VGG-SS".
        example: one entry of it.
        place: whether it is a file or a folder.
        read: all of it; faults of its content become messages.
    """

    title: str
    example: str
    place: Literal["file", "folder"]
    read: Callable[[Path], Annotations]


@contextmanager
def as_published(path: Path, title: str, example: str) -> Iterator[None]:
    """What is missing in a file, or of another kind, becomes a message that names the file and shows an entry.

    Raises:
        UsageError: so it is.
    """
    try:
        yield
    except UsageError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{path} was read as annotations of {title}, but an entry is not of that kind ({error!r}); "
            f"an entry of one is: {example}"
        ) from error


def read_bytes(path: Path) -> bytes:
    """A file as it is.

    Raises:
        UsageError: it cannot be read, or is larger than any such file.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} has more than {MOST_BYTES:,} bytes, which no file of annotations has")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the annotations {path}: {error.strerror or error}") from error


def read_published_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        UsageError: as read_bytes, or it is no JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}; download it again") from error


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder, in the order of their paths.

    Raises:
        UsageError: there is no such folder, or none of these is in it.
    """
    try:
        files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    except OSError as error:
        raise UsageError(f"cannot list the annotations in {folder}: {error.strerror or error}") from error
    if not files:
        raise UsageError(f"{folder} holds no {pattern}; name the folder that does")
    return files


def from_corner(box: Sequence[float], width: float = 1.0, height: float = 1.0) -> Box:
    """(x, y, width, height) of a box in a picture of some size -> (x1, y1, x2, y2) as shares.

    Raises:
        ValueError: the box has not four numbers, or the picture has no size.
    """
    left, top, across, down = (float(edge) for edge in box)
    if width <= 0 or height <= 0:
        raise ValueError(f"a picture of {width} x {height}")
    return left / width, top / height, (left + across) / width, (top + down) / height


def read_mask(path: Path, height: int, width: int) -> np.ndarray:
    """(h, w) bool: where a picture is not black; the pixel at each place, without any mixing.

    Raises:
        UsageError: it cannot be read, or is too large.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise UsageError(f"the mask {path} has {picture.width} x {picture.height} pixels, which is too many")
            grey = np.asarray(picture.convert("L").resize((width, height), Image.Resampling.NEAREST))
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot read the mask {path}: {error}") from error
    return grey > 0
