"""What a timeline shows of its recording: pictures at even distances, and all of its sound as a spectrogram."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from selavi.media import MediaError, decode_frames_at, decode_sound
from selavi.results.gallery.thumbnails import COLOURS

HEIGHT = 72
"""Pixels from top to bottom of a picture."""
_RATIOS = (0.5, 2.0)
_EVERY_S, _FEWEST, _MOST = 5.0, 12, 400
"""A picture every so many seconds, and how many at least and at most."""
SAMPLE_RATE = 16_000
BANDS = 64
_COLUMNS_A_SECOND, _FEWEST_COLUMNS, _MOST_COLUMNS = 20, 600, 16_000
"""Browsers draw no picture much wider than the last of these."""
_WINDOW, _HOP = 1024, 512
_BLOCK_S = 60.0
"""Sound that is decoded at once."""
_RANGE_DB = 70.0
_FAINTEST = 1e-6
"""Power below which nothing is loudest: silence stays dark."""


@dataclass(frozen=True)
class Sheet:
    """Pictures of a recording on one sheet, row by row; the i-th is shown at (i + 0.5) / count of its length."""

    width: int
    """Pixels from side to side of one picture."""
    count: int
    across: int
    """Pictures in a row."""


def plan_sheet(duration_s: float, ratio: float) -> Sheet:
    """How many pictures, and how wide.

    Args:
        duration_s: of the recording.
        ratio: width over height of its picture.
    """
    count = min(max(math.ceil(duration_s / _EVERY_S), _FEWEST), _MOST)
    return Sheet(round(HEIGHT * min(max(ratio, _RATIOS[0]), _RATIOS[1])), count, math.ceil(math.sqrt(count)))


def draw_sheet(path: Path, duration_s: float, sheet: Sheet) -> Image.Image:
    """The sheet; what cannot be decoded stays dark.

    Raises:
        MediaError: no picture can be decoded.
    """
    rows = math.ceil(sheet.count / sheet.across)
    whole = Image.new("RGB", (sheet.across * sheet.width, rows * HEIGHT))
    fault = None
    num_drawn = 0
    for number in range(sheet.count):
        try:  # one seek a picture: a single call would decode all that lies between the first and the last
            [frame] = decode_frames_at(path, [(number + 0.5) * duration_s / sheet.count], HEIGHT)
        except MediaError as error:
            fault = error
            continue
        place = number % sheet.across * sheet.width, number // sheet.across * HEIGHT
        whole.paste(_fitted(frame, sheet.width), place)
        num_drawn += 1
    if fault is not None and not num_drawn:
        raise fault
    return whole


def _fitted(frame: np.ndarray, width: int) -> Image.Image:
    """The middle of a frame, so wide and HEIGHT high, with dark bars where it is narrower."""
    picture = Image.fromarray(frame)
    scale = HEIGHT / picture.height
    picture = picture.resize((max(1, round(picture.width * scale)), HEIGHT), Image.Resampling.BILINEAR)
    place = Image.new("RGB", (width, HEIGHT))
    place.paste(picture, ((width - picture.width) // 2, 0))
    return place


def num_columns(duration_s: float) -> int:
    """Columns of the spectrogram."""
    return min(max(math.ceil(duration_s * _COLUMNS_A_SECOND), _FEWEST_COLUMNS), _MOST_COLUMNS)


def draw_spectrogram(path: Path, duration_s: float) -> Image.Image:
    """Loudness (dB below the loudest, 70 dB deep) of mel bands over time, high bands above.

    The sound is decoded a minute at a time: memory does not grow with its length.

    Raises:
        MediaError: the sound cannot be decoded.
    """
    columns = num_columns(duration_s)
    sums, counts = np.zeros((BANDS, columns)), np.zeros(columns)
    for time_s, power in _mel_blocks(path, duration_s):
        times_s = time_s + np.arange(power.shape[1]) * _HOP / SAMPLE_RATE
        at = np.minimum((times_s * columns / duration_s).astype(int), columns - 1)
        counts += np.bincount(at, minlength=columns)
        for band in range(BANDS):
            sums[band] += np.bincount(at, power[band], columns)
    power = _filled(sums, counts)
    loudness = 10 * np.log10(np.maximum(power, 1e-12) / max(float(power.max()), _FAINTEST))
    levels = np.clip(np.rint(255 * (1 + loudness / _RANGE_DB)), 0, 255).astype(np.uint8)
    return Image.fromarray(COLOURS[levels[::-1]])


def _mel_blocks(path: Path, duration_s: float) -> Iterator[tuple[float, np.ndarray]]:
    """Begin of each block in seconds, and the power (BANDS, frames) of its mel bands."""
    from librosa.feature import melspectrogram

    for start_s in np.arange(0.0, duration_s, _BLOCK_S).tolist():
        end_s = min(start_s + _BLOCK_S, duration_s)
        sound = decode_sound(path, sample_rate=SAMPLE_RATE, start_s=start_s, end_s=end_s)
        samples = np.pad(sound, (0, max(0, _WINDOW - len(sound)))).astype(np.float32) / 32768
        yield (
            start_s,
            melspectrogram(y=samples, sr=SAMPLE_RATE, n_fft=_WINDOW, hop_length=_HOP, n_mels=BANDS),
        )


def _filled(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means; a column of a short recording that no frame falls on is as the last one before it."""
    last = np.maximum.accumulate(np.where(counts > 0, np.arange(len(counts)), 0))
    return sums[:, last] / np.maximum(counts[last], 1)
