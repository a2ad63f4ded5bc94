"""Pictures: evenly spaced frames of a window."""

from collections.abc import Iterator, Mapping

import numpy as np

from selavi.modalities.modality import Fault, Modality, Request, Settings, without_sound


def _shape(config: Settings) -> tuple[int, ...]:
    """(T, h, w, 3)."""
    video = config.video
    return video.num_frames, video.decode_size, video.decode_size, 3


def _faults(columns: Mapping[str, np.ndarray], clip_s: float) -> Iterator[Fault]:
    yield Fault("no_video", columns["width"] == 0, lambda row: "no picture stream")


VIDEO = Modality(
    dtype=np.uint8,
    shape=_shape,
    value=lambda streams, facts, window, config: streams.frames,
    example=lambda shape, generator: generator.integers(0, 256, shape, np.uint8),
    columns=("width",),
    missing=("no_video", "the head judges by pictures alone"),
    request=lambda config: Request(config.video.num_frames, config.video.decode_size, stream=config.video.stream),
    has=lambda facts: bool(facts["width"] != 0),
    faults=_faults,
    required=without_sound,
)
