"""Modalities: the kinds of input that a clip may have, one file each.

A new one is an entry here, one in selavi.augment and one in selavi.encoders, each with its file.
"""

from collections.abc import Iterable

import numpy as np

from selavi.errors import UsageError
from selavi.modalities.audio import AUDIO
from selavi.modalities.modality import SLACK_S, Fault, Modality, Request, Settings, Streams, Window
from selavi.modalities.video import VIDEO

__all__ = [
    "MODALITIES",
    "SLACK_S",
    "Fault",
    "Modality",
    "Request",
    "Settings",
    "Streams",
    "Window",
    "examples",
    "in_order",
    "num_bytes",
    "reads_sound",
    "request_of",
]

MODALITIES: dict[str, Modality] = {"video": VIDEO, "audio": AUDIO}
"""In the order in which a run has them: the first of a run is the reference that the heads of others align to."""


def in_order(names: Iterable[str]) -> list[str]:
    """Names of modalities in the order of MODALITIES.

    Raises:
        UsageError: none, one twice, or one that there is not; the message lists those that there are.
    """
    names = list(names)
    if not names or sorted(names) != sorted(set(names) & MODALITIES.keys()):
        raise UsageError(f"modalities must be some of {', '.join(MODALITIES)}, each once, got {names}")
    return [name for name in MODALITIES if name in names]


def request_of(config: Settings, names: Iterable[str]) -> Request:
    """What some modalities need of a window, together."""
    request = Request()
    for name in names:
        request |= MODALITIES[name].request(config)
    return request


def reads_sound(config: Settings, names: Iterable[str]) -> bool:
    """Whether one of some modalities is made from the sound."""
    return request_of(config, names).sample_rate > 0


def num_bytes(config: Settings) -> int:
    """Bytes of one decoded clip, as the loader processes send it."""
    return sum(MODALITIES[name].num_bytes(config) for name in config.modalities)


def examples(config: Settings, num_clips: int, seed: int) -> dict[str, np.ndarray]:
    """Noise with the type and shape of decoded clips, (B, ...) for each of a run's modalities."""
    generator = np.random.default_rng(seed)
    kinds = {name: MODALITIES[name] for name in config.modalities}
    return {name: kind.example((num_clips, *kind.shape(config)), generator) for name, kind in kinds.items()}
