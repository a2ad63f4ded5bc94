"""What the workers of `selavi export` do with prepared clips; imports little, so that they start soon."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.signal import resample_poly

from datamodules.stores.shards import ShardReader
from selavi.atomic import write_atomically
from selavi.media import encode_clip, encode_jpeg
from selavi.results.gallery.media import MediaJob
from selavi.results.gallery.thumbnails import Geometry, ThumbnailJob, times_of
from selavi.results.handover.pictures import PictureJob

_FRAMES_AT_ONCE = 64


def read_shard(
    job: ThumbnailJob, geometry: Geometry, *, reader: ShardReader
) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """Read the frames and the sound of a thumbnail.

    Args:
        job: whose row is that of the reader.
        geometry: of the thumbnail.
        reader: of the gallery's clips.

    Raises:
        MediaError: the clip is not in the shards, or cannot be read.
    """
    frames = list(reader.frames_at(job.row, times_of(job))) if geometry.frames else []
    stored = reader.sample_rate
    rate = geometry.sample_rate
    sound = reader.sound(job.row) if geometry.spectrogram else np.zeros(0, np.int16)
    if sound.size and stored != rate:
        common = np.gcd(rate, stored)
        changed = resample_poly(sound.astype(np.float32), rate // common, stored // common)
        sound = np.clip(np.rint(changed), -32768, 32767).astype(np.int16)
    return frames, sound


def read_shard_pictures(job: PictureJob, *, reader: ShardReader) -> Sequence[np.ndarray]:
    """Read pictures of a clip, as large as they are stored.

    Args:
        job: whose row is that of the reader.
        reader: of the clips.

    Raises:
        MediaError: the clip is not in the shards, or cannot be read.
    """
    return list(reader.frames_at(job.row, job.times_s))


def write_shard(job: MediaJob, *, reader: ShardReader) -> str:
    """Write a prepared clip as an .mp4 or .jpg that browsers show, unless it is there.

    See selavi.results.gallery.media.Writer.

    Raises:
        MediaError: the clip is not in the shards, or cannot be read.
    """
    if job.target.exists():
        return "kept"
    times_s = reader.times_s(job.row)
    if job.target.suffix == ".jpg":  # a still picture
        with write_atomically(job.target) as temporary:
            temporary.write_bytes(encode_jpeg(reader.frames_at(job.row, [0.0])[0], 90))
        return "made"
    sound = reader.sound(job.row)
    fps = (len(times_s) - 1) / (times_s[-1] - times_s[0]) if len(times_s) > 1 else 1.0

    def frames() -> Iterator[np.ndarray]:
        for start in range(0, len(times_s), _FRAMES_AT_ONCE):
            for frame in reader.frames_at(job.row, times_s[start : start + _FRAMES_AT_ONCE].tolist()):
                yield frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]

    with write_atomically(job.target) as temporary:
        encode_clip(temporary, frames(), sound if sound.size else None, fps=fps, sample_rate=reader.sample_rate)
    return "made"
