"""RUN/localise/SPLIT-hH.parquet: the box that a map of a clip points at, a row a clip and moment."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.errors import UsageError
from selavi.results.evidence import Evidence
from selavi.results.naming import REJECTED, Names, apply_names
from selavi.scores.baselines import cluster_features, scale_features
from selavi.scores.boxes import box_of_map

BOX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("time_s", pa.float64(), nullable=False),
        pa.field("x0", pa.float64(), nullable=False),
        pa.field("y0", pa.float64(), nullable=False),
        pa.field("x1", pa.float64(), nullable=False),
        pa.field("y1", pa.float64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("peak", pa.float32(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("sounding", pa.float32()),
        pa.field("maps", pa.string(), nullable=False),
    ]
)
"""Column by column: id of the clip, and the moment in it (seconds from its beginning); left, upper, right and lower
edge, in pixels of the picture as it is shown, whose width and height follow; score, the share of the picture's evidence
that lies in the box; peak, the largest evidence in the picture (what a map of the clip stands for: docs/evidence.md);
the clip's cluster, its name (null without one) and how confident its label is; sounding, by how much the sound around
the moment raises the cluster's score above what silence gives (null without sound); maps, the kind of map that the box
was put around.  `segment` follows where segments
were asked for."""
KEY = b"selavi_key"
"""In the schema's metadata: names the checkpoint that the evidence came from; files of earlier versions lack it."""
SEGMENT = pa.field("segment", pa.int32())
"""Which of K groups of pictures alike a row is in; null where its picture could not be read again."""


def explained_clips(table: pa.Table, names: Names, head: int) -> tuple[pa.Table, int, int]:
    """The clips of a head whose class is what the model sees in them.

    Evidence is for the cluster that the labelling gave.  A clip that a person moved to another one is called by that
    one's name, which the evidence is not for.

    Args:
        table: a cluster table (CLUSTER_SCHEMA) of one head, without names.
        names: what a person decided.
        head: the head.

    Returns:
        The rows that are kept, names laid over them; the number of rejected clips, and that of moved ones.
    """
    named = apply_names(table, names)
    is_rejected = pc.equal(named["cluster"], REJECTED)
    given = table["cluster"].take(pc.index_in(named["id"], value_set=table["id"]))
    own = names.final_cluster(head, given.to_numpy())
    is_moved = pc.and_(pc.not_equal(named["cluster"], pa.array(own, pa.int32())), pc.invert(is_rejected))
    kept = named.filter(pc.invert(pc.or_(is_rejected, is_moved)))
    return kept, _count(is_rejected), _count(is_moved)


def box_rows(
    evidence: Iterable[Evidence], clips: Mapping[str, Mapping[str, Any]], modality: str, boxless: list[str]
) -> Iterator[dict[str, Any]]:
    """A row of BOX_SCHEMA for each picture in which there is any evidence.

    Args:
        evidence: of any clips; those that are not in `clips` are passed over.
        clips: by id, each with width and height (pixels), cluster, name and confidence.
        modality: whose maps lie in pictures.
        boxless: takes the id of the clip of each picture without evidence.
    """
    for one in evidence:
        levels = one.levels(modality)
        if one.id not in clips or levels is None:
            continue
        clip, unit = clips[one.id], one.maps[modality].peak / 255
        width, height = clip["width"], clip["height"]
        for time_s, picture in zip(one.times_s.tolist(), levels, strict=True):
            pointed = box_of_map(picture)
            if pointed is None:
                boxless.append(one.id)
                continue
            left, top, right, bottom = pointed.box
            yield {
                "id": one.id,
                "time_s": time_s,
                "x0": left * width,
                "y0": top * height,
                "x1": right * width,
                "y1": bottom * height,
                "width": width,
                "height": height,
                "score": pointed.share,
                "peak": float(picture.max()) * unit,
                "cluster": clip["cluster"],
                "name": clip["name"],
                "confidence": clip["confidence"],
            }


def segments_of(features: np.ndarray, num_segments: int, seed: int) -> np.ndarray:
    """Group pictures by K-means on their standardised features, the best of ten starts.

    Args:
        features: (n, C); rows that are not finite are left out.
        num_segments: K.
        seed: of the starts.

    Returns:
        (n,) int64, numbered by size, the largest 0; -1 for a row that is left out.

    Raises:
        UsageError: K is larger than the number of rows that are not left out.
    """
    is_there = np.isfinite(features).all(1)
    if num_segments > is_there.sum():
        raise UsageError(
            f"{num_segments} segments of {is_there.sum()} pictures with evidence: take fewer segments, or more clips"
        )
    groups = cluster_features(scale_features(features[is_there], "standardise"), num_segments, seed=seed)
    by_size = np.argsort(-np.bincount(groups, minlength=num_segments), kind="stable")
    segments = np.full(len(features), -1)
    segments[is_there] = np.argsort(by_size)[groups]
    return segments


def box_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of BOX_SCHEMA, and perhaps segments, as a table, sorted by id and time."""
    schema = BOX_SCHEMA.append(SEGMENT) if rows and SEGMENT.name in rows[0] else BOX_SCHEMA
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    return table.sort_by([("id", "ascending"), ("time_s", "ascending")])


def _count(mask: Any) -> int:
    return int(np.count_nonzero(mask.to_numpy()))
