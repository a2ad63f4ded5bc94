"""Lists whose rows are spans of recordings."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.index.sources import apply_list
from selavi.errors import UsageError


@pytest.fixture
def manifest(manifest_of: Callable[..., pa.Table]) -> pa.Table:
    """Three files of nine seconds."""
    return manifest_of(["a.mp4", "b.mp4", "train/c.mp4"])


def write(folder: Path, text: str) -> str:
    path = folder / "spans.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_each_row_is_a_clip_of_its_file(manifest: pa.Table, tmp_path: Path) -> None:
    text = "path,start,end,label,split,id\na.mp4,4,7.5,dog,test,\na.mp4,0,2,cat,train,mine\nc.mp4,1,3,cat,train,\n"
    table, told = apply_list(manifest, write(tmp_path, text), "auto")
    columns = zip(*(table[name].to_pylist() for name in ("id", "path", "start_s", "end_s", "duration_s")), strict=True)
    assert list(columns) == [
        ("mine", "a.mp4", 0.0, 2.0, 2.0),
        ("a.mp4#t=4.0,7.5", "a.mp4", 4.0, 7.5, 3.5),
        ("train/c.mp4#t=1.0,3.0", "train/c.mp4", 1.0, 3.0, 2.0),
    ]
    assert table["label"].to_pylist() == ["cat", "dog", "cat"]
    assert table["split"].to_pylist() == ["train", "test", "train"]
    assert told.endswith("files that are not in the list: 1; 3 clips are spans of 2 files")


def test_files_that_were_cut_before_are_taken_whole_and_what_is_not_there_is_left_out(
    manifest: pa.Table, tmp_path: Path
) -> None:
    text = "path,start,end,label\na.mp4,120,129.2,dog\nb.mp4,1,20,cat\nb.mp4,30,40,cat\nb.mp4,1,20,cat\nc.mp4,,,cow\n"
    table, told = apply_list(manifest, write(tmp_path, text), "auto")
    assert table["id"].to_pylist() == ["a.mp4", "b.mp4#t=1.0,9.0", "train/c.mp4"]
    assert table["end_s"].to_pylist() == [None, 9.0, None]
    assert table["label"].to_pylist() == ["dog", "cat", "cow"]
    assert (
        "1 clips are spans of 1 files; 1 are files as long as their span, and are taken whole; 1 begin behind" in told
    )


def test_a_begin_without_an_end_names_no_span(manifest: pa.Table, tmp_path: Path) -> None:
    table, told = apply_list(manifest, write(tmp_path, "path,start\na.mp4,4\n"), "auto")
    assert table["id"].to_pylist() == ["a.mp4"] and "its column of starts is not read" in told


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("a.mp4,4,2", r"row 1 is a clip from 4\.0 to 2\.0"),
        ("a.mp4,4,", r"row 1 is a clip from 4\.0 to None"),
        ("a.mp4,0:04,9", r"row 1 has '0:04' as start: expected seconds"),
        ("a.mp4,-1,9", r"row 1 has '-1' as start"),
        ("a.mp4,nan,9", r"row 1 has 'nan' as start"),
    ],
)
def test_times_that_are_none_are_refused(manifest: pa.Table, tmp_path: Path, row: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        apply_list(manifest, write(tmp_path, f"path,start,end\n{row}\n"), "auto")


def test_clips_of_a_youtube_list_are_cut_from_the_recording_where_that_is_there(
    manifest_of: Callable[..., pa.Table], tmp_path: Path
) -> None:
    """A file with the id alone, and longer than a clip, is the recording; one named with a start is the clip."""
    files = ["aaaaaaaaaaa.mp4", "bbbbbbbbbbb.mkv", "bbbbbbbbbbb_000030.mp4", "ccccccccccc.mp4", "ddddddddddd.mp4"]
    manifest = manifest_of(files)
    lengths = pa.array([95.0, 60.0, 10.0, 9.8, 300.0])
    manifest = manifest.set_column(manifest.schema.get_field_index("duration_s"), "duration_s", lengths)
    text = "aaaaaaaaaaa,30,dog,train\naaaaaaaaaaa,0,cat,test\naaaaaaaaaaa,90,cow,test\naaaaaaaaaaa,200,cow,test\n"
    text += "bbbbbbbbbbb,30,fan,train\nbbbbbbbbbbb,45,fan,train\nccccccccccc,170,bee,train\neeeeeeeeeee,0,bee,train\n"
    table, told = apply_list(manifest, write(tmp_path, text), "auto")
    columns = zip(*(table[name].to_pylist() for name in ("id", "label", "split")), strict=True)
    assert list(columns) == [
        ("aaaaaaaaaaa.mp4#t=0.0,10.0", "cat", "test"),
        ("aaaaaaaaaaa.mp4#t=30.0,40.0", "dog", "train"),
        ("aaaaaaaaaaa.mp4#t=90.0,95.0", "cow", "test"),
        ("bbbbbbbbbbb.mkv#t=45.0,55.0", "fan", "train"),
        ("bbbbbbbbbbb_000030.mp4", "fan", "train"),
        ("ccccccccccc.mp4", "bee", "train"),
    ]
    assert "7 of 8 clips have a file; without one: 1 (such as eeeeeeeeeee_0)" in told
    assert "files that are not in the list: 1" in told
    assert "4 clips are spans of 2 files; 1 begin behind the end of their file and are left out" in told


def test_the_clips_of_a_kinetics_list_end_where_it_says(manifest_of: Callable[..., pa.Table], tmp_path: Path) -> None:
    manifest = manifest_of(["0wR5jVB-WPk.mp4"])
    manifest = manifest.set_column(manifest.schema.get_field_index("duration_s"), "duration_s", pa.array([500.0]))
    text = (
        "label,youtube_id,time_start,time_end,split\nabseiling,0wR5jVB-WPk,417,424,val\nabseiling,0wR5jVB-WPk,2,9,val"
    )
    table, _ = apply_list(manifest, write(tmp_path, text), "auto")
    assert table["id"].to_pylist() == ["0wR5jVB-WPk.mp4#t=2.0,9.0", "0wR5jVB-WPk.mp4#t=417.0,424.0"]
    assert table["label"].to_pylist() == ["abseiling"] * 2
