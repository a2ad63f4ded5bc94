"""Boxes over thumbnails: where those of a run's table lie among the pixels of a thumbnail."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.results.gallery.thumbnails import Geometry

PlacedBoxes = Sequence[list[tuple[int, int, int, int]] | None]
"""For each clip a box a picture, at most: left, top, width and height in pixels of the thumbnail; None for none."""
COLUMNS = ("id", "time_s", "x0", "y0", "x1", "y1", "width", "height", "cluster")
"""What is read of the table (selavi.results.boxes.BOX_SCHEMA)."""


def place_boxes(table: pa.Table, clips: pa.Table, geometry: Geometry) -> PlacedBoxes:
    """Place boxes on the thumbnails of clips.

    A picture is shown at (i + 0.5) / 4 of its clip, and lies whole in the middle of its place.

    Args:
        table: COLUMNS, a row a clip and moment; rows of clips that are not there are passed over.
        clips: N, of select.arrange.
        geometry: of the thumbnails.
    """
    placed: list[list[tuple[int, int, int, int]] | None] = [None] * len(clips)
    if not geometry.frames:
        return placed
    places = pc.fill_null(pc.index_in(table["id"], value_set=clips["id"].combine_chunks()), -1).to_pylist()
    durations_s = pc.fill_null(clips["duration_s"], 0.0).to_pylist()
    for box, place in zip(table.to_pylist(), places, strict=True):
        if place < 0:
            continue
        share = box["time_s"] / durations_s[place] if durations_s[place] else 0.0
        frame = min(max(int(share * geometry.frames), 0), geometry.frames - 1)
        left, top, right, bottom = geometry.frame_box(frame, box["width"], box["height"])
        across, down = (right - left) / box["width"], (bottom - top) / box["height"]
        corner = (left + round(box["x0"] * across), top + round(box["y0"] * down))
        size = (max(1, round((box["x1"] - box["x0"]) * across)), max(1, round((box["y1"] - box["y0"]) * down)))
        boxes = placed[place] or []
        boxes.append((*corner, *size))
        placed[place] = boxes
    return placed


def current_boxes(table: pa.Table, clips: pa.Table, clusters: np.ndarray, final: np.ndarray) -> pa.Table:
    """The rows whose box is for the cluster that their clip is in.

    Args:
        table: COLUMNS.
        clips: N, of select.arrange.
        clusters: (N,) of the clips, as they were labelled.
        final: (N,) of the clips after merges.
    """
    places = pc.index_in(table["id"], value_set=clips["id"].combine_chunks())
    is_there = pc.is_valid(places).to_numpy(zero_copy_only=False)
    rows = pc.fill_null(places, 0).to_numpy()
    explained = table["cluster"].to_numpy()
    return table.filter(pa.array(is_there & ((explained == clusters[rows]) | (explained == final[rows]))))
