"""Single pictures: cut, resized, and as JPEG files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """Encode (h, w, 3) uint8 as a JPEG file with a quality of 1 to 100, colour at half the resolution."""
    file = BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return file.getvalue()


def decode_jpegs(files: Sequence[bytes | memoryview], *, size: int = 0, offset: float | None = None) -> np.ndarray:
    """Decode JPEG files of one size.

    FFmpeg's decoder takes less time than libjpeg's (docs/prepared.md).

    Args:
        files: one or more.
        size: pixels to which the short side is resized; 0: as it is.
        offset: cut squares at this place of the long side, as crop_square does; None: whole frames.

    Returns:
        (T, h, w, 3) uint8.

    Raises:
        ValueError: one of them is no JPEG, is damaged, or has another size than the first.
    """
    context = VideoCodecContext.create("mjpeg", "r")
    context.thread_count = 1
    context.options = {"err_detect": "explode"}  # else half a file is half a picture
    pictures = Pictures(len(files), size, offset)
    tables = _standard_tables()
    at = 0
    for file in files:
        if tables and file[at : at + len(tables)] != tables:  # mostly they lie where they lay in the file before
            at = bytes(file[:1024]).find(tables)
            tables = tables if at >= 0 else b""  # others stay with the decoder until they are replaced
        # The decoder has these tables from the start; to build them anew takes a sixth of its time.
        content = b"".join((file[:at], file[at + len(tables) :])) if tables else bytes(file)
        frames = context.decode(Packet(content)) if content else []
        if len(frames) != 1:
            raise ValueError(f"expected one picture in a JPEG file of {len(file)} bytes, found {len(frames)}")
        pictures.add(frames[0])
    if not files:
        raise ValueError("expected JPEG files, got none")
    return pictures.take(range(len(files)))


@cache
def _standard_tables() -> bytes:
    """The Huffman tables of encode_jpeg, which are those of annex K of the JPEG standard, as they lie in a file."""
    file = encode_jpeg(np.zeros((16, 16, 3), np.uint8), 90)
    return file[file.index(b"\xff\xc4") : file.index(b"\xff\xda")]


@dataclass(frozen=True)
class Shape:
    """How a picture is shown, before it is turned."""

    stored: tuple[int, int]
    """Width and height of the pictures with which its file begins.  Those of another size are made to cover the same
    shape, and what reaches over its edges is cut, so that all pictures of a file have one shape."""
    ratio: float
    """Width over height of one pixel of those; 1: squares."""
    own_ratio: float
    """The same for the picture itself."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height at which the pictures of the file are shown: the height stays, the width is stretched."""
        return stretched(*self.stored, self.ratio)


def stretched(width: int, height: int, ratio: float) -> tuple[int, int]:
    """Width and height of a picture with square pixels, from those of one with pixels of a ratio of 1/8 to 8."""
    return (max(1, round(width * ratio)), height) if 1 / 8 <= ratio <= 8 else (width, height)


def quarter_turns(frame: VideoFrame) -> int:
    """Quarters of a circle by which a frame is turned counter-clockwise to be upright: 0 to 3."""
    return round(frame.rotation / 90) % 4


@dataclass(frozen=True)
class _Plan:
    """What happens to a picture of one size: it is resized, and the result is cut from its middle."""

    result: tuple[int, int]
    resized: tuple[int, int]


class Resize:
    """Frame -> (h, w, 3) uint8 RGB, upright, the short side resized inside swscale; with an offset, a square of it.

    A short side of 0 leaves the size as it is.  Rows may have gaps between them: what keeps the size is not copied.

    Args:
        short_side: pixels.
        offset: where the square lies on the long side; None: whole pictures.
        shape: of a frame; by default each has its own, with square pixels.  Asked once for each size.
    """

    def __init__(
        self, short_side: int, offset: float | None = None, shape: Callable[[VideoFrame], Shape] | None = None
    ) -> None:
        self.short_side, self.offset, self.shape = short_side, offset, shape
        self.reformatter = VideoReformatter()
        self._plans: dict[tuple[int, int], _Plan] = {}

    def __call__(self, frame: VideoFrame, out: np.ndarray | None = None) -> np.ndarray:
        """Resize a frame, into `out` where one is given."""
        plan, turns = self._plan_for(frame), quarter_turns(frame)
        if plan.resized == (frame.width, frame.height):
            # Without resizing, the way into planes is slower and leaves the last columns of some widths unwritten.
            resized = self.reformatter.reformat(frame, format="rgb24", threads=1)
            rgb = self._picture(resized.planes[0], plan, turns, 3)
            if out is None:
                return rgb
            out[...] = rgb
            return out
        # Into planes, on one thread, swscale takes a quarter of the time that it takes into rgb24, to the same bits.
        resized = self.reformatter.reformat(frame, *plan.resized, "gbrp", interpolation=Interpolation.AREA, threads=1)
        for channel, plane in zip((1, 2, 0), resized.planes, strict=True):
            values = self._picture(plane, plan, turns)
            out = np.empty((*values.shape, 3), np.uint8) if out is None else out
            out[..., channel] = values
        assert out is not None
        return out

    def shape_of(self, frame: VideoFrame) -> tuple[int, int, int]:
        """Shape of what a frame is resized to."""
        width, height = self._plan_for(frame).result
        if self.offset is not None:
            width = height = min(width, height)
        return (width, height, 3) if quarter_turns(frame) % 2 else (height, width, 3)

    def _plan_for(self, frame: VideoFrame) -> "_Plan":
        stored = frame.width, frame.height
        if stored not in self._plans:
            shape = Shape(stored, 1.0, 1.0) if self.shape is None else self.shape(frame)
            self._plans[stored] = self._make_plan(stored, shape)
        return self._plans[stored]

    def _make_plan(self, stored: tuple[int, int], shape: Shape) -> "_Plan":
        width, height = shape.size
        if self.short_side:
            scale = self.short_side / min(width, height)
            width, height = (max(self.short_side, round(side * scale)) for side in (width, height))
        if stored == shape.stored:
            return _Plan((width, height), (width, height))
        own = stretched(*stored, shape.own_ratio)
        cover = max(width / own[0], height / own[1])
        return _Plan((width, height), (max(width, round(own[0] * cover)), max(height, round(own[1] * cover))))

    def _picture(self, plane: VideoPlane, plan: "_Plan", quarter_turns: int, num_channels: int = 0) -> np.ndarray:
        """What lies in a plane, (h, w) or (h, w, num_channels), cut, turned, and with an offset cut to a square."""
        height, width = plane.height, plane.width
        shape: tuple[int, ...] = (height, width, num_channels) if num_channels else (height, width)
        strides = (plane.line_size, num_channels, 1) if num_channels else (plane.line_size, 1)
        picture = np.ndarray(shape, np.uint8, plane, 0, strides)  # type: ignore[arg-type]
        if plan.result != plan.resized:
            left, top = ((whole - part) // 2 for whole, part in zip(plan.resized, plan.result, strict=True))
            picture = picture[top : top + plan.result[1], left : left + plan.result[0]]
        if quarter_turns:
            picture = np.rot90(picture, quarter_turns)
        if self.offset is None or picture.shape[0] == picture.shape[1]:
            return picture
        return picture[_square(picture.shape[0], picture.shape[1], self.offset)]


class Pictures:
    """Frames of one size, resized as they come into one array.

    Args:
        count: how many may come.
        short_side, offset, shape: see Resize.
    """

    def __init__(
        self,
        count: int,
        short_side: int,
        offset: float | None = None,
        shape: Callable[[VideoFrame], Shape] | None = None,
    ) -> None:
        self.count, self.added, self.resize = count, 0, Resize(short_side, offset, shape)
        self.array: np.ndarray | None = None

    def add(self, frame: VideoFrame) -> int:
        """Resize a frame; returns its index.

        Raises:
            ValueError: it has another shape than the first.
        """
        if self.array is None:
            self.array = np.empty((self.count, *self.resize.shape_of(frame)), np.uint8)
        self.resize(frame, self.array[self.added])
        self.added += 1
        return self.added - 1

    def take(self, chosen: Sequence[int]) -> np.ndarray:
        """(len(chosen), h, w, 3) uint8 of the frames with these indices; not copied if it is all of them in order."""
        assert self.array is not None
        chosen = list(chosen)
        return self.array if chosen == list(range(self.count)) else self.array[chosen]


def crop_square(frames: np.ndarray, offset: float) -> np.ndarray:
    """Cut a square as large as the short side from (..., h, w, C), at `offset` in [0, 1] along the long side."""
    rows, columns = _square(frames.shape[-3], frames.shape[-2], offset)
    return frames[..., rows, columns, :]


def _square(height: int, width: int, offset: float) -> tuple[slice, slice]:
    """Rows and columns of a square as large as the short side."""
    side = min(height, width)
    top, left = round((height - side) * offset), round((width - side) * offset)
    return slice(top, top + side), slice(left, left + side)
