import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavi.errors import UsageError
from selavi.results.cluster_table import CLUSTER_SCHEMA
from selavi.results.handover import FORMATS, clips, folder, formats, hand_over
from selavi.results.handover.clips import name_classes

HOSTILE = [
    "-rf.mp4",
    "a\"b'c.mp4",
    "<script>alert(1)</script>&.mp4",  # the slash makes a folder of the first half
    "new\nline\ttab\x01\x7f.mp4",
    "\u202eright to left\u2067.mp4",
    "%2e%2e#?&=.mp4",
    "ü" * 125 + ".WEBM",  # 255 bytes
    "🎺 =1+1.mp4",
]


def hand(table: pa.Table, names: list[str], out_dir: Path, media_root: Path, **more: Any) -> list[Path]:
    """hand_over with three features a clip and two seconds each."""
    ids = table["id"].to_pylist()
    values = np.arange(3 * len(ids), dtype=np.float32).reshape(-1, 3)[::-1] ** 2
    more.setdefault("features", {"video": (ids[::-1], values)})
    more.setdefault("durations_s", dict.fromkeys(ids, 2.0))
    return hand_over(table, names, out_dir, media_root=media_root, **more)


def table_of(paths: list[str], clusters: list[int], names: list[str | None]) -> pa.Table:
    num_rows = len(paths)
    columns: dict[str, Any] = {
        "id": paths,
        "path": paths,
        "start_s": [0.0] * num_rows,
        "head": [0] * num_rows,
        "cluster": clusters,
        "name": names,
        "confidence": np.linspace(1, 0.5, num_rows, dtype=np.float32),
        "margin": [0.5] * num_rows,
        "entropy": [0.25] * num_rows,
        "rank_in_cluster": [0] * num_rows,
        "modality_agreement": [None, float("nan"), *[0.75] * (num_rows - 2)][:num_rows],
        "label": ["dog", *[None] * (num_rows - 1)],
        "end_s": [2.0] * num_rows,
    }
    return pa.table(columns, schema=CLUSTER_SCHEMA)


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[pa.Table, Path]:
    """Clips whose files have awkward names, of seven clusters; the last one is rejected."""
    root = tmp_path / "media"
    for index, name in enumerate([*HOSTILE, "sub/rejected.mp4"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"clip %d" % index)
    names = ["<b>", "a\tb", "a b", None, "cluster 003", "x" * 80 + "1", "x" * 80 + "2", "<b>", None]
    return table_of([*HOSTILE, "sub/rejected.mp4"], [0, 1, 2, 3, 4, 5, 6, 7, -1], names), root


CLASSES = ["<b>", "a b", "a b (2)", "cluster 003 (2)", "cluster 003", "x" * 80 + "1", "x" * 80 + "2", "<b>"]


def test_every_format_is_written_and_described(hostile: tuple[pa.Table, Path], tmp_path: Path) -> None:
    table, root = hostile
    opened = hand(table, list(FORMATS), tmp_path / "out", root)
    assert [path.relative_to(tmp_path / "out").parts[0] for path in opened] == list(FORMATS)
    assert all(path.exists() for path in opened)
    text = (tmp_path / "out" / "README.txt").read_text()
    assert text.startswith("8 clips in 7 classes; 1 rejected clips are left out.")
    assert all(f"\n{name}\n    " in text for name in FORMATS)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"sub/rejected.mp4" not in written and b"clip 8" not in written and b"clip 7" in written


@pytest.mark.parametrize("link", ["relative", "copy"])
def test_paths_lead_to_the_media(hostile: tuple[pa.Table, Path], tmp_path: Path, link: str) -> None:
    table, root = hostile
    out = tmp_path / "out"
    hand(table, list(FORMATS), out, root, link=link)
    if link == "copy":
        shutil.rmtree(root)
    found = {
        "fiftyone": [sample["filepath"] for sample in samples_of(out)],
        "videofolder": pq.read_table(out / "videofolder" / "metadata.parquet")["file_name"].to_pylist(),
        "cvat": [clip["media"] for clip in json.loads((out / "cvat" / "clips.json").read_text())],
        "spotlight": pq.read_table(out / "spotlight" / "clips.parquet")["media"].to_pylist(),
        "embedding-atlas": pq.read_table(out / "embedding-atlas" / "clips.parquet")["media"].to_pylist(),
    }
    for name, paths in found.items():
        assert [(out / name / path).read_bytes() for path in paths] == [b"clip %d" % i for i in range(8)], name
    assert all(path.startswith("media/") for path in found["videofolder"])
    served = out / "labelstudio" if link == "copy" else root
    if link == "relative":
        for task in json.loads((out / "labelstudio" / "tasks.json").read_text()):
            url = urlsplit(task["data"]["media"])
            assert (url.path, url.fragment) == ("/data/local-files/", "")
            assert parse_qs(url.query, strict_parsing=True).keys() == {"d"}
            assert (served / parse_qs(url.query)["d"][0]).name == Path(task["data"]["id"]).name
            assert (served / parse_qs(url.query)["d"][0]).is_file()


def samples_of(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "fiftyone" / "samples.json").read_text())["samples"]


def test_columns_and_classes(hostile: tuple[pa.Table, Path], tmp_path: Path) -> None:
    table, root = hostile
    out = tmp_path / "out"
    hand(table, list(FORMATS), out, root)

    samples = samples_of(out)
    assert [sample["prediction"]["label"] for sample in samples] == CLASSES
    assert [sample["clip_id"] for sample in samples] == HOSTILE
    assert samples[0]["label"] == {"_cls": "Classification", "label": "dog", "tags": []} and samples[1]["label"] is None
    assert samples[1]["modality_agreement"] is None and samples[2]["modality_agreement"] == 0.75
    assert json.loads((out / "fiftyone" / "metadata.json").read_text())["default_classes"] == sorted(set(CLASSES))

    columns = [*CLUSTER_SCHEMA.names[:6], "class", "duration_s", *CLUSTER_SCHEMA.names[6:]]
    metadata = pq.read_table(out / "videofolder" / "metadata.parquet")
    assert metadata.column_names == ["file_name", *columns]
    assert metadata["class"].to_pylist() == CLASSES and metadata["duration_s"].to_pylist() == [2.0] * 8
    kept = [name for name in CLUSTER_SCHEMA.names if name != "modality_agreement"]  # it holds a NaN
    assert metadata.select(kept).equals(table.select(kept).slice(0, 8))

    spotlight = pq.read_table(out / "spotlight" / "clips.parquet")
    assert spotlight.column_names == [*columns, "media", "video_features"]
    atlas = pq.read_table(out / "embedding-atlas" / "clips.parquet")
    assert atlas.column_names == [*columns, "media", "x", "y"]

    tasks = json.loads((out / "labelstudio" / "tasks.json").read_text())
    view = ElementTree.parse(out / "labelstudio" / "config.xml").getroot()
    assert [element.tag for element in view] == ["Video", "Text", "Choices"]
    offered = [choice.attrib["value"] for choice in view[2]]
    assert offered == sorted(set(CLASSES))
    assert [task["predictions"][0]["result"][0]["value"]["choices"] for task in tasks] == [[name] for name in CLASSES]
    assert [task["data"]["id"] for task in tasks] == HOSTILE


def test_cvat_has_a_task_and_a_tag_for_each_clip(hostile: tuple[pa.Table, Path], tmp_path: Path) -> None:
    table, root = hostile
    hand(table, ["cvat"], tmp_path / "out", root, features=None)
    out = tmp_path / "out" / "cvat"
    labels = json.loads((out / "labels.json").read_text())
    assert {label["type"] for label in labels} == {"tag"}
    names = [label["name"] for label in labels]
    assert len(set(names)) == 7 and max(map(len, names)) == 64
    found = []
    for index, clip in enumerate(json.loads((out / "clips.json").read_text())):
        assert clip["name"] and len(clip["name"]) <= 256 and "\n" not in clip["name"]
        (tag,) = ElementTree.parse(out / clip["annotations"]).getroot().iterfind("image[@id='0']/tag")
        attributes = {attribute.attrib["name"]: attribute.text for attribute in tag}
        assert attributes["cluster"] == str(index)
        found.append(tag.attrib["label"])
    assert set(found) == set(names) and found[0] == found[7] == "<b>" and found[5] != found[6]


def test_a_set_of_sound_alone_is_labelled_by_ear(tmp_path: Path) -> None:
    for name in ("a.wav", "b.FLAC"):
        (tmp_path / name).touch()
    table = table_of(["a.wav", "b.FLAC"], [0, 1], [None, None])
    hand(table, ["labelstudio"], tmp_path / "out", tmp_path)
    view = ElementTree.parse(tmp_path / "out" / "labelstudio" / "config.xml").getroot()
    assert view[0].tag == "Audio"


def test_features_lie_in_the_order_of_their_clips(
    hostile: tuple[pa.Table, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "BLOCK", 3)
    monkeypatch.setattr(formats, "BLOCK", 3)
    table, root = hostile
    values = np.random.default_rng(0).normal(size=(11, 5)).astype(np.float32)
    ids = ["no clip", *table["id"].to_pylist()[::-1], "nor this"]
    features = {"audio": (ids, values), "video": (pa.array(ids), values[:, :1].astype(np.float64))}
    out = tmp_path / "out"
    hand(table, ["features", "spotlight", "embedding-atlas"], out, root, features=features)
    expected = values[9:1:-1]
    stored = np.load(out / "features" / "audio.npy", mmap_mode="r", allow_pickle=False)
    assert stored.dtype == np.float32 and np.array_equal(stored, expected)
    assert np.array_equal(np.load(out / "features" / "video.npy"), expected[:, :1])
    rows = pq.read_table(out / "features" / "clips.parquet")
    assert rows["id"].to_pylist() == HOSTILE and rows["class"].to_pylist() == CLASSES
    spotlight = pq.read_table(out / "spotlight" / "clips.parquet")
    assert np.array_equal(np.array(spotlight["audio_features"].to_pylist(), np.float32), expected)

    atlas = pq.read_table(out / "embedding-atlas" / "clips.parquet")
    centred = expected.astype(np.float64) - expected.mean(0)
    axes = np.linalg.svd(centred)[2][:2]
    points = np.stack([atlas["x"].to_numpy(), atlas["y"].to_numpy()], 1)
    assert np.abs(points) == pytest.approx(np.abs(centred @ axes.T), abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (4, 1)])
def test_a_map_of_few_clips_or_one_feature(tmp_path: Path, shape: tuple[int, int]) -> None:
    names = [f"{index}.mp4" for index in range(shape[0])]
    for name in names:
        (tmp_path / name).touch()
    features = {"video": (names, np.random.default_rng(1).normal(size=shape))}
    table = table_of(names, [0] * shape[0], [None] * shape[0])
    (path,) = hand(table, ["embedding-atlas"], tmp_path / "out", tmp_path, features=features)
    points = pq.read_table(path)
    assert np.isfinite(points["x"].to_numpy()).all() and np.isfinite(points["y"].to_numpy()).all()


@pytest.mark.parametrize("name", ["features", "embedding-atlas"])
def test_missing_features_are_named(hostile: tuple[pa.Table, Path], tmp_path: Path, name: str) -> None:
    table, root = hostile
    with pytest.raises(UsageError, match=f"{name} needs features, and there are none"):
        hand(table, [name], tmp_path / "out", root, features=None)
    few = {"video": (HOSTILE[:5], np.zeros((5, 2)))}
    with pytest.raises(UsageError, match=r"3 of 8 clips have no video features, for example '%2e%2e"):
        hand(table, [name], tmp_path / "out", root, features=few)
    assert not list((tmp_path / "out" / name).glob("*.parquet"))


def test_features_that_are_not_finite_make_no_map(hostile: tuple[pa.Table, Path], tmp_path: Path) -> None:
    table, root = hostile
    with pytest.raises(UsageError, match="video features hold numbers that are not finite"):
        hand(table, ["embedding-atlas"], tmp_path, root, features={"video": (HOSTILE, np.full((8, 2), np.nan))})


@pytest.mark.parametrize("name", ["fiftyone", "videofolder", "cvat", "labelstudio", "spotlight", "embedding-atlas"])
@pytest.mark.parametrize("link", ["relative", "copy"])
def test_nothing_outside_of_the_media_folder_is_handed_over(tmp_path: Path, name: str, link: str) -> None:
    root = tmp_path / "media"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "media2").mkdir()
    (tmp_path / "media2" / "secret.mp4").write_bytes(b"secret")
    (root / "inside.mp4").write_bytes(b"inside")
    (root / "link.mp4").symlink_to("../secret.mp4")
    (root / "twice.mp4").symlink_to("link.mp4")
    (root / "folder").symlink_to("..")
    (root / "fine.mp4").symlink_to("inside.mp4")
    outside = ["../secret.mp4", "link.mp4", "twice.mp4", "folder/secret.mp4", "folder/media/../secret.mp4"]
    outside += ["../media2/secret.mp4", str(tmp_path / "secret.mp4"), "a/../../secret.mp4", "."]
    for path in outside:
        table = table_of(["inside.mp4", path], [0, 0], [None, None])
        with pytest.raises(UsageError, match=r"1 of 2 clips lie outside of the media folder"):
            hand(table, [name], tmp_path / "out", root, link=link)
    hand(table_of(["inside.mp4", "fine.mp4"], [0, 0], [None, None]), [name], tmp_path / "out", root, link=link)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files and not any(path.read_bytes() == b"secret" for path in files)


def test_a_media_file_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "broken.mp4").symlink_to("nothing.mp4")
    table = table_of(["a.mp4", "broken.mp4", "gone.mp4"], [0, 0, 0], [None] * 3)
    with pytest.raises(UsageError, match=r"2 of 3 media files are not in .*, for example 'broken\.mp4'"):
        hand(table, ["spotlight"], tmp_path / "out", tmp_path)


def test_through_a_link_to_the_media_folder_and_to_the_output(tmp_path: Path) -> None:
    real = tmp_path / "deep" / "er" / "media"
    real.mkdir(parents=True)
    (real / "a.mp4").write_bytes(b"a")
    (tmp_path / "media").symlink_to(real)
    (tmp_path / "elsewhere" / "out").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere" / "out")
    hand(table_of(["a.mp4"], [0], [None]), ["spotlight", "videofolder"], tmp_path / "out", tmp_path / "media")
    (path,) = pq.read_table(tmp_path / "out" / "spotlight" / "clips.parquet")["media"].to_pylist()
    opened = (tmp_path / "out" / "spotlight").resolve()
    assert Path(os.path.normpath(opened / path)).read_bytes() == (opened / path).read_bytes() == b"a"
    (link,) = (tmp_path / "out" / "videofolder").rglob("*.mp4")
    assert link.read_bytes() == b"a" and not os.path.isabs(os.readlink(link))


def files_of(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("link", ["relative", "copy"])
def test_a_second_hand_over_replaces_the_first_and_nothing_else(
    hostile: tuple[pa.Table, Path], tmp_path: Path, link: str
) -> None:
    table, root = hostile
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    hand(table, list(FORMATS), out, root, link=link)
    (out / "notes.txt").write_text("mine")
    (out / "cvat" / "annotations" / "mine.xml").write_text("mine")
    fewer = table.slice(2)
    hand(fewer, list(FORMATS), out, root, link=link)
    hand(fewer, list(FORMATS), fresh, root, link=link)
    expected = files_of(fresh)
    found = files_of(out)
    assert found.pop("notes.txt") == found.pop("cvat/annotations/mine.xml") == b"mine"
    assert found.keys() == expected.keys()
    different = {name for name in found if found[name] != expected[name]}
    assert different == {"README.txt"}  # it names the folder
    folders = {path.relative_to(out) for path in out.rglob("*") if path.is_dir()}
    assert folders == {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_dir()}


@pytest.mark.parametrize("name", ["samples.json", "media"])
def test_a_file_in_the_way_is_left_alone(hostile: tuple[pa.Table, Path], tmp_path: Path, name: str) -> None:
    table, root = hostile
    format_name = "fiftyone" if name == "samples.json" else "videofolder"
    mine = tmp_path / "out" / format_name / name
    if name == "media":
        mine = mine / folder.file_name(HOSTILE[0], ".mp4")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UsageError, match="exists and was not written by a hand-over: move it away"):
        hand(table, [format_name], tmp_path / "out", root)
    assert mine.read_text() == "mine"
    assert files_of(tmp_path / "out").keys() == {mine.relative_to(tmp_path / "out").as_posix()}


def test_a_hand_over_that_was_broken_off_is_taken_up(
    hostile: tuple[pa.Table, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, root = hostile
    out = tmp_path / "out"
    calls = []
    link = folder.Folder.link

    def killed(self: folder.Folder, name: str, media: str) -> None:
        calls.append(name)
        if len(calls) > 5:
            raise KeyboardInterrupt
        link(self, name, media)

    with monkeypatch.context() as patched:
        patched.setattr(folder.Folder, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            hand(table, ["videofolder"], out, root)
    assert len(list(out.rglob("*.mp4"))) == 5 and not (out / "videofolder" / "metadata.parquet").exists()
    hand(table.slice(4), ["videofolder"], out, root)
    assert len(list((out / "videofolder" / "media").rglob("*.*"))) == 4


def test_media_that_did_not_change_are_not_copied_again(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"one")
    (tmp_path / "b.mp4").write_bytes(b"two")
    table = table_of(["a.mp4", "b.mp4"], [0, 0], [None, None])
    copies = [tmp_path / "out" / "spotlight" / folder.media_name(name, name) for name in ("a.mp4", "b.mp4")]
    hand(table, ["spotlight"], tmp_path / "out", tmp_path, link="copy")
    first = [copy.stat().st_ino for copy in copies]
    hand(table, ["spotlight"], tmp_path / "out", tmp_path, link="copy")
    assert [copy.stat().st_ino for copy in copies] == first
    (tmp_path / "b.mp4").write_bytes(b"other")
    hand(table, ["spotlight"], tmp_path / "out", tmp_path, link="copy")
    assert copies[0].stat().st_ino == first[0] and copies[1].read_bytes() == b"other"


@pytest.mark.parametrize("record", ['{"files": ["../victim"]}', '{"files": ["/etc/passwd"]}', "[]", "not JSON"])
def test_a_record_that_is_none_of_ours_is_refused(tmp_path: Path, record: str) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "out" / "spotlight").mkdir(parents=True)
    (tmp_path / "out" / "victim").write_text("mine")
    (tmp_path / "out" / "spotlight" / ".handover.json").write_text(record)
    with pytest.raises(UsageError, match=r"is not a hand-over's record"):
        hand(table_of(["a.mp4"], [0], [None]), ["spotlight"], tmp_path / "out", tmp_path)
    assert (tmp_path / "out" / "victim").read_text() == "mine"


def test_what_cannot_be_handed_over_is_refused(hostile: tuple[pa.Table, Path], tmp_path: Path) -> None:
    table, root = hostile
    with pytest.raises(UsageError, match=r"unknown formats coco: expected some of fiftyone, videofolder"):
        hand(table, ["cvat", "coco"], tmp_path / "out", root)
    with pytest.raises(UsageError, match="nothing to hand over: 1 clips, all of them rejected"):
        hand(table.slice(8), ["cvat"], tmp_path / "out", root)
    other = table.set_column(3, CLUSTER_SCHEMA.field("head"), pa.array([1] * 9, pa.int32()))
    with pytest.raises(UsageError, match=r"one head, got the heads \[0, 1\]: choose one"):
        hand(pa.concat_tables([table, other]), ["cvat"], tmp_path / "out", root)
    with pytest.raises(ValueError, match="link must be relative or copy, got 'hard'"):
        hand(table, ["cvat"], tmp_path / "out", root, link="hard")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="out is not a folder: hand over to another one"):
        hand(table, ["cvat"], tmp_path / "out", root)


texts = st.one_of(
    st.none(), st.text(max_size=6), st.text("ab \t", max_size=4), st.sampled_from(["cluster 001", "x" * 9])
)


def has_letters(name: str | None) -> bool:
    return name_classes({999: name}) != {999: "cluster 999"}


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 30), texts, max_size=12), st.sampled_from([13, 1000]))
def test_classes_are_plain_lines_and_as_different_as_the_names(names: dict[int, str | None], max_length: int) -> None:
    classes = name_classes(names, max_length)
    assert classes.keys() == names.keys()
    for cluster, text in classes.items():
        assert text and len(text) <= max_length and text == " ".join(text.split())
        element = ElementTree.fromstring(ElementTree.tostring(ElementTree.Element("a", value=text)))
        assert element.attrib["value"] == text
        for other in classes:
            same = cluster == other or (names[cluster] == names[other] and has_letters(names[cluster]))
            assert (text == classes[other]) == same
