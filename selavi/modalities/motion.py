"""Motion: how the brightness of a window's frames changes from each to the next."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from selavi.modalities.modality import Settings, Streams, Window
from selavi.modalities.video import VIDEO

STILL = 128
"""The value of what does not change."""
_LUMA = np.array([77, 150, 29], np.uint16)
"""Rec. 601 in 256ths."""


def _shape(config: Settings) -> tuple[int, ...]:
    """(T - 1, h, w)."""
    video = config.video
    return video.num_frames - 1, video.decode_size, video.decode_size


def frame_differences(frames: np.ndarray) -> np.ndarray:
    """Differences of brightness between successive frames.

    Args:
        frames: (T, h, w, 3) uint8.

    Returns:
        (T - 1, h, w) uint8: the later frame less the earlier one, cut to -128..127, plus 128.
    """
    grey = ((frames @ _LUMA) >> 8).astype(np.int16)
    return (np.diff(grey, axis=0).clip(-STILL, STILL - 1) + STILL).astype(np.uint8)


def _value(streams: Streams, facts: Mapping[str, Any], window: Window, config: Settings) -> np.ndarray | None:
    return None if streams.frames is None else frame_differences(streams.frames)


MOTION = replace(VIDEO, shape=_shape, value=_value, section="video")
