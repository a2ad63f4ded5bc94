"""Where the clips of a manifest come from: decoded ahead, shards, or the media files themselves."""

import logging
from pathlib import Path

import pyarrow as pa

from datamodules.index.manifest import probed
from datamodules.index.moved import require_clips
from datamodules.stores.cache import DecodedCache, build_cache, estimate_gb, is_decoded
from datamodules.stores.shards import ShardReader, is_prepared, open_shards
from selavi.config import Config
from selavi.filesystem import is_writable
from selavi.modalities import reads_media, reads_part, request_of_media, require_mixed

log = logging.getLogger("selavi")

Media = DecodedCache | ShardReader | None
"""Where clips come from: decoded ahead, shards, or (None) the files themselves."""


def open_media(config: Config, manifest: pa.Table, *, may_decode_ahead: bool = True) -> Media:
    """Where the clips of a finished run's manifest come from, nothing decoded twice.

    Args:
        config: settings of the run.
        manifest: of the run.
        may_decode_ahead: decode small sets ahead, as training does; not worth it for few clips.

    Raises:
        UsageError: the media are not there any more.
    """
    if not reads_media(config):
        return None
    prepared = open_prepared(config)
    if prepared is not None and prepared[1] is not None:
        require_mixed(config)
        return prepared[1]
    if not may_decode_ahead:
        require_clips(config, manifest)
        return None
    if not are_decoded_ahead(config, manifest):
        require_clips(config, manifest)
        if config.data.cache_gb and not is_writable(config.data.cache_dir):
            log.warning(f"data.cache_dir={config.data.cache_dir} cannot be written: decoding each clip anew")
            return None
    return decode_ahead(config, manifest)[0]


def open_prepared(config: Config) -> tuple[pa.Table, ShardReader | None] | None:
    """The manifest and the reader (None: of files) of prepared clips; None where `data.root` is a folder of media."""
    data = config.data
    if not is_prepared(data.root) and "://" not in data.root:
        return None
    return open_shards(data.root, Path(data.cache_dir), data.shard_cache_gb)


def decode_ahead(config: Config, manifest: pa.Table) -> tuple[DecodedCache | None, dict[str, tuple[str, str]]]:
    """Decode every file that could be probed, where that fits; return also the ids that failed, (status, reason).

    Which of them a run uses does not matter: the same files are found decoded under any clip_s and audio_policy, and
    by a run's manifest that has the failures marked.
    """
    data, rows = config.data, probed(manifest)
    reading = [name for name in config.kinds if reads_part(config, name)]
    if reading:
        if data.cache_gb:
            log.warning(
                f"what is decoded ahead has one picture, and its channels mixed, and {reading[0]} reads a channel or a "
                "picture stream of its own: decoding each clip anew"
            )
        return None, {}
    size, sample_rate = _decoded_as(config)
    needed_gb = estimate_gb(rows, size, sample_rate)
    if data.cache_gb and needed_gb <= data.cache_gb:
        return build_cache(rows, Path(data.cache_dir), size, sample_rate, data.scan_workers)
    if data.cache_gb:
        log.warning(
            f"decoded media would need {needed_gb:.1f} GB, data.cache_gb={data.cache_gb}: decoding each clip anew"
        )
    return None, {}


def are_decoded_ahead(config: Config, manifest: pa.Table) -> bool:
    """Whether what decode_ahead would write for these files is in the cache."""
    if any(reads_part(config, name) for name in config.kinds):
        return False
    return is_decoded(probed(manifest), Path(config.data.cache_dir), *_decoded_as(config))


def _decoded_as(config: Config) -> tuple[int, int]:
    """Pixels and samples a second of media that are decoded ahead."""
    request = request_of_media(config)
    return request.size, request.sample_rate
