"""apply_list and describe_list over lists of every format: what is kept, what is said."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.index.manifest import mark_unusable, write_manifest
from datamodules.index.sources import SOURCES, apply_list, describe_list, read_list
from selavi.config import DataConfig
from selavi.errors import UsageError
from selavi.runs.manifest import media_root, read_manifest

ManifestOf = Callable[..., pa.Table]
WriteList = Callable[[str, str], str]

VGG = '---g-f_I2yQ,1,people marching,test\n--0PQM4-hqg,30,"rain, heavy",train\n_0abcdefgh4,4,foghorn,train\n'


def rows(manifest: pa.Table) -> list[tuple[str, str, str | None]]:
    return [(row["path"], row["split"], row["label"]) for row in manifest.to_pylist()]


def test_a_list_selects_files_and_gives_them_split_and_label(manifest_of: ManifestOf, write_list: WriteList) -> None:
    files = ["videos/---g-f_I2yQ_000001.mp4", "videos/--0PQM4-hqg_000030.mp4", "videos/other.mp4", "notes/a.mp4"]
    manifest, told = apply_list(manifest_of(files), write_list("vggsound.csv", VGG), "auto")
    assert rows(manifest) == [
        ("videos/---g-f_I2yQ_000001.mp4", "test", "people marching"),
        ("videos/--0PQM4-hqg_000030.mp4", "train", "rain, heavy"),
    ]
    assert told == (
        "vggsound.csv, taken for a VGG-Sound list: 2 of 3 clips have a file; without one: 1 (such as _0abcdefgh4_4); "
        "files that are not in the list: 2"
    )
    assert media_root(manifest) == Path("/data/set")
    assert manifest.schema.equals(manifest_of(files).schema)


def test_what_a_run_can_use_is_told_after_judging(
    manifest_of: ManifestOf, write_list: WriteList, tmp_path: Path
) -> None:
    files = ["---g-f_I2yQ_1.mp4", "--0PQM4-hqg_30.mp4"]
    manifest, _ = apply_list(manifest_of(files), write_list("vggsound.csv", VGG), "auto")
    judged = mark_unusable(manifest, {"--0PQM4-hqg_30.mp4": ("too_short", "0.5 s")})
    write_manifest(judged, tmp_path / "manifest.parquet")
    assert describe_list(read_manifest(tmp_path / "manifest.parquet")) == (
        "using 1 of 3 clips of vggsound.csv: 1 without a file (such as _0abcdefgh4_4), "
        "1 that cannot be used (such as --0PQM4-hqg_30.mp4: too_short)"
    )
    whole, _ = apply_list(manifest_of([*files, "_0abcdefgh4.mp4"]), write_list("vggsound.csv", VGG), "auto")
    assert describe_list(whole) == "using 3 of 3 clips of vggsound.csv"


@pytest.mark.parametrize("source", ["auto", "folder"])
def test_without_a_list_nothing_changes_and_nothing_is_said(manifest_of: ManifestOf, source: str) -> None:
    manifest = manifest_of(["train/fan/a.mp4"])
    assert apply_list(manifest, "", source) == (manifest, "")
    assert describe_list(manifest) == ""


def test_other_metadata_of_the_manifest_stay(manifest_of: ManifestOf, write_list: WriteList) -> None:
    manifest = manifest_of(["---g-f_I2yQ_1.mp4"])
    manifest = manifest.replace_schema_metadata({**manifest.schema.metadata, b"mine": b"kept"})
    metadata = apply_list(manifest, write_list("v.csv", VGG), "auto")[0].schema.metadata
    assert (metadata[b"mine"], metadata[b"root"]) == (b"kept", b"/data/set")
    assert json.loads(metadata[b"list"])["missing"] == 2


def test_a_clip_found_twice_is_used_once(manifest_of: ManifestOf, write_list: WriteList) -> None:
    def chosen(*files: str, **statuses: str) -> list[str]:
        manifest, told = apply_list(manifest_of(files, **statuses), write_list("v.csv", VGG), "auto")
        assert f"second copies of a clip, not used: {len(files) - 1}" in told
        return list(manifest["path"].to_pylist())

    # without a fault, then the folder of the label, then the folder of the split, then the first
    assert chosen(
        "test/people_marching/---g-f_I2yQ_1.mp4", "x/---g-f_I2yQ_000001.mp4", **{"---g-f_I2yQ_1": "corrupt"}
    ) == ["x/---g-f_I2yQ_000001.mp4"]
    assert chosen("test/x/---g-f_I2yQ_1.mp4", "train/People Marching/---g-f_I2yQ_1.mp4") == [
        "train/People Marching/---g-f_I2yQ_1.mp4"
    ]
    assert chosen("train/a/---g-f_I2yQ_1.mp4", "test/b/---g-f_I2yQ_1.mp4") == ["test/b/---g-f_I2yQ_1.mp4"]
    assert chosen("b/---g-f_I2yQ_1.mp4", "a/---g-f_I2yQ_1.mp4") == ["a/---g-f_I2yQ_1.mp4"]


def test_of_rows_that_name_a_clip_again_the_files_folder_decides_else_the_first(
    manifest_of: ManifestOf, write_list: WriteList
) -> None:
    text = "Ukulele&-1qyr-IzqKY&good&0&10\nAccordion&-1qyr-IzqKY&good&0&10\n"
    for folder, label in (("Accordion", "Accordion"), ("videos", "Ukulele")):
        manifest, told = apply_list(manifest_of([f"{folder}/-1qyr-IzqKY.mp4"]), write_list("a.txt", text), "auto")
        assert manifest["label"].to_pylist() == [label]
        assert told == (
            "a.txt, taken for an AVE annotation file: 1 of 1 clips have a file; rows that name one again: 1"
        )


def test_a_file_that_fits_several_clips_is_not_guessed(manifest_of: ManifestOf, write_list: WriteList) -> None:
    text = "abcdefghijk,10,rain,train\nabcdefghijk,50,wind,train\nABCDEFGHIJK,1,rain,train\n"
    manifest, told = apply_list(
        manifest_of(["x/abcdefghijk.mp4", "x/ABCDEFGHIJK.mp4"]), write_list("v.csv", text), "auto"
    )
    assert rows(manifest) == [("x/ABCDEFGHIJK.mp4", "train", "rain")]
    assert "without one: 2 (such as abcdefghijk_10, abcdefghijk_50); files that fit several clips, not used: 1" in told
    manifest, _ = apply_list(manifest_of(["wind/abcdefghijk.mp4"]), write_list("v.csv", text), "auto")
    assert rows(manifest) == [("wind/abcdefghijk.mp4", "train", "wind")]  # its folder says which of the two it is


def test_ids_of_a_table_are_taken_and_must_differ(manifest_of: ManifestOf, write_list: WriteList) -> None:
    files = ["a/1.mp4", "a/2.mp4"]
    manifest, _ = apply_list(manifest_of(files), write_list("t.csv", "path,id\na/1.mp4,z\na/2.mp4,b\n"), "auto")
    assert [(row["id"], row["path"], row["label"]) for row in manifest.to_pylist()] == [
        ("b", "a/2.mp4", "a"),
        ("z", "a/1.mp4", "a"),
    ]
    with pytest.raises(UsageError, match="gives the id 'z' to several files"):
        apply_list(manifest_of(files), write_list("t.csv", "path,id\na/1.mp4,z\na/2.mp4,z\n"), "auto")


def test_selavis_kinetics_sounds_needs_no_list(manifest_of: ManifestOf) -> None:
    files = ["train/playing_guitar/a.mp4", "train/playing guitar/b.mp4", "val/tickling/c.mp4", "train/abseiling/d.mp4"]
    manifest, told = apply_list(manifest_of(files), "", "kinetics_sounds")
    assert manifest["path"].to_pylist() == sorted(files)[1:]
    assert manifest["label"].to_pylist() == ["playing guitar", "playing_guitar", "tickling"]
    assert told == (
        "SeLaVi's Kinetics-Sounds: 2 of 32 classes have a file; "
        "without one: 30 (such as blowing_nose, blowing_out_candles, bowling); files that are not in the list: 1"
    )
    assert describe_list(manifest) == "using 3 of 3 clips of SeLaVi's Kinetics-Sounds"


def test_any_list_of_classes_selects_folders(manifest_of: ManifestOf, write_list: WriteList) -> None:
    files = ["train/abseiling/a.mp4", "train/tickling/b.mp4"]
    manifest, _ = apply_list(
        manifest_of(files), write_list("classes.txt", "Abseiling\r\nbowling\r\n"), "kinetics_sounds"
    )
    assert rows(manifest) == [("train/abseiling/a.mp4", "train", "abseiling")]


def test_a_list_without_any_file_is_refused(manifest_of: ManifestOf, write_list: WriteList) -> None:
    with pytest.raises(UsageError) as caught:
        apply_list(manifest_of(["fan/a.mp4"]), write_list("v.csv", VGG), "auto")
    assert str(caught.value) == (
        "v.csv, taken for a VGG-Sound list: none of its 3 clips is in /data/set; the list names ---g-f_I2yQ_1, "
        "--0PQM4-hqg_30, _0abcdefgh4_4, the folder has fan/a.mp4. Point data.root at the files of this list, or name "
        "another list or format (data.list, data.source)"
    )
    with pytest.raises(UsageError, match="taken for a VGG-Sound list, names no clip"):
        apply_list(manifest_of(["fan/a.mp4"]), write_list("v.csv", "youtube_id,start,label,split\n"), "auto")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (lambda text: text.encode(), "plain"),
        (lambda text: b"\xef\xbb\xbf" + text.encode(), "a byte order mark"),
        (lambda text: text.replace("\n", "\r\n").encode(), "Windows line ends"),
        (lambda text: ("\n" + text.replace("\n", "\n\n")).encode(), "empty lines"),
        (lambda text: text.rstrip("\n").encode(), "no line end at the end"),
        (lambda text: b"youtube_id,start_seconds,label,split\n" + text.encode(), "a header"),
        (lambda text: b"# YouTube ID,start seconds,label,train/test split\r\n" + text.encode(), "a commented header"),
        (lambda text: gzip.compress(text.encode()), "gzip"),
    ],
)
def test_the_same_list_written_in_other_ways(tmp_path: Path, written: Callable[[str], bytes], expected: str) -> None:
    path = tmp_path / ("list.csv.gz" if expected == "gzip" else "list.csv")
    path.write_bytes(written(VGG))
    _, source, listing = read_list(str(path), "auto")
    assert source == "vggsound", expected
    assert listing.rows.drop_columns(["start_s", "end_s"]).to_pylist() == [
        {"name": "---g-f_I2yQ_1", "label": "people marching", "split": "test", "id": None},
        {"name": "--0PQM4-hqg_30", "label": "rain, heavy", "split": "train", "id": None},
        {"name": "_0abcdefgh4_4", "label": "foghorn", "split": "train", "id": None},
    ]


def test_an_unknown_format_is_refused_with_its_first_line_and_all_formats(
    write_list: WriteList, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        read_list(write_list("stat.csv", "1001_IEO_NEU_XX,NEU\n"), "auto")
    message = str(caught.value)
    assert "first line '1001_IEO_NEU_XX,NEU'" in message
    assert all(f"  {name}: {source.title}, such as {source.example}" in message for name, source in SOURCES.items())
    pq.write_table(pa.table({"clip_number": [1], "what": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="its first columns clip_number, what"):
        read_list(str(tmp_path / "t.parquet"), "auto")


@pytest.mark.parametrize("source", SOURCES)
def test_every_parser_refuses_a_file_of_another_format(write_list: WriteList, source: str) -> None:
    with pytest.raises(UsageError, match=r"stat\.csv.*ambulance siren"):
        read_list(write_list("stat.csv", "ambulance siren,1050,vehicle\n"), source)


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        ("", "auto", "is empty"),
        ("a,b\nc\n", "table", "has no column of paths: found a, b"),
        ("path,label\nx.mp4,a,b\n", "auto", r"list\.csv, line 2: expected 2 cells, found 3"),
        ("---g-f_I2yQ,1,a,test\n#NAME?,30,b,train\n", "vggsound", r"row 2 names '#NAME\?_30', .*spreadsheet"),
        ("---g-f_I2yQ,1,a,test\n--0PQM4-hqg,soon,b,train\n", "vggsound", "row 2 names '--0PQM4-hqg_soon'"),
    ],
)
def test_a_damaged_list_is_refused(write_list: WriteList, text: str, source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_list(write_list("list.csv", text), source)


def test_files_that_cannot_be_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_list(str(tmp_path / "nowhere.csv"), "auto")
    with pytest.raises(UsageError, match=r"is a folder; name the file in it.*list01\.txt"):
        read_list(str(tmp_path), "auto")
    (tmp_path / "wide.csv").write_bytes("path,label\n".encode("utf-16-le"))
    with pytest.raises(UsageError, match=r"wide\.csv is not UTF-8 but UTF-16 without a byte order mark"):
        read_list(str(tmp_path / "wide.csv"), "auto")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError, match=r"cut\.parquet cannot be read"):
        read_list(str(tmp_path / "cut.parquet"), "auto")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(VGG.encode() * 99)[:-20])
    with pytest.raises(UsageError, match=r"cut\.csv\.gz cannot be read"):
        read_list(str(tmp_path / "cut.csv.gz"), "auto")


def test_several_files_are_one_list(manifest_of: ManifestOf, write_list: WriteList, tmp_path: Path) -> None:
    write_list("trainSet.txt", "Goat&-bcdefghijk&good&0&10\n")
    write_list("testSet.txt", "Horse&_bcdefghijk&good&0&10\n")
    manifest, told = apply_list(manifest_of(["-bcdefghijk.mp4", "_bcdefghijk.mp4"]), str(tmp_path / "*Set.txt"), "auto")
    assert rows(manifest) == [("-bcdefghijk.mp4", "train", "Goat"), ("_bcdefghijk.mp4", "test", "Horse")]
    assert told == "*Set.txt, taken for an AVE annotation file: 2 of 2 clips have a file"
    write_list("x.txt", VGG)
    with pytest.raises(UsageError, match="names files of several formats: ave, vggsound"):
        read_list(str(tmp_path / "*.txt"), "auto")
    write_list("classes.csv", "bowling\n")
    write_list("clips.csv", "-3Mwkq-7TV4_2,10,23\n")
    with pytest.raises(UsageError, match="names lists of clips and lists of classes"):
        read_list(str(tmp_path / "cl*.csv"), "kinetics_sounds")


def test_the_setting_knows_every_format() -> None:
    for source in SOURCES:
        assert DataConfig(list="x.csv", source=source).source == source  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.source=ucf101 needs a list: set data\.list"):
        DataConfig(source="ucf101")
    assert DataConfig(source="kinetics_sounds").list == ""


def test_names_without_a_file_are_explained_by_the_files_that_are_there(
    manifest_of: ManifestOf, write_list: WriteList
) -> None:
    table = write_list("t.csv", "path\ndog/clip_07.mp4\ndog/a b.mp4\ndog/c.mp4\n")
    _, told = apply_list(manifest_of(["dog/clip_7.mp4", "dog/a  b .mp4", "dog/c.mp4"]), table, "auto")
    assert "without one: 2 (such as dog/clip_07.mp4, dog/a b.mp4)" in told
    assert "'clip_07.mp4' is there as 'clip_7.mp4' (they differ in leading zeros)" in told
    assert "'a b.mp4' is there as 'a  b .mp4' (they differ in blanks)" in told
    with pytest.raises(UsageError, match=r"none of its 1 clips .*'C\.mp4' is there as 'c\.mp4' \(they differ in case"):
        apply_list(manifest_of(["dog/c.mp4"]), write_list("u.csv", "path\ndog/C.mp4\n"), "auto")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: (folder / "loop.csv").symlink_to("loop.csv"), "Too many levels of symbolic links"),
        (lambda folder: (folder / "file").write_text("path\n") and None, "Not a directory"),
        (lambda folder: None, "File name too long"),
        (lambda folder: None, "No such file or directory"),
    ],
)
def test_a_list_that_leads_nowhere_is_refused_with_the_reason(tmp_path: Path, make, reason: str) -> None:
    make(tmp_path)
    names = {"Too many": "loop.csv", "Not a di": "file/list.csv", "File nam": "x" * 300, "No such ": "none.csv"}
    with pytest.raises(UsageError, match=f"no such file .{reason}.; give the list file"):
        read_list(str(tmp_path / names[reason[:8]]), "auto")
