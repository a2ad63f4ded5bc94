"""Frames of an open file, with their times."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from itertools import chain

import av
import numpy as np
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame

from selavi.media.files import UNTIMED, File, MediaError, open_container, seconds
from selavi.media.order import DisplayOrder
from selavi.media.pictures import Pictures, Shape
from selavi.media.streams import is_shuffled

_SKIPPABLE = {"h264", "mpeg4", "mpeg2video", "mpeg1video"}
"""Codecs whose frames that no other frame refers to can be left out without changing any other bit.  In HEVC such a
frame may still be referred to by a higher temporal layer."""
_LOOK_AHEAD = 1000
"""Packets that may wait for what follows them; many more times than frames can be reordered."""
_REORDERED = 18
"""Frames after a key frame whose times may depend on what comes before it, where stamps are those of decoding."""


def timed_frames(file: File) -> Iterator[tuple[float, VideoFrame]]:
    """Every frame from here to the end, and seconds from the start of the picture, ascending.

    A file may begin between two key frames, with what cannot be decoded.
    """
    order = DisplayOrder()
    stream, context = file.video, file.video.codec_context
    begun = False
    for packet in chain(file.packets(stream), [None]):
        begun = begun or packet is None or packet.is_keyframe
        if not begun:
            continue
        if packet is not None:
            order.feed(packet)
        for frame in context.decode(packet):
            for ticks, ordered in order.add(frame):
                yield seconds(stream, ticks) - file.origin_s, ordered
    for ticks, ordered in order.end():
        yield seconds(stream, ticks) - file.origin_s, ordered


def frames_between(file: File, start_s: float, end_s: float) -> Iterator[tuple[float, VideoFrame]]:
    """What timed_frames would give from the start, cut to what is on screen in [start_s, end_s).

    The first frame of all stands for what is before it.  Decoding begins at a key frame before start_s as far as that
    changes nothing.

        frames        |---A---|---B---|---C---|---D---|
        span                    start_s       end_s             B, C
    """
    waiting: tuple[float, VideoFrame] | None = None
    begun = False
    for time_s, frame in _entered(file, start_s):
        if time_s >= end_s - 1e-6 and (begun or waiting):
            break
        if waiting and time_s > start_s + 1e-6:
            yield waiting
            waiting, begun = None, True
        if begun or start_s == 0 or time_s > start_s + 1e-6:
            yield time_s, frame
            begun = True
        else:
            waiting = time_s, frame
    if waiting:
        yield waiting


def _entered(file: File, start_s: float) -> Iterator[tuple[float, VideoFrame]]:
    """timed_frames from a key frame at or before a time, or from the start where none will do."""
    stream = file.video
    shuffled = file.format in UNTIMED and stream.codec_context.has_b_frames
    margin_s = _REORDERED / float(stream.average_rate or 1) if shuffled else 0.0
    for earlier_s in (margin_s, 12.0) if file.seekable else ():  # some containers (.ts) land behind the time
        if start_s <= earlier_s:
            break
        file.seek(file.video, start_s - earlier_s)
        frames = timed_frames(file)
        first = next(frames, None)
        # Streams with periodic refresh have entries that take time to recover.
        if first is not None and first[0] <= start_s + 1e-6 and first[1].pict_type == PictureType.I:
            return chain([first], frames)
    file.seek(file.video, float("-inf"))
    return timed_frames(file)


def shape_of(file: File, frame: VideoFrame) -> Shape:
    """How the pictures of a file are shown; `frame` is one of them."""
    stream = file.video
    context = stream.codec_context
    stored = file.stored_size
    size = frame.width, frame.height
    if size != stored and file.by_header:  # the header was taken at its word
        with open_container(file.path, file.limits, float("inf")) as container:
            whole = next(other for other in container.streams.video if other.index == stream.index)
            stored = whole.codec_context.width, whole.codec_context.height
    ratio = float(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
    own_ratio = ratio if size == stored else float(context.sample_aspect_ratio or 1)
    return Shape(stored, ratio, own_ratio)


def pictures_at(file: File, wanted_s: np.ndarray, short_side: int, offset: float | None = None) -> np.ndarray:
    """What is on screen at ascending times, as latest_frames says; frames are resized as they come."""

    def pictures() -> Pictures:
        return Pictures(len(wanted_s), short_side, offset, lambda frame: shape_of(file, frame))

    shuffled = file.format in UNTIMED and file.video.codec_context.has_b_frames
    if file.seekable and not shuffled:
        # Some containers (.ts) land behind the time that was asked for.
        for earlier_s in (0.0, 12.0):
            array = _by_packets(file, wanted_s, max(0.0, wanted_s[0] - earlier_s), pictures())
            if array is not None:
                return array
            if wanted_s[0] <= earlier_s:
                break
    from_s = float("-inf")
    if file.seekable and shuffled:
        from_s = wanted_s[0] - _REORDERED / float(file.video.average_rate or 1)
    return _by_frames(file, wanted_s, from_s, pictures())


def _by_packets(file: File, wanted_s: np.ndarray, from_s: float, pictures: Pictures) -> np.ndarray | None:
    """Find out from the packets which frames are wanted, and let the decoder skip others as far as that is exact.

    A packet is decided on as soon as those read after it show whether its frame is on screen at a wanted time: packets
    come ordered by decoding time (dts), and none has an earlier presentation time (pts).

        packets, in the order of decoding      I0  P4  B2  B1  B3  P8 ...      (named by their pts)
        read so far, sorted                     0   1   2   4                  after B1
        wanted                                    ^1.5: frame 1, as soon as no packet before 2 can follow

    Returns:
        None where the packets do not say enough or a wanted frame does not come out of the decoder.
    """
    sought = from_s > 0
    file.seek(file.video, from_s if sought else float("-inf"))
    stream, context = file.video, file.video.codec_context
    ticks_per_s = 1 / float(stream.time_base or 1)
    # The frame on screen at a wanted time is the last one whose pts is not above its bound.
    bounds = np.floor((wanted_s + file.origin_s + 1e-6) * ticks_per_s).astype(np.int64).tolist()
    intra = context.codec.intra_only
    skippable = context.name in _SKIPPABLE
    shown: list[int] = []  # pts of all packets so far, ascending
    waiting: deque[Packet] = deque()
    needed: set[int] = set()
    index_of: dict[int, int] = {}  # of those that are wanted, by pts
    read_to = None  # every frame with a pts up to here has been read
    begun = ended = False
    first_pts = 0
    entered = not sought  # by an intra frame: streams with periodic refresh have entries that take time to recover
    reordered = False  # whether a packet came with an earlier pts than one before it

    def decode(packet: Packet | None) -> None:
        nonlocal entered
        for frame in context.decode(packet):
            entered = entered or (frame.pts == first_pts and frame.pict_type == PictureType.I)
            if frame.pts in needed and frame.pts not in index_of and not frame.is_corrupt:
                index_of[frame.pts] = pictures.add(frame)

    def is_wanted(packet: Packet) -> bool | None:
        """None: what has been read so far does not decide it."""
        at = bisect_left(bounds, packet.pts)
        if packet.pts is None or packet.is_discard or at == len(bounds):
            return False
        following = bisect_right(shown, packet.pts)
        if following < len(shown) and shown[following] <= bounds[at]:
            return False
        return True if ended or (read_to is not None and read_to >= bounds[at]) else None

    packets = file.packets(stream)
    try:
        while not ended:
            packet = next(packets, None)
            if packet is None:
                ended = True
            elif packet.pts is None or (packet.dts is not None and packet.dts > packet.pts):
                return None
            elif sought and not begun and not packet.is_keyframe:
                continue
            elif sought and not begun and packet.pts > bounds[0]:
                return None
            else:
                first_pts = first_pts if begun else packet.pts
                begun = True
                at = bisect_left(shown, packet.pts)
                reordered = reordered or at < len(shown)
                if len(waiting) == _LOOK_AHEAD or (at < len(shown) and shown[at] == packet.pts):
                    return None
                if not packet.is_discard:
                    shown.insert(at, packet.pts)
                waiting.append(packet)
                read_to = packet.dts
                ended = read_to is not None and read_to >= bounds[-1]
            while waiting:
                verdict = is_wanted(waiting[0])
                if verdict is None:
                    break
                packet = waiting.popleft()
                if verdict and packet.pts is not None:
                    needed.add(packet.pts)
                elif intra or (ended and not any(is_wanted(later) for later in waiting)):
                    continue
                if skippable:
                    context.skip_frame = "DEFAULT" if verdict else "NONREF"
                decode(packet)
        decode(None)
    except av.InvalidDataError:
        return None
    finally:
        context.skip_frame = "DEFAULT"
    if context.has_b_frames and not reordered and is_shuffled(file):
        return None
    if not entered or any(pts not in index_of for pts in needed):
        return None
    chosen = [bisect_right(shown, bound) - 1 for bound in bounds]
    if min(chosen) < 0 or any(shown[at] not in index_of for at in chosen):
        return None
    return pictures.take([index_of[shown[at]] for at in chosen])


def _by_frames(file: File, wanted_s: np.ndarray, from_s: float, pictures: Pictures) -> np.ndarray:
    """Decode everything from a key frame at or before from_s, and go by the times of the frames."""
    file.seek(file.video, from_s)
    latest: VideoFrame | None = None
    index: int | None = None  # of the latest frame
    chosen: list[int] = []

    def take() -> None:
        nonlocal index
        if latest is None:
            raise MediaError(file.path, "corrupt", f"no frame at {wanted_s[0]:.3f} s")
        if latest.is_corrupt:
            raise MediaError(file.path, "corrupt", f"the frame at {wanted_s[len(chosen)]:.3f} s is damaged")
        index = pictures.add(latest) if index is None else index
        chosen.append(index)

    for time_s, frame in timed_frames(file):
        if latest is None and from_s > float("-inf") and time_s > wanted_s[0] + 1e-6:
            return _by_frames(file, wanted_s, float("-inf"), pictures)  # it went to a place behind
        while latest is not None and len(chosen) < len(wanted_s) and time_s > wanted_s[len(chosen)] + 1e-6:
            take()
        if len(chosen) == len(wanted_s):
            break
        latest, index = frame, None
    while len(chosen) < len(wanted_s):
        take()
    return pictures.take(chosen)
