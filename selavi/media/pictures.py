"""Single pictures: cut, resized, and as JPEG files."""

from collections.abc import Sequence
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

    FFmpeg's decoder takes three quarters of the time of libjpeg's (benchmarks/prepared.py).

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


class Resize:
    """Frame -> (h, w, 3) uint8 RGB, upright, the short side resized inside swscale; with an offset, a square of it.

    A short side of 0 leaves the size as it is.  Rows may have gaps between them: what keeps the size is not copied.
    """

    def __init__(self, short_side: int, offset: float | None = None) -> None:
        self.short_side, self.offset, self.reformatter = short_side, offset, VideoReformatter()
        self.sizes: dict[tuple[int, int], tuple[int, int]] = {}

    def __call__(self, frame: VideoFrame, out: np.ndarray | None = None) -> np.ndarray:
        """Resize a frame, into `out` where one is given."""
        size, turns = (frame.width, frame.height), frame.rotation // 90
        wanted = self.sizes.get(size) or self.sizes.setdefault(size, self._size_for(*size))
        if wanted == size:
            # Without resizing, the way into planes is slower and leaves the last columns of some widths unwritten.
            resized = self.reformatter.reformat(frame, format="rgb24", threads=1)
            rgb = self._picture(resized.planes[0], turns, 3)
            if out is None:
                return rgb
            out[...] = rgb
            return out
        # Into planes, on one thread, swscale takes a quarter of the time that it takes into rgb24, to the same bits.
        resized = self.reformatter.reformat(frame, *wanted, "gbrp", interpolation=Interpolation.AREA, threads=1)
        for channel, plane in zip((1, 2, 0), resized.planes, strict=True):
            values = self._picture(plane, turns)
            out = np.empty((*values.shape, 3), np.uint8) if out is None else out
            out[..., channel] = values
        assert out is not None
        return out

    def shape_of(self, frame: VideoFrame) -> tuple[int, int, int]:
        """Shape of what a frame is resized to."""
        width, height = self._size_for(frame.width, frame.height)
        if self.offset is not None:
            width = height = min(width, height)
        return (width, height, 3) if frame.rotation // 90 % 2 else (height, width, 3)

    def _size_for(self, width: int, height: int) -> tuple[int, int]:
        if not self.short_side:
            return width, height
        scale = self.short_side / min(width, height)
        return max(self.short_side, round(width * scale)), max(self.short_side, round(height * scale))

    def _picture(self, plane: VideoPlane, quarter_turns: int, num_channels: int = 0) -> np.ndarray:
        """What lies in a plane, (h, w) or (h, w, num_channels), turned and cut."""
        height, width = plane.height, plane.width
        shape: tuple[int, ...] = (height, width, num_channels) if num_channels else (height, width)
        strides = (plane.line_size, num_channels, 1) if num_channels else (plane.line_size, 1)
        picture = np.ndarray(shape, np.uint8, plane, 0, strides)  # type: ignore[arg-type]
        if quarter_turns:
            picture = np.rot90(picture, quarter_turns)
        if self.offset is None or height == width:
            return picture
        return picture[_square(picture.shape[0], picture.shape[1], self.offset)]


class Pictures:
    """Frames of one size, resized as they come into one array.

    Args:
        count: how many may come.
        short_side, offset: see Resize.
    """

    def __init__(self, count: int, short_side: int, offset: float | None = None) -> None:
        self.count, self.added, self.resize = count, 0, Resize(short_side, offset)
        self.array: np.ndarray | None = None

    def add(self, frame: VideoFrame) -> int:
        """Resize a frame; returns its index.

        Raises:
            ValueError: it has another size than the first.
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
