"""Boxes for other tools: each format, read back by its public description, gives the boxes that were handed over."""

import csv
import glob
import json
import math
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from selavi.errors import UsageError
from selavi.media import MediaError, encode_clip
from selavi.results.handover.boxes import BOX_FORMATS, BoxedPicture, hand_over_boxes
from selavi.results.handover.folder import Folder
from selavi.results.handover.pictures import PictureJob, read_pictures, write_pictures

Row = tuple[str, str, tuple[float, ...]]
"""File of a picture below images/, class, and left, upper, right and lower edge in pixels."""
NAMES = ["dog", 'a "b" <c> & d', "- yaml: {no}", "ü, x", "null", "y" * 70 + "1", "y" * 70 + "2"]


def picture_of(number: int, category: int, edges: tuple[float, float, float, float]) -> BoxedPicture:
    """A picture of 640 x 360 with a box whose edges are given as shares."""
    left, top, right, bottom = edges
    box = (left * 640, top * 360, right * 640, bottom * 360)
    name = f"images/{number:02x}/clip {number}.jpg"
    return BoxedPicture(f"clip {number}\n", number / 3, name, 640, 360, box, category, NAMES[category], 0.5, 0.25)


PICTURES = [picture_of(number, number % len(NAMES), (0.1, 0.2, 0.1 + 0.01 * (number + 1), 1)) for number in range(9)]


def hand(pictures: list[BoxedPicture], formats: list[str], out: Path) -> dict[str, Path]:
    with Folder.opened(out) as folder:
        folder.claim([one.file for one in pictures])
        for one in pictures:
            with folder.file(one.file) as temporary:
                temporary.write_bytes(one.id.encode())
        return hand_over_boxes(pictures, formats, folder, "9 boxes.")


def read_coco(path: Path) -> list[Row]:
    """By cocodataset.org/#format-data: every key that it names is there, ids are unique and refer to each other."""
    content = json.loads(path.read_text())
    assert {"info", "images", "annotations", "categories", "licenses"} == content.keys()
    tables = {key: {entry["id"]: entry for entry in content[key]} for key in ("images", "annotations", "categories")}
    assert all(len(table) == len(content[key]) for key, table in tables.items())
    assert all({"id", "name", "supercategory"} == entry.keys() and entry["id"] > 0 for entry in content["categories"])
    rows = []
    for entry in content["annotations"]:
        image = tables["images"][entry["image_id"]]
        x, y, width, height = entry["bbox"]
        assert entry["score"] == 0.5 and "confidence" not in entry  # FiftyOne makes that of the score
        assert entry["iscrowd"] == 0 and entry["area"] == pytest.approx(width * height, abs=0.01)
        assert (image["width"], image["height"]) == (640, 360)
        name = tables["categories"][entry["category_id"]]["name"]
        rows.append((image["file_name"], name, (x, y, x + width, y + height)))
    return rows


def read_yolo(path: Path) -> list[Row]:
    """By docs.ultralytics.com/datasets/detect: a text for each picture, classes from 0, middle and size as shares."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = content["names"]
    assert sorted(names) == list(range(len(names))) and all(isinstance(name, str) for name in names.values())
    rows = []
    for image in sorted((path.parent / content["train"]).rglob("*.jpg")):
        assert image.read_bytes().startswith(b"clip ")
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        number, *shares = label.read_text().split()
        x, y, width, height = (float(share) for share in shares)
        assert all(0 <= float(share) <= 1 for share in shares)
        edges = ((x - width / 2) * 640, (y - height / 2) * 360, (x + width / 2) * 640, (y + height / 2) * 360)
        rows.append((str(image.relative_to(path.parent / content["train"])), names[int(number)], edges))
    return rows


def read_cvat(path: Path) -> list[Row]:
    """By docs.cvat.ai/docs/other/xml_format, version 1.1 for images: labels are declared, attributes are there."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    declared = {label.findtext("name") for label in root.findall("meta/task/labels/label")}
    constructor = json.loads((path.parent / "labels.json").read_text())
    assert {entry["name"] for entry in constructor} == declared and all(len(str(name)) <= 64 for name in declared)
    assert {entry["type"] for entry in constructor} == {"rectangle"}
    rows = []
    for number, image in enumerate(root.findall("image")):
        assert (image.attrib["id"], image.attrib["width"], image.attrib["height"]) == (str(number), "640", "360")
        (box,) = image.findall("box")
        assert box.attrib["label"] in declared and box.attrib["occluded"] == "0"
        assert box.findtext("attribute[@name='score']") == "0.500"
        edges = tuple(float(box.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        rows.append((image.attrib["name"], box.attrib["label"], edges))
    return rows


def read_labelstudio(path: Path) -> list[Row]:
    """By labelstud.io/guide/predictions: percent of the picture; names and values as the interface declares them."""
    view = ElementTree.parse(path.parent / "config.xml").getroot()
    image, labels = view.find("Image"), view.find("RectangleLabels")
    assert image is not None and labels is not None and labels.attrib["toName"] == image.attrib["name"]
    declared = {label.attrib["value"] for label in labels.findall("Label")}
    rows = []
    for task in json.loads(path.read_text()):
        assert image.attrib["value"] == "$image"
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        assert (result["from_name"], result["to_name"]) == (labels.attrib["name"], image.attrib["name"])
        assert result["type"] == "rectanglelabels" and prediction["score"] == 0.5
        value, size = result["value"], (result["original_width"], result["original_height"])
        (name,) = value["rectanglelabels"]
        assert name in declared
        x, y, width, height = (value[key] / 100 for key in ("x", "y", "width", "height"))
        edges = (x * size[0], y * size[1], (x + width) * size[0], (y + height) * size[1])
        url = urlsplit(task["data"]["image"])
        assert url.path == "/data/local-files/"
        (served,) = parse_qs(url.query, strict_parsing=True)["d"]
        assert (path.parents[1] / served).is_file()
        rows.append((served.removeprefix("images/"), name, edges))
    return rows


def read_fiftyone(path: Path) -> list[Row]:
    """By docs.voxel51.com/user_guide/import_datasets, FiftyOneImageDetectionDataset.

    Pictures by their relative path without suffix, classes by number, corner and size as shares; data_path and
    labels_path are given.
    """
    content = json.loads(path.read_text())
    assert content.keys() == {"classes", "labels"} and len(set(content["classes"])) == len(content["classes"])
    data_path = path.parents[1] / "images"
    rows = []
    for name, detections in content["labels"].items():
        (picture,) = data_path.glob(f"{glob.escape(name)}.*")
        (detection,) = detections
        assert detection.keys() == {"label", "bounding_box", "confidence", "attributes"}
        assert detection["confidence"] == 0.5 and detection["attributes"]["label_confidence"] == 0.25
        assert detection["attributes"]["clip_id"] == picture.read_bytes().decode()
        x, y, width, height = detection["bounding_box"]
        assert all(0 <= share <= 1 for share in (x, y, width, height))
        edges = (x * 640, y * 360, (x + width) * 640, (y + height) * 360)
        rows.append((str(picture.relative_to(data_path)), content["classes"][detection["label"]], edges))
    return rows


READERS: dict[str, Callable[[Path], list[Row]]] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "cvat": read_cvat,
    "labelstudio": read_labelstudio,
    "fiftyone": read_fiftyone,
}
CUT = {"y" * 70 + "1": "y" * 64, "y" * 70 + "2": "y" * 60 + " (2)"}
"""CVAT's labels have 64 letters."""


def expect(name: str, pictures: list[BoxedPicture], rows: list[Row]) -> None:
    assert len(rows) == len(pictures)
    for one, (file, category, edges) in zip(pictures, rows, strict=True):
        assert f"images/{file}" == one.file
        assert category == (CUT.get(one.category, one.category) if name == "cvat" else one.category)
        assert edges == pytest.approx(one.box, abs=0.01)


@pytest.mark.parametrize("name", list(BOX_FORMATS))
def test_a_format_gives_back_what_was_handed_over(name: str, tmp_path: Path) -> None:
    opened = hand(PICTURES, [name], tmp_path / "out")
    expect(name, PICTURES, READERS[name](opened[name]))
    text = (tmp_path / "out" / "README.txt").read_text()
    assert text.startswith("9 boxes.\n") and f"\n{name}\n    " in text
    with (tmp_path / "out" / "images.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["id"]) for row in rows] == [(one.file, one.id) for one in PICTURES]


SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SHARES)
def test_any_box_survives(tmp_path: Path, shares: tuple[float, float, float, float]) -> None:
    left, right = sorted(shares[::2])
    top, bottom = sorted(shares[1::2])
    one = picture_of(0, 0, (left, top, right, bottom))
    opened = hand([one], list(BOX_FORMATS), tmp_path / "out")
    for name, path in opened.items():
        ((_, _, edges),) = READERS[name](path)
        assert edges == pytest.approx(one.box, abs=0.01), name
        assert all(math.isfinite(edge) for edge in edges)


def test_a_second_hand_over_removes_what_the_first_wrote(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hand(PICTURES, ["yolo"], out)
    (out / "yolo" / "mine.txt").write_text("kept")
    hand(PICTURES[:2], ["yolo"], out)
    assert len(list((out / "images").rglob("*.jpg"))) == len(list((out / "yolo" / "labels").rglob("*.txt"))) == 2
    assert (out / "yolo" / "mine.txt").read_text() == "kept"
    (out / "cvat").mkdir()
    hand(PICTURES[:2], ["coco"], out)
    assert not list((out / "yolo").rglob("*.jpg")) and not (out / "yolo" / "data.yaml").exists()
    assert (out / "yolo" / "mine.txt").exists() and not list((out / "cvat").iterdir())


def test_a_file_in_the_way_an_unknown_format_and_no_box_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "coco").mkdir(parents=True)
    (tmp_path / "out" / "coco" / "annotations.json").write_text("mine")
    with pytest.raises(UsageError, match=r"annotations\.json exists and was not written by a hand-over"):
        hand(PICTURES, ["coco"], tmp_path / "out")
    with pytest.raises(
        UsageError, match="unknown formats voc: expected some of coco, yolo, cvat, labelstudio, fiftyone"
    ):
        hand(PICTURES, ["voc"], tmp_path / "other")
    with pytest.raises(UsageError, match="no box to hand over"):
        hand([], ["coco"], tmp_path / "third")


def test_pictures_are_those_of_the_moment(tmp_path: Path, moving_square: np.ndarray) -> None:
    recording = tmp_path / "a.mp4"
    encode_clip(recording, moving_square, None, fps=12, sample_rate=8000)
    targets = (tmp_path / "0.jpg", tmp_path / "1.jpg")
    job = PictureJob(recording, 0, 0.5, (0.25, 2.0), 32, targets)
    assert write_pictures(job, read_pictures) == [(48, 32), (48, 32)]
    for target, frame in zip(targets, (9, 30), strict=True):  # of 12 a second, the clip begins with number 6
        bright = np.asarray(Image.open(target), int).sum(2)[16] > 300
        assert abs(int(np.flatnonzero(bright)[0]) - frame) <= 1


def test_a_recording_that_cannot_be_read_is_a_fault_of_its_own(tmp_path: Path) -> None:
    job = PictureJob(tmp_path / "a.mp4", 0, 0.0, (0.0,), 32, (tmp_path / "0.jpg",))

    def read(_: PictureJob) -> list[np.ndarray]:
        raise ZeroDivisionError("odd header")

    with pytest.raises(MediaError, match="odd header"):
        write_pictures(job, read)
    assert not (tmp_path / "0.jpg").exists()
