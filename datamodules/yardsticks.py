"""Crude features of recordings: what could be clustered without looking or listening."""

import numpy as np
import pyarrow as pa

from datamodules.stores.cache import DecodedCache
from datamodules.stores.opening import Media
from selavi.media import decode_recording
from selavi.meter import follow
from selavi.runs.manifest import media_root


def crude_features(rows: pa.Table, media: Media) -> dict[str, np.ndarray]:
    """Measure every recording of some manifest rows, whose clips come from `media`.

    Returns:
        mean colour (N, 3) over all frames and pixels in [0, 255] (black without a picture), loudness (N, 1) in dB
        relative to full scale (-120 without sound), file size (N, 1) in bytes and duration (N, 1) in seconds.
    """
    cache = media if isinstance(media, DecodedCache) else None
    colours, levels = [], []
    ids, paths = rows["id"].to_pylist(), rows["path"].to_pylist()
    for clip_id, path in follow(zip(ids, paths, strict=True), "crude features", len(ids)):
        recording = cache[clip_id] if cache else decode_recording(media_root(rows) / path, size=32, sample_rate=8000)
        colours.append(recording.frames.mean((0, 1, 2)) if len(recording.frames) else np.zeros(3))
        power = np.square(recording.waveform / 32768).mean() if recording.waveform.size else 0.0
        levels.append(10 * np.log10(power + 1e-12))
    return {
        "mean colour": np.array(colours),
        "loudness": np.array(levels)[:, None],
        "file size": rows["bytes"].to_numpy().astype(np.float64)[:, None],
        "duration": rows["duration_s"].to_numpy()[:, None],
    }
