"""Frames and sound -> H.264 and AAC."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


def encode_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    waveform: np.ndarray | None,
    *,
    fps: float | Fraction,
    sample_rate: int,
    crf: int = 23,
    gop: int = 12,
    audio_bitrate: int = 48_000,
    fast_decode: bool = False,
) -> None:
    """Write an .mp4 of H.264 (yuv420p) and AAC (mono).

    With `fast_decode`, equal input gives equal bytes on one machine and PyAV version.  Without it nearly always: where
    x264 looks ahead, it comes to other bytes now and then.

    Args:
        path: file to write; the container is MP4 whatever the suffix, so a temporary name will do.
        frames: (T, h, w, 3) uint8 RGB, h and w even; or (h, w, 3) one by one, none of which is kept.
        waveform: (S,) int16, or float32 in [-1, 1]; None for a file without a sound track.
        fps: frames a second.
        sample_rate: samples a second of `waveform`; one that AAC knows (8000, 16000, 24000, 44100 ...).
        crf: constant rate factor of x264, 0 (lossless) to 51 (worst).
        gop: frames from one key frame to the next: few make seeking fast and the file larger.
        audio_bitrate: bits a second of the sound track.
        fast_decode: leave out what makes H.264 small and slow to read (deblocking, arithmetic coding, looking ahead).

    Raises:
        ValueError: the arrays have another shape or type.
    """
    if isinstance(frames, np.ndarray) and (frames.ndim != 4 or not len(frames)):
        raise ValueError(f"expected frames (T, h, w, 3) uint8, got {frames.shape} {frames.dtype}")
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError("expected frames (T, h, w, 3) uint8, got none")
    if first.ndim != 3 or first.shape[-1] != 3 or first.dtype != np.uint8 or 0 in first.shape:
        raise ValueError(f"expected frames (T, h, w, 3) uint8, got each {first.shape} {first.dtype}")
    height, width, _ = first.shape
    if height % 2 or width % 2:
        raise ValueError(f"expected an even height and width (yuv420p halves both), got {height} x {width}")
    if waveform is not None and (
        waveform.ndim != 1 or waveform.dtype not in (np.int16, np.float32) or waveform.size == 0
    ):
        raise ValueError(f"expected waveform (S,) int16 or float32, got {waveform.shape} {waveform.dtype}")

    rate = Fraction(fps).limit_denominator(1001)
    # Bit-exact muxing leaves out the library's version and the creation time.
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        video: VideoStream = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        tune = {"tune": "fastdecode", "x264-params": "no-mbtree=1:rc-lookahead=0"} if fast_decode else {}
        video.options = {"crf": str(crf), "preset": "veryfast", **tune}
        video.gop_size = gop
        video.max_b_frames = 0  # time stamps then start at 0 and need no edit list
        video.thread_count = 1  # x264 divides the picture among threads, which changes the bytes
        video.codec_context.flags |= Flags.bitexact
        audio: AudioStream | None = None
        if waveform is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
            audio.bit_rate = audio_bitrate
            audio.options = {"aac_coder": "fast"}  # the default search doubles the time to write a short file
            audio.codec_context.flags |= Flags.bitexact

        for index, picture in enumerate(chain([first], pictures)):
            # Converted here: what the encoder does by itself gave other bytes in one encoding of a hundred.
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            for at in range(0, len(waveform), _ENCODED_AT_ONCE):
                samples = waveform[at : at + _ENCODED_AT_ONCE]
                samples = samples.astype(np.float32) / 32768 if samples.dtype == np.int16 else samples
                sound = AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = sample_rate, at, Fraction(1, sample_rate)
                container.mux(audio.encode(sound))
            container.mux(audio.encode(None))


_ENCODED_AT_ONCE = 1_000_000
"""Samples."""


def recompress(frames: np.ndarray, *, fps: float | Fraction, crf: int) -> np.ndarray:
    """Encode frames as H.264 (yuv420p, the preset of encode_clip) and decode them again, in memory.

    Args:
        frames: (T, h, w, 3) uint8 RGB.  Where h or w is odd the last row or column is doubled on the way.
        fps: frames a second, which the encoder spends its bits by.
        crf: constant rate factor of x264, 0 (lossless but for the colours' resolution) to 51 (worst).

    Returns:
        (T, h, w, 3) uint8: what is left of them.

    Raises:
        ValueError: the array has another shape or type, or crf lies outside of its range.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"expected frames (T, h, w, 3) uint8, got {frames.shape} {frames.dtype}")
    if not 0 <= crf <= 51:
        raise ValueError(f"expected a crf of 0 to 51, got {crf}")
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    rate = Fraction(fps).limit_denominator(1001)
    encoder: VideoCodecContext = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = even.shape[2], even.shape[1], "yuv420p"
    encoder.framerate, encoder.time_base = rate, 1 / rate
    encoder.options = {"crf": str(crf), "preset": "veryfast"}
    encoder.max_b_frames = 0
    encoder.thread_count = 1  # see encode_clip
    packets = []
    for index, picture in enumerate(even):
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = index, 1 / rate
        packets += encoder.encode(frame)
    decoder: VideoCodecContext = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    shown = [frame for packet in (*packets, *encoder.encode(None), None) for frame in decoder.decode(packet)]
    assert len(shown) == len(frames), f"{len(shown)} of {len(frames)} frames came back"
    return np.stack([frame.to_ndarray(format="rgb24") for frame in shown])[:, :height, :width]
