"""Still pictures: one a file; of a recording, where a run reads those for other modalities, a frame of the window."""

from collections.abc import Iterator, Mapping

import numpy as np

from selavi.modalities.modality import Fault, Modality, Request, without_sound


def _faults(columns: Mapping[str, np.ndarray], clip_s: float) -> Iterator[Fault]:
    yield Fault("no_video", columns["width"] == 0, lambda row: "no picture stream")


IMAGE = Modality(
    dtype=np.uint8,
    shape=lambda config: (config.image.decode_size, config.image.decode_size, 3),
    value=lambda streams, facts, window, config: None if streams.frames is None else streams.frames[0],
    example=lambda shape, generator: generator.integers(0, 256, shape, np.uint8),
    columns=("width",),
    missing=("no_video", "the head judges by pictures alone"),
    request=lambda config: Request(num_frames=1, size=config.image.decode_size),
    still=True,
    has=lambda facts: bool(facts["width"] != 0),
    faults=_faults,
    required=without_sound,
)
