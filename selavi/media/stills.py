"""Still pictures: each is a recording of one frame, shown at time 0, that lasts 0 seconds.

So whatever reads, keeps or shows recordings has pictures too.  A GIF is a recording by itself, and as a picture what it
shows at time 0.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from selavi.filesystem import look
from selavi.media.files import Deadline, Limits, MediaError

STILL_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""Suffixes of the files that are read here."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What they may hold, whatever their suffix: none of these starts another program or names another file."""
GROUND = (128, 128, 128)
"""What is seen through transparent places: black and white marks stand out from it alike."""
LONGEST = 8
"""Long side over short side; what a longer picture has beyond it is cut off, as much at both ends."""
_COLOURS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
_DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
"""Kinds of colours, and of levels of more than 8 bits, that are read; there are others, such as LAB."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""
_ORIENTATION = 0x0112
_DAMAGED = (SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, struct.error, zlib.error)
"""What the library raises of damaged files, beside OSError; SyntaxError is its word for a wrong PNG."""


def is_still(path: Path) -> bool:
    """Whether a file is a still picture, by its suffix."""
    return path.suffix.lower() in STILL_SUFFIXES


def size_of_still(path: Path, limits: Limits, deadline_s: float) -> tuple[int, int]:
    """Width and height of a picture, upright; all of it is decoded, but as small as its format allows.

    Raises:
        MediaError: as read_still.
    """
    deadline = Deadline(deadline_s)
    with _opened(path, limits) as image:
        width, height = image.size
        image.draft("RGB", (1, 1))
        image.load()
        _as_levels(path, image)
        is_turned = _orientation(image) >= 5
    deadline.check(path)
    return (height, width) if is_turned else (width, height)


def read_still(path: Path, short_side: int, limits: Limits, deadline_s: float) -> np.ndarray:
    """A picture, upright, on a neutral ground where it is transparent, the short side resized.

    Args:
        path: of the file.
        short_side: pixels.
        limits: what the file may claim to hold.
        deadline_s: seconds of processor time that this may take; checked afterwards.

    Returns:
        (h, w, 3) uint8.

    Raises:
        MediaError: the file cannot be read, is no picture or damaged, is over a limit, holds numbers that are no
            colours, or took longer than `deadline_s`.
    """
    deadline = Deadline(deadline_s)
    with _opened(path, limits) as image:
        # JPEG is decoded at 1/2, 1/4 or 1/8 in a fraction of the time; twice the size is kept for the filter below.
        image.draft("RGB", (2 * short_side, 2 * short_side))
        image.load()
        picture = _resized(_in_colours(_as_levels(path, image)), short_side)
        orientation = _orientation(image)
        if orientation in _UPRIGHT:
            picture = picture.transpose(_UPRIGHT[orientation])
    deadline.check(path)
    return np.array(picture)


def format_of_still(path: Path, limits: Limits) -> str:
    """The format of a picture by its header, such as PNG; nothing of it is decoded.

    Raises:
        MediaError: it has no header that is read here.
    """
    with _opened(path, limits) as image:
        return image.format or ""


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[Image.Image]:
    """Read the header of a picture and refuse what it should not be; faults of the library become MediaErrors."""
    place = look(path)
    if place.status:
        raise MediaError(path, place.status, place.reason)
    if place.kind != "file":
        raise MediaError(path, "refused", "not a regular file")
    if not place.bytes:
        raise MediaError(path, "empty", "0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which have their limit here, and of odd metadata
            with Image.open(path, formats=_FORMATS) as image:
                _require_sound_header(path, image, limits)
                yield image
    except Image.DecompressionBombError as error:
        raise MediaError(path, "refused", f"over the limit of {limits.picture_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise MediaError(path, "not_media", "no picture of a format that is read here") from error
    except MemoryError as error:
        raise MediaError(path, "unreadable", "it takes more memory than there is") from error
    except (OSError, *_DAMAGED) as error:
        place = look(path)
        if place.status:
            raise MediaError(path, place.status, place.reason) from error
        raise MediaError(path, "corrupt", f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _require_sound_header(path: Path, image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.picture_pixels:
        raise MediaError(path, "refused", f"{width} x {height} pixels, the limit is {limits.picture_pixels:,} in all")
    if image.mode not in _COLOURS | _DEEP:
        raise MediaError(path, "refused", f"colours of kind {image.mode} are not read: save it as RGB")


def _orientation(image: Image.Image) -> int:
    """By EXIF, 1 to 8; 1, as it lies, where none is given or EXIF is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, *_DAMAGED):
        return 1


def _as_levels(path: Path, image: Image.Image) -> Image.Image:
    """A picture of more than 8 bits with 8, scaled, where the library would cut; any other as it is.

    Raises:
        MediaError: its numbers have no known range.
    """
    if image.mode not in _DEEP:
        return image
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    most = 1 if image.mode == "F" else 65535
    if not (lowest >= 0 and highest <= most):
        numbers = f"numbers from {lowest:g} to {highest:g} where 0 to {most} was expected"
        raise MediaError(path, "refused", f"{numbers}: save it with 8 or 16 bits a colour")
    levels = np.rint(values * 255.0) if image.mode == "F" else values.astype(np.int32) >> 8
    return Image.fromarray(levels.astype(np.uint8))


def _in_colours(image: Image.Image) -> Image.Image:
    """A picture of any kind as RGB, on GROUND where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, (*GROUND, 255))
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def _resized(picture: Image.Image, short_side: int) -> Image.Image:
    """With the short side resized, and the long side at most LONGEST times as long."""
    width, height = picture.size
    most = LONGEST * min(width, height)
    kept = min(width, most), min(height, most)
    left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
    scale = short_side / min(width, height)
    size = max(short_side, round(kept[0] * scale)), max(short_side, round(kept[1] * scale))
    if size == picture.size:
        return picture
    box = (left, top, left + kept[0], top + kept[1])
    return picture.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=3.0)
