"""Ways to degrade the picture or the sound of clips, each with severities from mild to worst.

Views are degraded before the augmentation, as uint8 frames and int16 sound; what is random is a function of (seed,
corruption, clip id, view), so each severity takes the same noise further.

Axes: B views of a batch, V views of a clip, T frames, S samples.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.media import recompress
from selavi.randomness import mix

CLEAN = "clean"
"""Name of what is not degraded; its severity is 0."""
DROPPED_S = 0.05
"""Seconds of one hole in dropped sound."""


@dataclass(frozen=True)
class Span:
    """What a degradation needs to know of a view."""

    clip_s: float
    sample_rate: int
    rng: np.random.Generator


Degrade = Callable[[np.ndarray, float, Span], np.ndarray]
"""(frames (T, h, w, 3) uint8 or sound (S,) int16, severity, span) -> the same shape and type."""


@dataclass(frozen=True)
class Corruption:
    """One way to degrade a modality, with its severities from mild to worst."""

    modality: Literal["video", "audio"]
    title: str
    unit: str
    severities: tuple[float, ...]
    degrade: Degrade | None
    """None: the modality is missing."""


def compress_video(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """H.264 at a constant rate factor, really encoded and decoded, at the frame rate of the view."""
    return recompress(frames, fps=len(frames) / span.clip_s, crf=round(severity))


def lower_resolution(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Shrink each side by a factor (mean of the pixels), and enlarge it bilinearly."""
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = [max(1, round(side / severity)) for side in planes.shape[2:]]
    shrunk = F.interpolate(planes, small, mode="area")
    back = F.interpolate(shrunk, planes.shape[2:], mode="bilinear", align_corners=False)
    return back.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def blur_video(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Gaussian blur, whose standard deviation is a share of the short side."""
    from scipy.ndimage import gaussian_filter

    sigma = severity * min(frames.shape[1:3])
    return gaussian_filter(frames.astype(np.float32), (0, sigma, sigma, 0), mode="nearest").round().astype(np.uint8)


def add_video_noise(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Add independent Gaussian noise to every value; `severity` is its standard deviation, on the scale to 255."""
    noise = span.rng.standard_normal(frames.shape, dtype=np.float32)
    return (frames + severity * noise).round().clip(0, 255).astype(np.uint8)


def freeze_video(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Repeat the last moving frame over a share of the clip; 1 leaves the first frame alone."""
    moving = max(1, round((1 - severity) * len(frames)))
    return frames[np.minimum(np.arange(len(frames)), moving - 1)]


def add_audio_noise(sound: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Add white noise at a signal-to-noise ratio in dB; silence stays silent, and nothing is clipped."""
    signal = sound.astype(np.float64)
    power = np.mean(signal**2) / 10 ** (severity / 10)
    mixed = signal + np.sqrt(power) * span.rng.standard_normal(signal.shape)
    return (mixed / max(1.0, np.abs(mixed).max(initial=0) / 32767)).round().astype(np.int16)


def low_pass_audio(sound: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Remove what is above a frequency in Hz (Butterworth, order 8, there and back, so without delay)."""
    from scipy.signal import butter, sosfiltfilt

    if severity >= span.sample_rate / 2:
        return sound
    filtered = sosfiltfilt(butter(8, severity, fs=span.sample_rate, output="sos"), sound.astype(np.float64))
    return filtered.round().clip(-32768, 32767).astype(np.int16)


def drop_audio(sound: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Silence a share of the sound, in holes of DROPPED_S."""
    size = max(1, round(DROPPED_S * span.sample_rate))
    order = span.rng.permutation(-(-len(sound) // size))
    lost = order[: round(severity * len(order))]
    return np.where(np.isin(np.arange(len(sound)) // size, lost), 0, sound).astype(np.int16)


CORRUPTIONS: dict[str, Corruption] = {
    "compression": Corruption("video", "compressed picture", "CRF of H.264", (23, 29, 35, 41, 46, 51), compress_video),
    "resolution": Corruption("video", "low resolution", "times fewer pixels a side", (2, 4, 8, 16), lower_resolution),
    "blur": Corruption(
        "video", "blurred picture", "standard deviation, share of the side", (0.01, 0.02, 0.04, 0.08), blur_video
    ),
    "video_noise": Corruption(
        "video", "noisy picture", "standard deviation, of 255", (8, 16, 32, 64, 128), add_video_noise
    ),
    "frozen": Corruption("video", "frozen picture", "share of the clip", (0.25, 0.5, 0.75, 1.0), freeze_video),
    "audio_noise": Corruption(
        "audio", "noisy sound", "signal-to-noise ratio in dB", (20, 10, 5, 0, -5, -10), add_audio_noise
    ),
    "low_pass": Corruption(
        "audio", "muffled sound", "highest frequency in Hz", (4000, 2000, 1000, 500, 250), low_pass_audio
    ),
    "dropped": Corruption("audio", "holes in the sound", "share of the clip", (0.25, 0.5, 0.75, 1.0), drop_audio),
    "no_video": Corruption("video", "picture missing", "share of the clips", (1.0,), None),
    "no_audio": Corruption("audio", "sound missing", "share of the clips", (1.0,), None),
}


def degrade_batch(
    batch: ClipBatch, name: str, severity: float, *, ids: Sequence[str], num_views: int, seed: int, config: Config
) -> ClipBatch:
    """Degrade every view of a batch; a batch without the modality comes back as it is.

    Args:
        batch: `num_views` views of each clip in a row, on the CPU.
        name: a key of CORRUPTIONS, or CLEAN.
        severity: one of the corruption's.
        ids: of the clips that `batch.index` counts.
        num_views: V.
        seed: of what is random.
        config: that the views were decoded with.

    Raises:
        ValueError: there is no such corruption.
    """
    if name == CLEAN:
        return batch
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}; there are {', '.join((CLEAN, *CORRUPTIONS))}")
    corruption = CORRUPTIONS[name]
    modality, degrade = corruption.modality, corruption.degrade
    if modality not in batch.inputs:
        return batch
    if degrade is None:
        missing = torch.zeros_like(batch.present[modality])
        nothing = torch.zeros_like(batch.inputs[modality])
        return replace(batch, inputs=batch.inputs | {modality: nothing}, present=batch.present | {modality: missing})

    def one(place: int) -> Tensor:
        key = mix(seed, "degrade", name, ids[int(batch.index[place])], place % num_views)
        span = Span(config.data.clip_s, config.audio.sample_rate, np.random.default_rng(key))
        changed = degrade(batch.inputs[modality][place].numpy(), severity, span)
        return torch.from_numpy(np.ascontiguousarray(changed))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        changed = list(pool.map(one, range(len(batch.index))))
    return replace(batch, inputs=batch.inputs | {modality: torch.stack(changed)})
