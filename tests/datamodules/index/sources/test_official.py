"""The real files, whole: what they are taken for, how many clips they name, and that each is found again."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.index.sources import apply_list, read_list
from datamodules.index.sources.kinetics_sounds import SELAVI_CLASSES
from datamodules.index.sources.listing import split_of_file
from selavi.errors import UsageError

ManifestOf = Callable[..., pa.Table]
WriteList = Callable[[str, str], str]

OFFICIAL = [
    # file or pattern, what auto takes it for, rows, splits, labels, one row (name, label, split)
    (
        "vggsound/vggsound_head.csv",
        "vggsound",
        {"test": 7, "train": 23},
        27,
        ("--0PQM4-hqg_30", "waterfall burbling", "train"),
    ),
    ("vggsound/test.csv", "vggsound", {"test": 15_446}, 309, ("LDoXsip0BEQ_000177.mp4", "parrot talking", "test")),
    ("vggsound/AStest.csv", "vggsound", {"test": 6_927}, 155, ("6jiO0tPLK7U_000090.mp4", "basketball bounce", "test")),
    ("kinetics/kinetics-400_val.csv", "kinetics", {"val": 19_906}, 400, ("6_4kjPiQr7w_191", "abseiling", "val")),
    ("kinetics/kinetics-400_test.csv", "kinetics", {"test": 38_685}, 0, ("--6bJUbfpnQ_17", None, "test")),
    (
        "kinetics_sounds/my_train.txt",
        "kinetics_sounds",
        {"train": 14_799},
        31,
        ("-00nar1nEPc_000033_000043", "13", "train"),
    ),
    ("kinetics_sounds/my_test.txt", "kinetics_sounds", {"test": 2_597}, 31, ("-3Mwkq-7TV4_2", "23", "test")),
    ("ave/Annotations.txt", "ave", {None: 4_143}, 28, ("MH3m4AwEcRY", "Church bell", None)),
    (
        "ucf101/splits/*list01.txt",
        "ucf101",
        {"train": 9_537, "test": 3_783},
        101,
        ("v_YoYo_g01_c01.avi", "YoYo", "test"),
    ),
    ("ucf101/splits/trainlist03.txt", "ucf101", {"train": 9_624}, 101, ("v_YoYo_g01_c01.avi", "YoYo", "train")),
    (
        "hmdb51/splits/*_test_split1.txt",
        "hmdb51",
        {"train": 3_570, "test": 1_530},
        51,
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "train"),
    ),
    ("audioset/eval_head500.txt", "table", {None: 500}, 0, ("--4gqARaEJE_0_10000.mp4", None, None)),
    ("vggsound/vggsounder.csv", "table", {None: 29_509}, 309, ("--i-y1v8Hy8_000000", "child singing", None)),
]


@pytest.mark.parametrize(("files", "kind", "splits", "num_labels", "row"), OFFICIAL, ids=[row[0] for row in OFFICIAL])
def test_an_official_list_is_recognised_and_read(
    annotations: Path, files: str, kind: str, splits: dict[str | None, int], num_labels: int, row: tuple[str, ...]
) -> None:
    _, source, listing = read_list(str(annotations / files), "auto")
    assert source == kind
    assert Counter(listing.rows["split"].to_pylist()) == splits
    assert len(set(listing.rows["label"].to_pylist()) - {None}) == num_labels
    assert row in {(found["name"], found["label"], found["split"]) for found in listing.rows.to_pylist()}
    assert read_list(str(annotations / files), kind)[2].rows.equals(listing.rows)


@pytest.mark.parametrize(
    "file",
    [
        "vggsound/stat.csv",
        "vggsound/LICENCE.txt",
        "crema_d/data.csv",
        "crema_d/stat.csv",
        "kinetics/label_map_k400.txt",
        "ucf101/splits/classInd.txt",
        "audioset/class_labels_indices.csv",
        "README.txt",
    ],
)
def test_what_is_no_list_of_clips_is_not_taken_for_one(annotations: Path, file: str) -> None:
    with pytest.raises(UsageError, match="is of no known format"):
        read_list(str(annotations / file), "auto")


def test_vggsounds_files_are_found_in_any_form(annotations: Path, manifest_of: ManifestOf) -> None:
    listed = str(annotations / "vggsound/test.csv")
    names = read_list(listed, "auto")[2].rows["name"].to_pylist()
    videos, starts = [name[:11] for name in names], [int(name[12:18]) for name in names]
    for form in ("{v}_{s:06d}", "{v}_{s}", "{v}_{s}_{e}", "{v}_{m}_{n}"):
        paths = [
            f"all/{form.format(v=v, s=s, e=s + 10, m=s * 1000, n=s * 1000 + 10_000)}.mp4"
            for v, s in zip(videos, starts, strict=True)
        ]
        manifest, told = apply_list(manifest_of(paths), listed, "auto")
        assert told == "test.csv, taken for a VGG-Sound list: 15,446 of 15,446 clips have a file"
        assert set(manifest["split"].to_pylist()) == {"test"}
    # Videos that are listed with one clip need no start in their name.
    several = {video for video, count in Counter(videos).items() if count > 1}
    manifest, told = apply_list(manifest_of({f"{video}.mp4" for video in videos}), listed, "auto")
    assert {path[:11] for path in manifest["path"].to_pylist()} == set(videos) - several
    assert f"files that fit several clips, not used: {len(several)}" in told


def test_kinetics_names_with_six_digits_and_selavis_32_classes(annotations: Path, manifest_of: ManifestOf) -> None:
    listed = str(annotations / "kinetics/kinetics-400_val.csv")
    rows = read_list(listed, "kinetics")[2].rows.to_pylist()
    paths = []
    for row in rows:
        folder, video, start = row["label"].replace(" ", "_"), row["name"][:11], int(row["name"][12:])
        paths.append(f"{folder}/{video}_{start:06d}_{start + 10:06d}.mp4")
    manifest, told = apply_list(manifest_of(paths), listed, "auto")
    assert told == "kinetics-400_val.csv, taken for a Kinetics list: 19,906 of 19,906 clips have a file"
    assert set(manifest["split"].to_pylist()) == {"val"}
    sounds, told = apply_list(manifest_of(paths), listed, "kinetics_sounds")
    labels = {label.replace(" ", "_") for label in sounds["label"].to_pylist()}
    assert labels == set(SELAVI_CLASSES) and len(sounds) == 1_594
    by_folder, _ = apply_list(manifest_of(paths), "", "kinetics_sounds")
    assert by_folder["path"].to_pylist() == sounds["path"].to_pylist()


def test_the_built_in_classes_are_selavis(annotations: Path) -> None:
    listed = (annotations / "kinetics_sounds/selavi_32_classes.txt").read_text(encoding="utf-8").split()
    assert list(SELAVI_CLASSES) == listed
    assert {name.replace("_", " ") for name in SELAVI_CLASSES} <= set(
        (annotations / "kinetics/label_map_k400.txt").read_text(encoding="utf-8").splitlines()
    )


def test_aves_doubly_listed_clips_are_one_clip(annotations: Path, manifest_of: ManifestOf) -> None:
    listed = str(annotations / "ave/Annotations.txt")
    names = read_list(listed, "auto")[2].rows["name"].to_pylist()
    manifest, told = apply_list(manifest_of({f"AVE/{name}.mp4" for name in names}), listed, "auto")
    assert told == (
        "Annotations.txt, taken for an AVE annotation file: 4,097 of 4,097 clips have a file; "
        "rows that name one again: 46"
    )
    labels = dict(zip(manifest["path"].to_pylist(), manifest["label"].to_pylist(), strict=True))
    assert labels["AVE/-1qyr-IzqKY.mp4"] == "Ukulele"


def test_ucf101_files_are_found_flat_and_converted_too(annotations: Path, manifest_of: ManifestOf) -> None:
    listed = str(annotations / "ucf101/splits/*list01.txt")
    rows = read_list(listed, "auto")[2].rows.to_pylist()
    for form in ("UCF-101/{label}/{name}", "{name}"):
        paths = [form.format(**row).replace(".avi", ".mp4") for row in rows]
        manifest, _ = apply_list(manifest_of(paths), listed, "auto")
        assert Counter(manifest["split"].to_pylist()) == {"train": 9_537, "test": 3_783}
        assert len(set(manifest["label"].to_pylist())) == 101


def test_folds_are_not_mixed(annotations: Path) -> None:
    with pytest.raises(UsageError, match=r"names several folds \(1, 2, 3\); name one of them"):
        read_list(str(annotations / "ucf101/splits/*list0?.txt"), "auto")


@pytest.mark.parametrize(
    ("text", "names", "labels", "splits"),
    [
        (
            "label,youtube_id,time_start,time_end,split\na b,-bcdefghij_,1,11,train\n",
            ["-bcdefghij__1"],
            ["a b"],
            ["train"],
        ),
        ("a b,-bcdefghij_,1,11,train,0\n", ["-bcdefghij__1"], ["a b"], ["train"]),
        ("-bcdefghij_,1,11,validate\n", ["-bcdefghij__1"], [None], ["validate"]),
        ("youtube_id,time_start,time_end\n-bcdefghij_,1.5,11.5\n", ["-bcdefghij__1.5"], [None], [None]),
    ],
)
def test_kinetics_editions(
    write_list: WriteList, text: str, names: list[str], labels: list[str | None], splits: list[str | None]
) -> None:
    _, source, listing = read_list(write_list("k700.csv", text), "auto")
    found = listing.rows.to_pydict()
    assert (source, found["name"], found["label"], found["split"]) == ("kinetics", names, labels, splits)


def test_aves_header_is_left_out(write_list: WriteList) -> None:
    text = "Category&VideoID&Quality&StartTime&EndTime\nFrying (food)&-bcdefghij_&good&0&10\n"
    _, source, listing = read_list(write_list("valSet.txt", text), "auto")
    assert source == "ave"
    assert listing.rows.drop_columns(["start_s", "end_s"]).to_pylist() == [
        {"name": "-bcdefghij_", "label": "Frying (food)", "split": "val", "id": None}
    ]


def test_hmdb51_leaves_out_what_the_fold_does_not_use(write_list: WriteList) -> None:
    text = "a #1 [x]_clap_0.avi 1 \nb_clap_1.avi 0 \nc_clap_2.avi 2\n"
    _, source, listing = read_list(write_list("clap_test_split2.txt", text), "auto")
    assert source == "hmdb51"
    assert listing.rows.drop_columns(["start_s", "end_s"]).to_pylist() == [
        {"name": "a #1 [x]_clap_0.avi", "label": "clap", "split": "train", "id": None},
        {"name": "c_clap_2.avi", "label": "clap", "split": "test", "id": None},
    ]
    with pytest.raises(UsageError, match="its name does not say the class"):
        read_list(write_list("clap.txt", text), "hmdb51")


def test_a_class_called_train_in_a_list_of_paths_keeps_its_label(
    write_list: WriteList, caplog: pytest.LogCaptureFixture
) -> None:
    _, source, listing = read_list(write_list("paths.txt", "/d/car/1.mp4\n/d/train/2.mp4\n/d/bus/3.mp4\n"), "auto")
    assert source == "folder"
    assert listing.rows["label"].to_pylist() == ["car", "train", "bus"]
    assert listing.rows["split"].to_pylist() == [None, None, None]
    assert "train is named like a split, bus, car are not: all were taken for classes" in caplog.text
    caplog.clear()
    _, _, listing = read_list(write_list("paths.txt", "/d/Training/car/1.mp4\n/d/Testing_256/train/2.mp4\n"), "auto")
    assert listing.rows["label"].to_pylist() == ["car", "train"]
    assert listing.rows["split"].to_pylist() == ["train", "test"]
    assert not caplog.text


def test_paths_of_a_folder_tree_say_split_and_class(write_list: WriteList) -> None:
    text = "/d/train/playing guitar/a.mp4\ntest/fan/b.MP4\nball/c.mkv\nval/d.avi\n" + r"e:\val\fan\e.mp4" + "\n"
    _, source, listing = read_list(write_list("paths.txt", text), "auto")
    found = listing.rows.to_pydict()
    assert source == "folder"
    assert found["label"] == ["playing guitar", "fan", "ball", None, "fan"]
    assert found["split"] == ["train", "test", None, "val", "val"]
    _, _, listing = read_list(write_list("vggsound_test.txt", "fan/a.mp4\n"), "auto")
    assert listing.rows["split"].to_pylist() == ["test"]
    with pytest.raises(UsageError, match=r"'a\.mp4' has no folder"):
        read_list(write_list("flat.txt", "a.mp4\n"), "folder")


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("label,File Name,subset\nfan,a b.mp4,test\n", {"name": "a b.mp4", "label": "fan", "split": "test"}),
        ("class;video\nfan;a.mp4\n", {"name": "a.mp4", "label": "fan", "split": None}),
        ("path\tlabel\na, b.mp4\tfan\n", {"name": "a, b.mp4", "label": "fan", "split": None}),
        ("x/a.mp4 17\n", {"name": "x/a.mp4", "label": "17", "split": None}),
        ("a.mp4,\n", {"name": "a.mp4", "label": None, "split": None}),
        ("filename\na.mp4\n", {"name": "a.mp4", "label": None, "split": None}),
    ],
)
def test_tables_of_any_kind(write_list: WriteList, text: str, row: dict[str, str | None]) -> None:
    _, source, listing = read_list(write_list("clips.txt", text), "auto")
    assert source == "table"
    assert listing.rows.drop_columns(["start_s", "end_s"]).to_pylist() == [{**row, "id": None}]


def test_parquet_tables(tmp_path: Path) -> None:
    table = pa.table(
        {"clip_id": [7, 8], "video_path": ["a.mp4", "b.mp4"], "label": pa.array(["x", None]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    _, source, listing = read_list(str(tmp_path / "t.parquet"), "auto")
    assert source == "table"
    assert listing.rows.drop_columns(["start_s", "end_s"]).to_pylist() == [
        {"name": "a.mp4", "label": "x", "split": None, "id": "7"},
        {"name": "b.mp4", "label": None, "split": None, "id": "8"},
    ]
    with pytest.raises(UsageError, match=r"t\.parquet is Parquet, data\.source=ave is text; set data\.source=table"):
        read_list(str(tmp_path / "t.parquet"), "ave")
    pq.write_table(pa.table({"path": ["a.mp4", None]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="row 2 has no path"):
        read_list(str(tmp_path / "t.parquet"), "auto")
    pq.write_table(pa.table({"path": [["a.mp4"]]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"t\.parquet: the column path holds list"):
        read_list(str(tmp_path / "t.parquet"), "auto")


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("test.csv", "test"),
        ("AStest.csv", "test"),
        ("my_train.txt", "train"),
        ("valSet.txt", "val"),
        ("testlist01.txt", "test"),
        ("k700_validate.csv.gz", "validate"),
        ("TRAIN.csv", "train"),
        ("Testing.txt", "testing"),
        ("UCF_TESTLIST01.txt", "test"),
        ("latest.csv", None),
        ("values.csv", None),
        ("contest.csv", None),
        ("trainval.csv", None),
        ("train_and_test.csv", None),
        ("vggsound.csv", None),
    ],
)
def test_a_files_name_may_tell_the_split(file: str, split: str | None) -> None:
    assert split_of_file(Path(file)) == split
