"""Boxes over thumbnails lie where their pictures are, and are those of the clusters shown."""

import numpy as np
import pyarrow as pa

from selavi.results.gallery.boxes import COLUMNS, current_boxes, place_boxes
from selavi.results.gallery.thumbnails import Geometry

GEOMETRY = Geometry(160)


def table_of(rows: list[tuple[str, float, float, float, float, float, int, int, int]]) -> pa.Table:
    return pa.table({name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)})


def clips_of(durations_s: list[float | None]) -> pa.Table:
    return pa.table({"id": ["a", "b", "c"][: len(durations_s)], "duration_s": pa.array(durations_s, pa.float64())})


def test_a_box_lies_in_the_picture_of_its_moment() -> None:
    """Frames of 160 x 120; a picture of 320 x 180 is 160 x 90 there, 15 below the edge, one of 90 x 180 is 60 wide."""
    table = table_of(
        [
            ("b", 1.0, 0, 0, 320, 180, 320, 180, 3),
            ("b", 5.0, 160, 90, 320, 180, 320, 180, 3),
            ("b", 7.0, 10, 10, 10.5, 10.5, 320, 180, 3),
            ("a", 0.5, 45, 0, 90, 180, 90, 180, 3),
            ("nobody", 0.5, 0, 0, 90, 180, 90, 180, 3),
        ]
    )
    placed = place_boxes(table, clips_of([4.0, 8.0, 8.0]), GEOMETRY)
    assert placed[1] == [(0, 15, 160, 90), (400, 60, 80, 45), (485, 20, 1, 1)]
    assert placed[0] == [(80, 0, 30, 120)]
    assert placed[2] is None
    still = place_boxes(table.slice(3, 1), clips_of([None]), GEOMETRY)
    assert still == [[(80, 0, 30, 120)]]
    assert place_boxes(table, clips_of([4.0]), Geometry(160, frames=0)) == [None]


def test_boxes_of_another_cluster_are_left_out() -> None:
    explained = {"a": (1, 7, 3), "b": (2,), "c": (9,)}
    table = table_of([(name, 0.5, 0, 0, 1, 1, 1, 1, cluster) for name in explained for cluster in explained[name]])
    clusters, final = np.array([1, 3, 5]), np.array([7, 2, 5])
    kept = current_boxes(table, clips_of([1.0, 1.0, 1.0]), clusters, final)
    assert list(zip(kept["id"].to_pylist(), kept["cluster"].to_pylist(), strict=True)) == [("a", 1), ("a", 7), ("b", 2)]
