"""What stays of a recording when it is encoded anew, made smaller or cut in time: bits of its picture and of its sound.

Picture: eight times a second a grey picture of 8 x 9 pixels, and of each pixel whether the next one is lighter (dHash).
Sound: 25 times a second the energies of 33 bands, and of each pair of neighbours whether their difference has grown
since the step before (Haitsma and Kalker, "A highly robust audio fingerprinting system", ISMIR 2002).  Two recordings
are compared at every shift in time; what differs is the share of bits that do at the best one.

    a     |----------------------|
    b           |--------------------|         shift: -6
                |----overlap-----|             at least half of the shorter one
"""

from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import numpy as np

from selavi.media import MediaError, decode_sound, latest_frames, stream_frames
from selavi.runs.manifest import require_unchanged

LOOK_S = 60.0
"""A recording is known by so much of its beginning."""
PICTURES_A_SECOND, STEPS_A_SECOND = 8, 25
PICTURE_BYTES, SOUND_BYTES, BANDS = 8, 4, 33
_SHORT_SIDE = 32
_RATE, _WINDOW, _LOWEST_HZ, _HIGHEST_HZ = 8000, 2048, 300.0, 2800.0
_FLAT = 2.0
"""Grey levels of standard deviation below which a picture says nothing."""


def fingerprint_of(root: str, file: tuple[Any, ...]) -> dict[str, Any]:
    """What a process does with one file of a listing: (path, bytes, mtime_ns, width, audio_state, audio_s)."""
    path, num_bytes, mtime_ns, width, audio_state, audio_s = file
    place = Path(root) / path
    require_unchanged(place, num_bytes, mtime_ns)
    picture = picture_bits(place) if width else np.zeros((0, PICTURE_BYTES), np.uint8)
    sound, spectrum = np.zeros((0, SOUND_BYTES), np.uint8), np.zeros(BANDS)
    if audio_state == "ok":
        sound, spectrum = sound_bits(decode_sound(place, sample_rate=_RATE, end_s=min(LOOK_S, audio_s)))
    if not len(picture) and not len(sound):
        raise MediaError(place, "too_short", "neither its picture nor its sound says enough to be compared")
    texts = {"picture": to_text(picture), "sound": to_text(sound), "spectrum": to_text(spectrum.astype(np.float16))}
    return {**texts, "status": "ok", "reason": None}


def picture_bits(path: Path) -> np.ndarray:
    """Bits of the picture, (steps, 8) uint8; of a still picture one step; of a blank one none.

    Raises:
        MediaError: the file cannot be read, or no frame of it can be decoded.
    """
    from PIL import Image

    times_s, grey = [], []
    for time_s, frame in stream_frames(path, size=_SHORT_SIDE, end_s=LOOK_S):
        small = Image.fromarray(frame).convert("L").resize((9, 8), Image.Resampling.BOX)
        times_s.append(time_s)
        grey.append(np.asarray(small, np.float32))
    steps_s = np.arange(0.0, times_s[-1] + 1e-6, 1 / PICTURES_A_SECOND)
    pictures = np.stack(grey)[latest_frames(np.array(times_s), steps_s)]
    if np.median(pictures.std((1, 2))) < _FLAT:
        return np.zeros((0, PICTURE_BYTES), np.uint8)
    return np.packbits((pictures[:, :, 1:] > pictures[:, :, :-1]).reshape(len(pictures), -1), axis=1)


def sound_bits(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits of a sound (S,) int16, (steps, 4) uint8, none where it is silent or too short; and its mean spectrum.

    The spectrum, (BANDS,) of length 1 or 0, is the logarithm of the energies without its mean.
    """
    if len(waveform) < 2 * _WINDOW or not waveform.any():
        return np.zeros((0, SOUND_BYTES), np.uint8), np.zeros(BANDS)
    windows = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float32), _WINDOW)
    windows = windows[:: _RATE // STEPS_A_SECOND]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32))) ** 2
    edges = np.searchsorted(np.fft.rfftfreq(_WINDOW, 1 / _RATE), np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, BANDS + 1))
    bands = np.add.reduceat(power, edges, axis=1)[:, :BANDS]
    slopes = bands[:, :-1] - bands[:, 1:]
    spectrum = np.log(bands.mean(0) + 1)
    return np.packbits(slopes[1:] > slopes[:-1], axis=1), unit(spectrum - spectrum.mean())


def difference(one: np.ndarray, other: np.ndarray, steps_a_second: int) -> float:
    """Share of bits (n, b) and (m, b) uint8 that differ at the best shift; 0.5 by chance, 1 where one is empty."""
    if not len(one) or not len(other):
        return 1.0
    least = min(len(one), len(other), max(steps_a_second, min(len(one), len(other)) // 2))
    signs = [np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1 for bits in (one, other)]
    agreement = signs[0] @ signs[1].T / signs[0].shape[1]
    shifts = range(least - len(one), len(other) - least + 1)
    best = max(float(np.diagonal(agreement, shift).mean()) for shift in shifts)
    return (1 - best) / 2


def mean_picture(bits: np.ndarray) -> np.ndarray:
    """What the bits of a picture are on average, (64,) of length 1; 0 where there are none."""
    return unit(np.unpackbits(bits, axis=1).mean(0) * 2 - 1) if len(bits) else np.zeros(8 * PICTURE_BYTES)


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1; 0 stays 0."""
    scaled: np.ndarray = vector / max(float(np.linalg.norm(vector)), 1e-6)
    return scaled


def to_text(bits: np.ndarray) -> str:
    """An array as it is written down."""
    return b64encode(bits.tobytes()).decode("ascii")


def bits_from_text(text: str, num_bytes: int) -> np.ndarray:
    """The bits, (steps, num_bytes) uint8, that were written down."""
    return np.frombuffer(b64decode(text), np.uint8).reshape(-1, num_bytes)


def spectrum_from_text(text: str) -> np.ndarray:
    """The mean spectrum, (BANDS,) float16, that was written down."""
    return np.frombuffer(b64decode(text), np.float16)
