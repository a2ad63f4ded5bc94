"""Thumbnails: four frames of a recording side by side, and below them all of its sound as a spectrogram.

Every thumbnail of a gallery has the same geometry, so that the page knows where each frame lies.  What is here runs in
worker processes: it imports as little as it can.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from selavi.atomic import write_atomically
from selavi.media import MediaError, decode_clip, decode_frames_at, decode_sound, is_still

NUM_FRAMES = 4
FRAME_HEIGHT = 120
SPECTROGRAM_HEIGHT = 40
ALONE_HEIGHT = 80
"""Height of the spectrogram in a set without pictures, where it fills the tile."""
SAMPLE_RATE = 16_000
"""Rate of the sound that is drawn, where nothing else is said; the strip shows up to half of it."""
_RATIOS = (3 / 4, 16 / 9)  # narrowest and widest frame, width over height
_BACKGROUND = (24, 24, 27)
_RANGE_DB = 70.0
_FAINTEST = 1e-6
"""Power below which nothing is loudest: silence stays dark."""
_SHORT_S = 4.0
_LONG_S = 120.0
_WINDOWS = 80
"""Windows of a second in which longer recordings are heard, which bounds time and memory."""


@dataclass(frozen=True)
class Geometry:
    """Pixels of every thumbnail of a gallery."""

    width: int
    """Width of one frame."""
    height: int = FRAME_HEIGHT
    frames: int = NUM_FRAMES
    """0 for a set without pictures."""
    spectrogram: int = SPECTROGRAM_HEIGHT
    """Height of the strip, 0 for a set without sound."""
    sample_rate: int = SAMPLE_RATE
    """Rate of the sound that is drawn: with that of the run the strip's mel bands are those that the model hears."""

    @staticmethod
    def of(ratios: np.ndarray, has_pictures: bool, has_sound: bool, sample_rate: int = SAMPLE_RATE) -> "Geometry":
        """Frames as wide as the median recording's, within bounds.

        Args:
            ratios: width over height of the recordings; may be empty.
            has_pictures: whether any has frames.
            has_sound: whether any has sound.
            sample_rate: of the sound that is drawn.
        """
        ratio = float(np.clip(np.median(ratios), *_RATIOS)) if len(ratios) else 4 / 3
        frames = NUM_FRAMES * has_pictures
        spectrogram = (SPECTROGRAM_HEIGHT if has_pictures else ALONE_HEIGHT) * has_sound
        return Geometry(round(FRAME_HEIGHT * ratio), FRAME_HEIGHT, frames, spectrogram, sample_rate)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole."""
        return NUM_FRAMES * self.width, self.height * (self.frames > 0) + self.spectrogram

    def frame_box(self, index: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Where a recording's frame lies, whole and in the middle of its place: left, top, right, bottom."""
        scale = min(self.width / width, self.height / height)
        across, down = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = index * self.width + (self.width - across) // 2, (self.height - down) // 2
        return left, top, left + across, top + down

    @property
    def spectrogram_box(self) -> tuple[int, int, int, int]:
        """Where the spectrogram lies: left, top, right, bottom."""
        width, height = self.size
        return 0, height - self.spectrogram, width, height


@dataclass(frozen=True)
class ThumbnailJob:
    """A thumbnail to make."""

    target: Path
    source: Path
    row: int
    """Number of the clip, for readers that have no file."""
    start_s: float
    duration_s: float
    has_picture: bool
    has_sound: bool


Reader = Callable[[ThumbnailJob, Geometry], tuple[Sequence[np.ndarray], np.ndarray]]
"""Gives the frames, (h, w, 3) uint8 each, and the sound, (S,) int16 of geometry.sample_rate, of a clip."""


def thumbnail_name(kind: str, clip_id: str, start_s: float, num_bytes: int | None, mtime_ns: int | None) -> str:
    """A file name that changes when the recording does; an id may hold anything, so it is hashed.

    Args:
        kind: what else the content depends on, such as the geometry.
        clip_id: of the clip.
        start_s: of the clip.
        num_bytes: size of the recording.
        mtime_ns: when it was changed.
    """
    facts = "\x1f".join([clip_id, repr(start_s), str(num_bytes), str(mtime_ns), kind])
    return hashlib.sha256(facts.encode()).hexdigest()[:24]


def make_thumbnail(job: ThumbnailJob, geometry: Geometry, read: Reader) -> str:
    """Write a thumbnail unless it is there already.

    Returns:
        What it did: "made" or "kept".

    Raises:
        MediaError: the recording cannot be decoded.
    """
    if job.target.exists():
        return "kept"
    try:
        picture = draw(*read(job, geometry), geometry)
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # whatever a hostile file makes of a library: one placeholder, not the end of an export
        raise MediaError(job.source, "corrupt", f"{type(error).__name__}: {error}") from error
    with write_atomically(job.target) as temporary:
        picture.save(temporary, "JPEG", quality=80)
    return "made"


def read_file(job: ThumbnailJob, geometry: Geometry) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """Decode the frames and the sound of a thumbnail from a media file.

    A sound that cannot be decoded leaves its place dark.

    Raises:
        MediaError: the frames cannot be decoded.
    """
    frames: list[np.ndarray] = []
    if job.has_picture and geometry.frames:
        short_side = min(geometry.width, geometry.height)
        if is_still(job.source):
            frames = [*decode_frames_at(job.source, [0.0], short_side)] * geometry.frames
        else:
            # A single call decodes all that lies between the first frame and the last, one a frame opens the file anew.
            times = times_of(job)
            calls = [times] if job.duration_s <= _SHORT_S else [[time_s] for time_s in times]
            frames = [frame for call in calls for frame in decode_frames_at(job.source, call, short_side)]
    sound = np.zeros(0, np.int16)
    if job.has_sound and geometry.spectrogram:
        rate = geometry.sample_rate
        try:
            end_s = job.start_s + job.duration_s
            if job.duration_s > _LONG_S:
                sound = _windows(job, rate)
            else:
                sound = decode_sound(job.source, sample_rate=rate, start_s=job.start_s, end_s=end_s)
        except MediaError:
            if not frames:
                raise
    return frames, sound


def times_of(job: ThumbnailJob) -> list[float]:
    """When the frames of a thumbnail are shown, in seconds of the recording."""
    return [job.start_s + (i + 0.5) * job.duration_s / NUM_FRAMES for i in range(NUM_FRAMES)]


def draw(frames: Sequence[np.ndarray], sound: np.ndarray, geometry: Geometry) -> Image.Image:
    """Draw a thumbnail.

    Args:
        frames: (h, w, 3) uint8 each; none for a dark place.
        sound: (S,) int16 of geometry.sample_rate; S = 0 for a dark place.
        geometry: of the thumbnail.
    """
    picture = Image.new("RGB", geometry.size, _BACKGROUND)
    for index, frame in enumerate(frames[: geometry.frames]):
        box = geometry.frame_box(index, frame.shape[1], frame.shape[0])
        resized = Image.fromarray(frame).resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
        picture.paste(resized, box[:2])
    if geometry.spectrogram and sound.size:
        picture.paste(draw_spectrogram(sound, geometry), geometry.spectrogram_box[:2])
    return picture


def draw_spectrogram(sound: np.ndarray, geometry: Geometry) -> Image.Image:
    """Draw the loudness (dB below the loudest, 70 dB deep) of mel bands over time, high bands above."""
    from librosa.feature import melspectrogram

    left, top, right, bottom = geometry.spectrogram_box
    columns, bands = right - left, bottom - top
    hop = max(1, len(sound) // columns)
    window = max(1024, 1 << (hop - 1).bit_length())
    samples = np.pad(sound, (0, max(0, window - len(sound)))).astype(np.float32) / 32768
    power = melspectrogram(y=samples, sr=geometry.sample_rate, n_fft=window, hop_length=hop, n_mels=bands)
    loudness = 10 * np.log10(np.maximum(power, 1e-12) / max(float(power.max()), _FAINTEST))
    levels = np.clip(np.rint(255 * (1 + loudness / _RANGE_DB)), 0, 255).astype(np.uint8)
    return Image.fromarray(COLOURS[levels[::-1]]).resize((columns, bands), Image.Resampling.BILINEAR)


def _windows(job: ThumbnailJob, sample_rate: int) -> np.ndarray:
    """A second of sound each at even distances."""
    pieces = []
    for start_s in np.linspace(0, job.duration_s - 1, _WINDOWS).tolist():
        piece = decode_clip(
            job.source, job.start_s + start_s, 1.0, num_frames=0, size=1, offset=0, sample_rate=sample_rate
        )[1]
        pieces.append(np.zeros(sample_rate, np.int16) if piece is None else piece)
    return np.concatenate(pieces)


def _colours() -> np.ndarray:
    """(256, 3) uint8: from near black over purple and orange to pale yellow, even in perceived lightness.

    Lightness rises linearly in Oklab (B. Ottosson, 2020, "A perceptual color space for image processing"), while the
    hue turns from violet through red to yellow and the chroma is largest in the middle.
    """
    at = np.linspace(0, 1, 256)
    lightness = 0.16 + 0.81 * at
    hue = np.deg2rad(-75 + 180 * at)  # violet is at -75 degrees, yellow at 105
    chroma = 0.03 + 0.15 * np.sin(np.pi * np.clip(at * 0.95 + 0.05, 0, 1)) ** 0.8
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    mixing = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(mixing @ cones**3, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8).T.copy()


COLOURS = _colours()
