"""What the page knows of each clip beside its cluster's file: by row for the large view, by cluster for the queue.

Figures are whole numbers in base64, a few bytes a clip and head: a file a head for the queue, which is read when
somebody opens it, and a file for each thousand clips for the large view.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selavi.results.gallery.data import base64_of, rounded, write_call
from selavi.results.gallery.select import Head, HeadClusters, Selector

ROWS_PART = 1000
"""Clips of a file, by row."""
UNKNOWN = 65_535
"""Where a figure is not known."""
SHARES = 10_000
"""Steps of a confidence or an agreement, which go from 0 to 1."""
DISTANCES = 1000
"""Steps of a distance of 1."""


def write_rows(
    folder: Path,
    clips: pa.Table,
    heads: Sequence[Head],
    clusters: Mapping[int, HeadClusters],
    near: tuple[np.ndarray, np.ndarray] | None,
    *,
    with_rates: bool,
) -> list[Path]:
    """Write data/clips-0.js ...: each clip's place and confidence under every head, its nearest clips, its frame rate.

    Args:
        folder: the gallery's data folder.
        clips: of select.arrange, N of them.
        heads: of select.arrange.
        clusters: of Selector.select, by head.
        near: (Q,) rows and (Q, 10) rows of their nearest clips, -1 for none; None where nobody has looked.
        with_rates: whether what plays has the frame rates (frames per second) of the recordings.

    Returns:
        The files.
    """
    table = _near_table(near, len(clips))
    ranks = {head.head: _ranks(clusters[head.head]) for head in heads}
    files = []
    for part, start in enumerate(range(0, len(clips), ROWS_PART)):
        rows = slice(start, start + ROWS_PART)
        content: dict[str, Any] = {"near": None, "rates": None}
        if table is not None and (table[rows] >= 0).any():
            content["near"] = base64_of(table[rows].astype("<i4"))
        if with_rates and "fps" in clips.column_names:
            content["rates"] = rounded(clips["fps"].slice(start, ROWS_PART).to_numpy())
        for head in heads:
            content[f"h{head.head}"] = {
                "cluster": base64_of(head.cluster[rows].astype("<i4")),
                "rank": base64_of(ranks[head.head][rows].astype("<i4")),
                "confidence": _steps(head.confidence[rows], SHARES),
            }
        files.append(write_call(folder / f"clips-{part}.js", "selavi.clips", part, content))
    return files


def write_queue(folder: Path, head: Head, clusters: HeadClusters, selector: Selector) -> Path:
    """Write data/queue-hH.js: what a work queue is sorted by, for all clips of a head, by cluster and rank.

    `odd` is a clip's distance to the mean features of its cluster, divided by the mean distance of the cluster's clips;
    `differs` has a bit for each clip with another label than the one that more than half of its cluster's labelled
    clips carry.  A column is null where nothing of it is known.

    Args:
        folder: the gallery's data folder.
        head: its figures.
        clusters: its clusters.
        selector: that chose them.
    """
    order = clusters.order
    differs = selector.differs(clusters)
    content = {
        "confidence": _steps(head.confidence[order], SHARES),
        "agreement": _steps(head.agreement[order], SHARES),
        "odd": None if clusters.oddness is None else _steps(clusters.oddness, DISTANCES),
        "differs": base64_of(np.packbits(differs, bitorder="little")) if differs.any() else None,
    }
    return write_call(folder / f"queue-h{head.head}.js", "selavi.queue", f"h{head.head}", content)


def _near_table(near: tuple[np.ndarray, np.ndarray] | None, num_clips: int) -> np.ndarray | None:
    if near is None:
        return None
    rows, found = near
    table = np.full((num_clips, found.shape[1]), -1, np.int32)
    table[rows] = found
    return table


def _ranks(clusters: HeadClusters) -> np.ndarray:
    """(N,) each clip's rank within its cluster, by row."""
    ranks = np.empty(len(clusters.order), np.int64)
    for cluster in clusters.clusters:
        ranks[clusters.clips(cluster)] = np.arange(cluster.size)
    return ranks


def _steps(values: np.ndarray, steps: int) -> str | None:
    """Figures from 0 as 16 bits, UNKNOWN where they are; None where all are."""
    is_known = np.isfinite(values)
    if not is_known.any():
        return None
    numbers = np.clip(np.rint(np.where(is_known, values, 0) * steps), 0, UNKNOWN - 1)
    return base64_of(np.where(is_known, numbers, UNKNOWN).astype("<u2"))
