import base64
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selavi.results.gallery.near import nearest_clips
from selavi.results.gallery.rows import DISTANCES, ROWS_PART, SHARES, UNKNOWN, write_queue, write_rows
from selavi.results.gallery.select import Head, Places, Selector
from tests.selavi.results.gallery.synthetic_gallery import synthetic_clips
from tests.selavi.results.gallery.test_data import read_call


def decode(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def selected(
    num_clips: int, features: bool = True
) -> tuple[pa.Table, list[Head], Selector, dict[int, Any], np.ndarray]:
    clips, heads, vectors = synthetic_clips(num_clips, 3)
    selector = Selector(clips, Places(), vectors if features else None)
    return clips, heads, selector, {head.head: selector.select(head) for head in heads}, vectors


def test_a_row_has_its_place_under_every_head_its_rate_and_its_nearest_clips(tmp_path: Path) -> None:
    clips, heads, _, clusters, features = selected(1500)
    rates = pa.array([29.97] * 1499 + [None], pa.float64())
    clips = clips.set_column(clips.column_names.index("fps"), "fps", rates)
    rows = np.array([1200, 3])
    near = rows, nearest_clips(features, rows)
    files = write_rows(tmp_path, clips, heads, clusters, near, with_rates=True)
    parts = [read_call(file) for file in files]
    assert [(name, content[0]) for name, content in parts] == [("selavi.clips", 0), ("selavi.clips", 1)]
    contents = [content[1] for _, content in parts]
    assert contents[0]["rates"][3] == 29.97 and contents[1]["rates"][-1] is None
    table = np.concatenate([decode(content["near"], "<i4") for content in contents]).reshape(1500, 10)
    assert (table[rows] == near[1]).all() and (np.delete(table, rows, 0) == -1).all()
    for head in heads:
        columns = [content[f"h{head.head}"] for content in contents]
        cluster, rank = (np.concatenate([decode(each[key], "<i4") for each in columns]) for key in ("cluster", "rank"))
        confidence = np.concatenate([decode(each["confidence"], "<u2") for each in columns]) / SHARES
        assert (cluster == head.cluster).all() and confidence == pytest.approx(head.confidence, abs=1 / SHARES)
        for each in clusters[head.head].clusters:
            members = clusters[head.head].clips(each)
            assert (rank[members] == np.arange(each.size)).all()


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    clips, heads, selector, clusters, _ = selected(30, features=False)
    (file,) = write_rows(tmp_path, clips.drop_columns("fps"), heads, clusters, None, with_rates=True)
    content = read_call(file)[1][1]
    assert content["near"] is None and content["rates"] is None and len(clips) < ROWS_PART
    unknown = np.full(30, np.nan, np.float32)
    head = Head(0, heads[0].cluster, heads[0].confidence, unknown, unknown, unknown)
    queue = read_call(write_queue(tmp_path, head, clusters[0], selector))[1][1]
    assert queue["agreement"] is None and queue["odd"] is None and queue["confidence"] is not None


def test_frame_rates_of_transcoded_files_are_not_those_of_the_recordings(tmp_path: Path) -> None:
    clips, heads, _, clusters, _ = selected(30)
    (file,) = write_rows(tmp_path, clips, heads, clusters, None, with_rates=False)
    assert read_call(file)[1][1]["rates"] is None


def test_the_queue_has_each_clip_by_cluster_and_rank(tmp_path: Path) -> None:
    clips, heads, selector, clusters, features = selected(300)
    name, queue = read_call(write_queue(tmp_path, heads[1], clusters[1], selector))[1]
    order = clusters[1].order
    assert name == "h1"
    assert decode(queue["confidence"], "<u2") / SHARES == pytest.approx(heads[1].confidence[order], abs=1 / SHARES)
    agreement = decode(queue["agreement"], "<u2")
    assert ((agreement == UNKNOWN) == np.isnan(heads[1].agreement[order])).all()

    odd = decode(queue["odd"], "<u2") / DISTANCES
    labels = np.array(clips["label"].to_pylist(), object)
    differs = np.unpackbits(decode(queue["differs"], "u1"), bitorder="little", count=300).astype(bool)
    for cluster in clusters[1].clusters:
        members = clusters[1].clips(cluster)
        place = slice(cluster.start, cluster.start + cluster.size)
        away = features[members].astype(np.float64)
        away = np.linalg.norm(away - away.mean(0), axis=1)
        assert odd[place] == pytest.approx(away / away.mean(), abs=2e-3)
        known = [label for label in labels[members] if label is not None]
        (most, count) = max(((label, known.count(label)) for label in set(known)), key=lambda each: each[1])
        expected = [label is not None and label != most and 2 * count > len(known) for label in labels[members]]
        assert differs[place].tolist() == expected
