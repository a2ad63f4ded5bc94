"""selavi/results/boxes.py: which clips get boxes, and where they lie in their pictures."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selavi.errors import UsageError
from selavi.results.boxes import BOX_SCHEMA, box_rows, box_table, explained_clips, segments_of
from selavi.results.cluster_table import CLUSTER_SCHEMA
from selavi.results.evidence import Evidence, EvidenceMap
from selavi.results.naming import Names


def table_of(clusters: list[int]) -> pa.Table:
    ids = [f"{number}.mp4" for number in range(len(clusters))]
    fixed = {name: [0.5] * len(ids) for name in ("start_s", "confidence", "margin", "entropy")}
    columns = {"id": ids, "path": ids, "head": [2] * len(ids), "cluster": clusters, "rank_in_cluster": [0] * len(ids)}
    empty = {name: [None] * len(ids) for name in ("name", "modality_agreement", "label", "end_s")}
    return pa.table({**columns, **fixed, **empty}, schema=CLUSTER_SCHEMA)


def decision(cluster: int, clip: int | None = None, **more: Any) -> dict[str, Any]:
    row = {"head": 2, "cluster": cluster, "id": None if clip is None else f"{clip}.mp4", "name": "", "into": None}
    return {**row, "rejected": False, **more}


def test_a_clip_keeps_its_box_only_where_its_class_is_what_the_evidence_is_for() -> None:
    names = Names(
        [
            decision(1, name="dog"),
            decision(2, into=1),
            decision(3, rejected=True),
            decision(1, clip=0, into=4),  # moved
            decision(1, clip=1, rejected=True),
            decision(1, clip=2, into=1),  # confirmed
            decision(3, clip=5, into=1),  # moved out of a rejected cluster
        ]
    )
    kept, num_rejected, num_moved = explained_clips(table_of([1, 1, 1, 2, 3, 3, 4]), names, 2)
    rows = {row["id"]: (row["cluster"], row["name"]) for row in kept.to_pylist()}
    assert rows == {"2.mp4": (1, "dog"), "3.mp4": (1, "dog"), "6.mp4": (4, None)}
    assert (num_rejected, num_moved) == (2, 2)


def test_boxes_are_in_pixels_of_the_picture() -> None:
    levels = np.zeros((4, 10, 20), np.uint8)
    levels[0, 2:5, 4:8] = 200
    levels[1, 9, 19] = 255
    levels[3, :, :] = 10
    evidence = Evidence("a", 3, 0.0, np.array([0.5, 1.5, 2.5, 3.5]), {"video": EvidenceMap(levels, 2.55)})
    deaf = Evidence("b", 3, 0.0, np.array([0.5, 1.5, 2.5, 3.5]), {"audio": EvidenceMap(levels[0], 1.0)})
    clip = {"width": 400, "height": 100, "cluster": 3, "name": None, "confidence": 0.75}
    boxless: list[str] = []
    rows = list(box_rows([evidence, deaf, evidence], {"a": clip, "b": clip}, "video", boxless))
    table = box_table(rows[:3])
    assert table.schema.equals(BOX_SCHEMA) and boxless == ["a", "a"] and len(rows) == 6
    found = [(row["time_s"], row["x0"], row["y0"], row["x1"], row["y1"]) for row in table.to_pylist()]
    assert found == [(0.5, 80, 20, 160, 50), (1.5, 380, 90, 400, 100), (3.5, 0, 0, 400, 100)]
    assert table["peak"].to_pylist() == pytest.approx([2.0, 2.55, 0.1])
    assert table["score"].to_pylist() == [1.0, 1.0, 1.0]


def test_clips_that_are_not_asked_for_are_passed_over() -> None:
    evidence = Evidence("a", 3, 0.0, np.array([0.5]), {"video": EvidenceMap(np.ones((1, 4, 4), np.uint8), 1.0)})
    assert list(box_rows([evidence], {}, "video", [])) == []


def test_segments_are_groups_of_pictures_alike_the_largest_first() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([2, 0, 1], [4, 9, 6])
    features = rng.normal(0, 0.1, (19, 5)) + 3 * rng.normal(size=(3, 5))[truth]
    features[7] = np.nan
    segments = segments_of(features * [1, 1e3, 1e-3, 1, 1], 3, seed=1)
    assert segments[7] == -1
    assert np.delete(segments, 7).tolist() == np.delete(truth, 7).tolist()
    with pytest.raises(UsageError, match="19 segments of 18 pictures"):
        segments_of(features, 19, seed=1)
