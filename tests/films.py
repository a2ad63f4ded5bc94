"""Films of numbered frames: whatever reads them can be asked which frame it has."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 7
SIZE = (72, 48)
"""Width and height: bars of 9 pixels, of which each is a bit of the frame's number."""


@dataclass(frozen=True)
class Film:
    """How a film of numbered frames is written."""

    suffix: str
    codec: str
    num_frames: int = 70
    rate: Fraction = Fraction(25)
    num_b: int = 0
    gop: int = 12
    options: tuple[tuple[str, str], ...] = ()
    start_s: float = 0.0
    """When the picture begins on the clock of the container."""
    stamped_by_decoding: bool = False
    """Whether the packets lose their presentation times, as some writers of MP4 and Matroska do."""


def number_of(frame: np.ndarray) -> int:
    """The number that is drawn into (h, w, 3)."""
    height, width = frame.shape[:2]
    row = frame[height // 2].mean(1)
    return sum(int(row[round((bit * 9 + 4.5) * width / SIZE[0])] > 128) << bit for bit in range(BITS))


def draw(number: int) -> av.VideoFrame:
    picture = np.full((SIZE[1], SIZE[0], 3), 30, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            picture[:, bit * 9 : bit * 9 + 9] = 225
    return av.VideoFrame.from_ndarray(picture, format="rgb24")


def write(path: Path, film: Film, format_name: str | None = None) -> Path:
    with av.open(str(path), "w", format=format_name) as container:
        stream = container.add_stream(film.codec, rate=film.rate)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if film.codec == "mjpeg" else "yuv420p"
        stream.gop_size, stream.thread_count = film.gop, 1
        stream.options = dict(film.options) | {"bf": str(film.num_b)}
        stream.codec_context.time_base = 1 / film.rate
        packets = []
        for number in range(film.num_frames):
            frame = draw(number)
            frame.pts, frame.time_base = number + round(film.start_s * film.rate), 1 / film.rate
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for number, packet in enumerate(packets):
            if film.stamped_by_decoding:
                packet.pts = packet.dts = number
            container.mux(packet)
    return path


def spoil(path: Path, kind: str) -> Path:
    """Overwrite what a file says of its first picture ("video") or sound ("audio"), so that nothing can be decoded."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(**{kind: 0}) if packet.size]
    content = bytearray(path.read_bytes())
    for at, length in places:
        content[at : at + length] = b"\xff" * length
    path.write_bytes(content)
    return path
