"""The gallery's data for comparing: pairs of clusters, heads crossed with each other, and what colours the map."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selavi.results.gallery.alike import Crossing, Pairs
from selavi.results.gallery.data import base64_of, write_call
from selavi.results.gallery.select import Head

NUM_LABELS = 50
"""Labels of the map that are told apart, the most frequent ones."""
_STEPS = 200
"""Steps of a colour from 0 to 1; 255 stands for unknown."""
_OTHER, _UNKNOWN = 254, 255


def write_pairs(folder: Path, head: int, numbers: Sequence[int], pairs: Pairs) -> Path:
    """Write data/pairs-hH.js: pairs of clusters that may be the same, and how alike they are.

    Args:
        folder: the gallery's data folder.
        head: its number.
        numbers: (C,) of its clusters.
        pairs: of alike.find_pairs.
    """
    content = {
        "one": [numbers[place] for place in pairs.places[:, 0].tolist()],
        "other": [numbers[place] for place in pairs.places[:, 1].tolist()],
        "alike": _rounded(pairs.alike),
        "together": _rounded(pairs.together),
        "within": None if pairs.within is None else dict(zip(map(str, numbers), _listed(pairs.within), strict=True)),
        "tree": None if pairs.tree is None else pairs.tree.tolist(),
        "joined": _rounded(pairs.joined),
    }
    return write_call(folder / f"pairs-h{head}.js", "selavi.pairs", f"h{head}", content)


def write_crossing(folder: Path, head: int, other: int, numbers: Sequence[int], crossing: Crossing) -> Path:
    """Write data/cross-hH-hO.js: for each cluster of a head the clusters of another that hold most of its clips.

    Args:
        folder: the gallery's data folder.
        head: number of the head whose clusters are the rows.
        other: number of the other head.
        numbers: (C,) of the head's clusters.
        crossing: of alike.cross.
    """
    content = {"nmi": round(crossing.nmi, 4), "clusters": numbers, "largest": crossing.largest}
    return write_call(folder / f"cross-h{head}-h{other}.js", "selavi.cross", f"h{head}-h{other}", content)


def write_colours(folder: Path, head: Head, kept: np.ndarray | None, rows: np.ndarray) -> Path:
    """Write data/colours-hH.js: figures of the clips on the map under one head.

    Args:
        folder: the gallery's data folder.
        head: the head's figures.
        kept: (N,) of alike.OtherHeads; None where there is one head.
        rows: (P,) the clips that are drawn.
    """
    columns = {"confidence": head.confidence, "agreement": head.agreement, "heads": kept}
    known = {name: values[rows] for name, values in columns.items() if values is not None}
    content = {name: base64_of(_steps(values)) for name, values in known.items() if np.isfinite(values).any()}
    return write_call(folder / f"colours-h{head.head}.js", "selavi.colours", f"h{head.head}", content)


def write_label_colours(folder: Path, labels: pa.ChunkedArray, rows: np.ndarray) -> Path:
    """Write data/colours-labels.js: the labels of the clips on the map.

    Args:
        folder: the gallery's data folder.
        labels: (N,) strings or null.
        rows: (P,) the clips that are drawn.
    """
    drawn: list[str | None] = labels.take(pa.array(rows)).to_pylist()
    counts = Counter(label for label in drawn if label is not None)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    code = {name: place if place < NUM_LABELS else _OTHER for place, name in enumerate(names)}
    codes = np.array([_UNKNOWN if label is None else code[label] for label in drawn], np.uint8)
    content = {"labels": names[:NUM_LABELS], "numLabels": len(names), "code": base64_of(codes)}
    return write_call(folder / "colours-labels.js", "selavi.colours", "labels", content)


def nmi_of(crossings: Mapping[int, Crossing]) -> dict[str, float]:
    """NMI with each other head, by its number, for data/index.js."""
    return {str(other): round(crossing.nmi, 3) for other, crossing in crossings.items()}


def _steps(values: np.ndarray) -> np.ndarray:
    """Figures from 0 to 1 in _STEPS steps."""
    steps = np.rint(np.nan_to_num(values).clip(0, 1) * _STEPS)
    return np.where(np.isfinite(values), steps, _UNKNOWN).astype(np.uint8)


def _rounded(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else _listed(values)


def _listed(values: np.ndarray) -> list[Any]:
    return np.round(values.astype(np.float64), 3).tolist()
