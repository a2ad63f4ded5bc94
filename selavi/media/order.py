"""When each decoded frame is shown: frames come out of a decoder in the order of showing, whatever their stamps say.

Some files stamp packets with the time of decoding (AVI knows no other; some writers of MP4 left the table of offsets
out).  With B-frames, which are decoded after a frame that is shown after them, the stamps come out shuffled:

    packets     I0  P1  B2  B3  P4  B5  B6      stamps in the order of decoding
    frames      I0  B2  B3  P1  B5  B6  P4      in the order of showing, with the stamps of their packets
    shown at     0   1   2   3   4   5   6      the same stamps, sorted

So the times of frames are their stamps in ascending order.  A frame whose stamp is the lowest of all that have been fed
to the decoder is shown then; one that is not waits until the lower ones have come out, or are seen to have been lost.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator

from av.packet import Packet
from av.video.frame import VideoFrame

_MOST_REORDERED = 17
"""Frames that wait for lower stamps: codecs put off at most 16."""


class DisplayOrder:
    """Gives the frames of one stream, as they come out of its decoder, their times in ticks."""

    def __init__(self) -> None:
        self._awaited: list[int] = []  # stamps that were fed and have not come out, ascending
        self._stamps: list[int] = []  # of the frames that wait, ascending
        self._frames: deque[VideoFrame] = deque()
        self._last: int | None = None
        self._step = 1

    def feed(self, packet: Packet) -> None:
        """Note a packet that the decoder is about to get."""
        if packet.pts is not None and not packet.is_discard:
            insort(self._awaited, packet.pts)
        self._step = packet.duration or self._step

    def add(self, frame: VideoFrame) -> Iterator[tuple[int, VideoFrame]]:
        """Take a frame; yield those whose time is known now, in order."""
        stamp = frame.pts
        if stamp is None:  # after the one before
            stamp = (self._stamps[-1] if self._stamps else -1 if self._last is None else self._last) + self._step
        at = bisect_left(self._awaited, stamp)
        if at < len(self._awaited) and self._awaited[at] == stamp:
            del self._awaited[at]
        insort(self._stamps, stamp)
        self._frames.append(frame)
        while self._frames and (
            len(self._frames) > _MOST_REORDERED or not self._awaited or self._stamps[0] < self._awaited[0]
        ):
            yield self._take()

    def end(self) -> Iterator[tuple[int, VideoFrame]]:
        """Yield the frames that still wait."""
        while self._frames:
            yield self._take()

    def _take(self) -> tuple[int, VideoFrame]:
        frame, time = self._frames.popleft(), self._stamps.pop(0)
        if self._last is not None and time <= self._last:  # two frames with one stamp
            time = self._last + 1
        self._last = time
        # What should have come before this one never will.
        del self._awaited[: bisect_left(self._awaited, time)]
        return time, frame
