import csv
from pathlib import Path

import pyarrow as pa

from selavi.inference.assigned import NEAREST
from selavi.results.timeline.files import COLUMNS, segments_of, write_timelines
from selavi.results.timeline.segments import Segment


def pieces(path: str, clusters: list[int], confidence: float = 0.9) -> list[dict]:
    return [
        {
            "path": path,
            "start_s": float(number),
            "end_s": number + 2.0,
            "cluster": cluster,
            "confidence": confidence,
            "nearest": [{"cluster": (cluster + 1) % 3, "probability": 1 - confidence}],
        }
        for number, cluster in enumerate(clusters)
    ]


def test_each_recording_has_segments_of_its_own_whatever_the_order_of_the_rows() -> None:
    rows = pieces("b.mp4", [1, 1, 1]) + pieces("a.mp4", [2, 2, 0, 2, 1, 1])
    table = pa.Table.from_pylist(rows[::-1])
    table = table.set_column(table.schema.get_field_index("nearest"), "nearest", table["nearest"].cast(NEAREST))
    found = segments_of(table)
    assert list(found) == ["a.mp4", "b.mp4"]
    assert [(s.start_s, s.end_s, s.cluster) for s in found["a.mp4"]] == [(0.0, 4.5, 2), (4.5, 7.0, 1)]
    assert [(s.start_s, s.end_s, s.cluster) for s in found["b.mp4"]] == [(0.0, 4.0, 1)]


def test_files_hold_the_segments_whatever_the_names(tmp_path: Path) -> None:
    segments = {"day/a b.mp4": [Segment(0.0, 61.5, 3, 0.75), Segment(61.5, 3700.25, -1, 1.0)], "c.wav": []}
    names = {3: "rain & <wind> -->\nloud", -1: None}
    table, folder = write_timelines(segments, names, tmp_path)
    rows = list(csv.reader(table.open(encoding="utf-8", newline="")))
    assert rows[0] == list(COLUMNS)
    assert rows[1:] == [
        ["day/a b.mp4", "0.000", "61.500", "3", "rain & <wind> -->\nloud", "0.7500"],
        ["day/a b.mp4", "61.500", "3700.250", "-1", "", "1.0000"],
    ]
    assert (folder / "day" / "a b.mp4.vtt").read_text(encoding="utf-8") == (
        "WEBVTT\n\n00:00:00.000 --> 00:01:01.500\nrain &amp; &lt;wind&gt; --&gt; loud\n\n"
        "00:01:01.500 --> 01:01:40.250\nrejected\n"
    )
    assert (folder / "day" / "a b.mp4.txt").read_text(encoding="utf-8") == (
        "0.000000\t61.500000\train & <wind> --> loud\n61.500000\t3700.250000\trejected\n"
    )
    assert (folder / "day" / "a b.mp4.rttm").read_text(encoding="utf-8") == (
        "SPEAKER a_b 1 0.000 61.500 <NA> <NA> rain_&_<wind>_-->_loud 0.750 <NA>\n"
        "SPEAKER a_b 1 61.500 3638.750 <NA> <NA> rejected 1.000 <NA>\n"
    )
    assert (folder / "c.wav.vtt").read_text(encoding="utf-8") == "WEBVTT\n"
