"""Random numbers as a pure function of (seed, stream, epoch, clip id): no state, so no order and no worker matters."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

_MASK = (1 << 64) - 1


def mix(*parts: int | str) -> int:
    """Hash integers and strings to 63 bits: a seed for a torch.Generator or a numpy Generator."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (_MASK >> 1)


def uniforms(seed: int, stream: str, epoch: int, ids: Sequence[str], num: int) -> np.ndarray:
    """Draw `num` numbers in [0, 1) for each clip.

    Args:
        seed: the run's seed.
        stream: names the use ("span", "crop", ...), so that two uses do not share numbers.
        epoch: number of the pass over the data.
        ids: clip ids; the numbers of a clip do not depend on the other ids.
        num: how many numbers a clip needs.

    Returns:
        (len(ids), num) float64.
    """
    keys = np.array([mix(seed, stream, epoch, clip_id) for clip_id in ids], dtype=np.uint64)
    counters = np.arange(1, num + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = keys[:, None] + counters[None, :]  # splitmix64 (Steele, Lea, Flood 2014): one output a counter
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
