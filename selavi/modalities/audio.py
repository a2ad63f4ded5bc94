"""Sound: the waveform of a window."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from selavi.modalities.modality import HEARD, SLACK_S, Fault, Modality, Request


def _faults(columns: Mapping[str, np.ndarray], clip_s: float) -> Iterator[Fault]:
    state, seconds, reasons = columns["audio_state"], columns["audio_s"].astype(float), columns["audio_reason"]
    yield Fault("no_audio", state == "absent", lambda row: "no sound track, or an empty one")
    yield Fault("silent", state == "silent", lambda row: "its sound track is silent")
    yield Fault("bad_audio", state == "broken", lambda row: str(reasons[row]))
    yield Fault(
        "too_short",
        (state == "ok") & (seconds < clip_s - SLACK_S),
        lambda row: f"{seconds[row]:.2f} s of sound, data.clip_s={clip_s}",
    )


def _seconds(facts: Mapping[str, Any], clip_s: float, policy: str) -> float:
    """Where sound is required, every window has some."""
    is_limit = policy == "require" and facts["audio_state"] == "ok" and facts["audio_s"] >= clip_s - SLACK_S
    return float(facts["audio_s"]) if is_limit else math.inf


def _required(policy: str, modalities: Collection[str]) -> bool:
    """Where all modalities are made of sound, nothing is left of a masked clip: mask then means require."""
    return policy == "require" or (policy == "mask" and set(modalities) <= HEARD)


AUDIO = Modality(
    dtype=np.int16,
    shape=lambda config: (round(config.data.clip_s * config.audio.sample_rate),),
    value=lambda streams, facts, window, config: streams.waveform,
    example=lambda shape, generator: generator.integers(-20_000, 20_000, shape, np.int16),
    columns=("audio_state", "audio_s", "audio_reason"),
    missing=("no_audio", "the head judges by sound alone"),
    request=lambda config: Request(sample_rate=config.audio.sample_rate, channel=config.audio.channel),
    has=lambda facts: bool(facts["audio_state"] == "ok"),
    faults=_faults,
    seconds=_seconds,
    required=_required,
    blank_counts=lambda policy: policy == "zeros",
)
