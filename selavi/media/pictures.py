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
    resize = Resize(size, offset)
    pictures: np.ndarray | None = None
    tables = _standard_tables()
    for number, file in enumerate(files):
        if tables:  # which the decoder has from the start; to build them anew takes a sixth of its time
            at = bytes(file[:1024]).find(tables)
            tables = tables if at >= 0 else b""  # others stay with the decoder until they are replaced
        content = b"".join((file[:at], file[at + len(tables) :])) if tables else bytes(file)
        frames = context.decode(Packet(content)) if content else []
        if len(frames) != 1:
            raise ValueError(f"expected one picture in a JPEG file of {len(file)} bytes, found {len(frames)}")
        picture = resize(frames[0])
        if pictures is None:
            pictures = np.empty((len(files), *picture.shape), np.uint8)
        pictures[number] = picture
    if pictures is None:
        raise ValueError("expected JPEG files, got none")
    return pictures


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

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        size = frame.width, frame.height
        wanted = self.sizes.get(size) or self.sizes.setdefault(size, self._size_for(*size))
        if wanted == size:
            # Without resizing, the way into planes is slower and leaves the last columns of some widths unwritten.
            plane = self.reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
            return self._cut(plane, 3, frame.rotation // 90)
        # Into planes, on one thread, swscale takes a quarter of the time that it takes into rgb24, to the same bits.
        resized = self.reformatter.reformat(frame, *wanted, "gbrp", interpolation=Interpolation.AREA, threads=1)
        turns = frame.rotation // 90
        green, blue, red = (self._cut(plane, 1, turns)[..., 0] for plane in resized.planes)
        rgb = np.empty((*red.shape, 3), np.uint8)
        rgb[..., 0], rgb[..., 1], rgb[..., 2] = red, green, blue
        return rgb

    def _size_for(self, width: int, height: int) -> tuple[int, int]:
        if not self.short_side:
            return width, height
        scale = self.short_side / min(width, height)
        return max(self.short_side, round(width * scale)), max(self.short_side, round(height * scale))

    def _cut(self, plane: VideoPlane, num_channels: int, quarter_turns: int) -> np.ndarray:
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        lines = lines[: plane.height, : plane.width * num_channels]
        picture = lines.reshape(plane.height, plane.width, num_channels)
        if quarter_turns:
            picture = np.rot90(picture, quarter_turns)
        return picture if self.offset is None else crop_square(picture, self.offset)


def crop_square(frames: np.ndarray, offset: float) -> np.ndarray:
    """Cut a square as large as the short side from (..., h, w, C), at `offset` in [0, 1] along the long side."""
    height, width = frames.shape[-3:-1]
    side = min(height, width)
    top, left = round((height - side) * offset), round((width - side) * offset)
    return frames[..., top : top + side, left : left + side, :]
