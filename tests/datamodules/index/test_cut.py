import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.index.cut import cut_evenly, piece_id
from selavi.runs.manifest import SCHEMA

WHOLE = {"split": "train", "label": "rain", "start_s": 0.0, "audio_state": "ok", "status": "ok"}


def manifest(*rows: dict[str, object]) -> pa.Table:
    named = [{"id": f"{n}.mp4", "path": f"{n}.mp4"} | WHOLE | row for n, row in enumerate(rows)]
    return pa.Table.from_pylist(named, schema=SCHEMA.with_metadata({"root": "/media"}))


def spans(table: pa.Table) -> list[tuple[float, float]]:
    return list(zip(table["start_s"].to_pylist(), table["end_s"].to_pylist(), strict=True))


def test_a_recording_becomes_pieces_that_inherit_from_it() -> None:
    table, told = cut_evenly(manifest({"duration_s": 25.0, "audio_s": 14.0}), 10.0, 10.0, 1.0)
    assert table["id"].to_pylist() == ["0.mp4#t=0.0,10.0", "0.mp4#t=10.0,20.0", "0.mp4#t=20.0,25.0"]
    assert table["path"].to_pylist() == ["0.mp4"] * 3
    assert table["label"].to_pylist() == ["rain"] * 3
    assert spans(table) == [(0.0, 10.0), (10.0, 20.0), (20.0, 25.0)]
    assert table["duration_s"].to_pylist() == [10.0, 10.0, 5.0]
    assert table["audio_s"].to_pylist() == [10.0, 4.0, 0.0]
    assert table["audio_state"].to_pylist() == ["ok", "ok", "absent"]
    assert table.schema.metadata == {b"root": b"/media"}
    assert told == "1 recording is cut into 3 pieces of 10 s"


def test_what_is_short_or_unknown_stays_whole() -> None:
    rows = manifest({"duration_s": 10.0, "audio_s": 10.0}, {"status": "corrupt"}, {"duration_s": 30.5, "audio_s": 9.0})
    table, told = cut_evenly(rows, 10.0, 10.0, 1.0)
    assert table["id"].to_pylist()[:2] == ["0.mp4", "1.mp4"]
    assert table["end_s"].null_count == 2
    assert table["status"].to_pylist() == ["ok", "corrupt", "ok", "ok", "ok"]
    assert told == (
        "1 recording is cut into 3 pieces of 10 s; 1 stay whole, not longer than that; 0.5 s at the ends of 1 are "
        "too short for a piece and left out"
    )


def test_silence_is_known_only_where_a_scan_has_listened() -> None:
    rows = manifest({"duration_s": 60.0, "audio_s": 60.0, "audio_state": "silent"})
    assert cut_evenly(rows, 20.0, 20.0, 1.0)[0]["audio_state"].to_pylist() == ["silent", "ok", "ok"]


@pytest.mark.parametrize(("times", "expected"), [((0, 10), "0.0,10.0"), ((120.25, 1e4), "120.25,10000.0")])
def test_an_id_has_the_times_as_media_fragments_write_them(times: tuple[float, float], expected: str) -> None:
    assert piece_id("a b,c.mp4", *times) == f"a b,c.mp4#t={expected}"


@given(
    duration_s=st.floats(0.5, 4000.0),
    cut_s=st.floats(0.5, 60.0),
    stride=st.floats(0.1, 2.0),
    least=st.floats(0.05, 1.0),
)
def test_pieces_cover_what_they_can(duration_s: float, cut_s: float, stride: float, least: float) -> None:
    stride_s, least_s = round(stride * cut_s, 3), least * cut_s
    table, _ = cut_evenly(manifest({"duration_s": duration_s, "audio_s": duration_s}), cut_s, stride_s, least_s)
    assert len(set(table["id"].to_pylist())) == len(table)
    if table["end_s"].null_count:
        assert len(table) == 1 and duration_s <= cut_s + 2e-3
        return
    begins, ends = map(np.array, zip(*spans(table), strict=True))
    np.testing.assert_allclose(begins, np.arange(len(table)) * stride_s, atol=1e-3)
    np.testing.assert_allclose(ends[:-1] - begins[:-1], np.minimum(cut_s, duration_s - begins[:-1]), atol=2e-3)
    assert (ends <= duration_s + 1e-3).all()
    assert (table["duration_s"].to_numpy() >= min(least_s, cut_s) - 3e-3).all()
    left_s = duration_s - ends[-1]
    assert left_s < 3e-3 or duration_s - len(table) * stride_s < least_s  # one more would have been too short
    assert len(table) == 1 or ends[-2] < duration_s - 1e-4  # none without anything of its own
