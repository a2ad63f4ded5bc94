"""Boxes for tools that draw and train on them: pictures, and a folder a tool, written without importing any of them."""

import csv
import io
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from selavi.errors import UsageError
from selavi.filesystem import real_path
from selavi.results.handover.clips import name_classes
from selavi.results.handover.folder import Folder

IMAGES = "images"
_CVAT_MAX_LABEL = 64


@dataclass(frozen=True)
class BoxedPicture:
    """A picture of a clip, and the box that its map points at.

    Attributes:
        id: of the clip.
        time_s: moment in the clip.
        file: of the picture, below the folder that is handed over.
        width: of the picture, in pixels.
        height: of the picture.
        box: left, upper, right and lower edge, in pixels.
        cluster: of the clip.
        category: its class.
        score: share of the picture's map in the box.
        confidence: of the clip's label.
    """

    id: str
    time_s: float
    file: str
    width: int
    height: int
    box: tuple[float, float, float, float]
    cluster: int
    category: str
    score: float
    confidence: float


def hand_over_boxes(
    pictures: Sequence[BoxedPicture], formats: Sequence[str], folder: Folder, note: str
) -> dict[str, Path]:
    """Write a folder for each format beside the pictures, images.csv (which clip each is of) and README.txt.

    What earlier hand-overs wrote for other formats goes: it would speak of pictures that are no longer there.

    Args:
        pictures: in the order in which tools shall show them.
        formats: names of BOX_FORMATS.
        folder: that is handed over; the pictures lie in it.
        note: what README.txt says first: what was left out, and what the boxes are worth.

    Returns:
        By format, the file or folder to open in the tool.

    Raises:
        UsageError: an unknown format, no picture, or a file in the way that no hand-over wrote.
    """
    if unknown := [name for name in formats if name not in BOX_FORMATS]:
        raise UsageError(f"unknown formats {', '.join(unknown)}: expected some of {', '.join(BOX_FORMATS)}")
    if not pictures:
        raise UsageError(f"no box to hand over. {note}")
    for name in BOX_FORMATS:
        if name not in formats:
            Folder.clear(folder.path / name)
    opened, instructions = {}, []
    for name in dict.fromkeys(formats):
        with Folder.opened(folder.path / name) as own:
            opened[name] = BOX_FORMATS[name](pictures, own)
        instructions.append(f"{name}\n    {_how_to_open(name, folder.path)}\n")
    folder.claim([f"{IMAGES}.csv", "README.txt"])
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(["file", "id", "time_s", "width", "height"])
    rows.writerows([one.file, one.id, f"{one.time_s:.6f}", one.width, one.height] for one in pictures)
    with folder.file(f"{IMAGES}.csv") as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8", newline="")
    with folder.file("README.txt") as temporary:
        temporary.write_text("\n".join([f"{note}\n", *instructions]), encoding="utf-8")
    return opened


def coco(pictures: Sequence[BoxedPicture], folder: Folder) -> Path:
    """COCO: annotations.json, whose file names start from images/; each annotation has its score besides."""
    numbers = {name: number for number, name in enumerate(_categories(pictures), 1)}
    images, annotations = [], []
    for number, one in enumerate(pictures, 1):
        left, top, right, bottom = one.box
        size = (right - left, bottom - top)
        images.append(
            {
                "id": number,
                "file_name": one.file.removeprefix(f"{IMAGES}/"),
                "width": one.width,
                "height": one.height,
                "clip_id": one.id,
                "time_s": one.time_s,
            }
        )
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": numbers[one.category],
                "bbox": [_round(edge) for edge in (left, top, *size)],
                "area": _round(size[0] * size[1]),
                "iscrowd": 0,
                "segmentation": [],
                "score": _round(one.score),  # which FiftyOne takes for `confidence`: nothing else may be called so
                "label_confidence": _round(one.confidence),
            }
        )
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    content = {
        "info": {"description": "boxes that maps for clusters point at"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return _write_json(folder, "annotations.json", content)


def yolo(pictures: Sequence[BoxedPicture], folder: Folder) -> Path:
    """YOLO: labels/, a line `class x y width height` (middle and size, as shares) a picture, images/ and data.yaml."""
    numbers = {name: number for number, name in enumerate(_categories(pictures))}
    labels = [f"labels/{one.file.removeprefix(f'{IMAGES}/').removesuffix('.jpg')}.txt" for one in pictures]
    folder.claim(["data.yaml", *labels, *(one.file for one in pictures)])
    for one, label in zip(pictures, labels, strict=True):
        left, top, right, bottom = one.box
        shares = (
            (left + right) / 2 / one.width,
            (top + bottom) / 2 / one.height,
            (right - left) / one.width,
            (bottom - top) / one.height,
        )
        folder.link(one.file, str(folder.path.parent / one.file))
        with folder.file(label) as temporary:
            cells = " ".join(f"{share:.6f}" for share in shares)
            temporary.write_text(f"{numbers[one.category]} {cells}\n", encoding="utf-8")
    # JSON's strings are YAML's.
    names = "".join(f"  {number}: {json.dumps(name)}\n" for name, number in numbers.items())
    with folder.file("data.yaml") as temporary:
        temporary.write_text(f"train: {IMAGES}\nval: {IMAGES}\nnames:\n{names}", encoding="utf-8")
    return folder.path / "data.yaml"


def cvat(pictures: Sequence[BoxedPicture], folder: Folder) -> Path:
    """CVAT for images 1.1: annotations.xml of one task with all the pictures, and labels.json for its labels."""
    labels = name_classes({one.cluster: one.category for one in pictures}, _CVAT_MAX_LABEL)
    names = sorted(set(labels.values()))
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    declared = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in names:
        label = ElementTree.SubElement(declared, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "type").text = "rectangle"
        attribute = ElementTree.SubElement(ElementTree.SubElement(label, "attributes"), "attribute")
        for key, value in (("name", "score"), ("mutable", "False"), ("input_type", "text"), ("default_value", "")):
            ElementTree.SubElement(attribute, key).text = value
    for number, one in enumerate(pictures):
        size = {"width": str(one.width), "height": str(one.height)}
        name = one.file.removeprefix(f"{IMAGES}/")
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": name, **size})
        left, top, right, bottom = (f"{edge:.2f}" for edge in one.box)
        about = {"label": labels[one.cluster], "source": "auto", "occluded": "0", "z_order": "0"}
        edges = {"xtl": left, "ytl": top, "xbr": right, "ybr": bottom}
        box = ElementTree.SubElement(image, "box", about | edges)
        ElementTree.SubElement(box, "attribute", name="score").text = f"{one.score:.3f}"
    folder.claim(["annotations.xml"])
    with folder.file("annotations.xml") as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)
    text = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": [""]}
    _write_json(folder, "labels.json", [{"name": name, "type": "rectangle", "attributes": [text]} for name in names])
    return folder.path / "annotations.xml"


def labelstudio(pictures: Sequence[BoxedPicture], folder: Folder) -> Path:
    """Label Studio: tasks.json, where each box is a prediction, and config.xml, the labelling interface.

    The pictures are served by Label Studio from its document root, the folder that is handed over.
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    ElementTree.SubElement(view, "Text", name="id", value="$id")
    shown = ElementTree.SubElement(view, "RectangleLabels", name="box", toName="image")
    for name in _categories(pictures):
        ElementTree.SubElement(shown, "Label", value=name)
    ElementTree.indent(view)
    folder.claim(["config.xml"])
    with folder.file("config.xml") as temporary:
        ElementTree.ElementTree(view).write(temporary, encoding="utf-8")
    return _write_json(folder, "tasks.json", [_labelstudio_task(one) for one in pictures])


def _labelstudio_task(one: BoxedPicture) -> dict[str, Any]:
    left, top, right, bottom = one.box
    value = {
        "x": _round(100 * left / one.width),
        "y": _round(100 * top / one.height),
        "width": _round(100 * (right - left) / one.width),
        "height": _round(100 * (bottom - top) / one.height),
        "rotation": 0,
        "rectanglelabels": [one.category],
    }
    result = {
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": one.width,
        "original_height": one.height,
        "image_rotation": 0,
        "value": value,
    }
    return {
        "data": {
            "image": f"/data/local-files/?d={quote(one.file)}",
            "id": one.id,
            "time_s": one.time_s,
            "confidence": _round(one.confidence),
        },
        "predictions": [{"model_version": "selavi", "score": _round(one.score), "result": [result]}],
    }


def fiftyone(pictures: Sequence[BoxedPicture], folder: Folder) -> Path:
    """FiftyOneImageDetectionDataset: labels.json, by picture (its path below images/ without suffix), with `classes`.

    A box is its upper left corner, width and height as shares of the picture.  `confidence` is the score.
    """
    numbers = {name: number for number, name in enumerate(_categories(pictures))}
    labels: dict[str, list[dict[str, Any]]] = {}
    for one in pictures:
        left, top, right, bottom = one.box
        shares = (left / one.width, top / one.height, (right - left) / one.width, (bottom - top) / one.height)
        detection = {
            "label": numbers[one.category],
            "bounding_box": [_round(share) for share in shares],
            "confidence": _round(one.score),
            "attributes": {
                "clip_id": one.id,
                "time_s": one.time_s,
                "cluster": one.cluster,
                "label_confidence": _round(one.confidence),
            },
        }
        labels.setdefault(one.file.removeprefix(f"{IMAGES}/").removesuffix(".jpg"), []).append(detection)
    return _write_json(folder, "labels.json", {"classes": list(numbers), "labels": labels})


BOX_FORMATS: dict[str, Callable[[Sequence[BoxedPicture], Folder], Path]] = {
    "coco": coco,
    "yolo": yolo,
    "cvat": cvat,
    "labelstudio": labelstudio,
    "fiftyone": fiftyone,
}
"""By name, which is the folder's too: (pictures, folder) -> what to open."""


def _how_to_open(name: str, folder: Path) -> str:
    path, images = real_path(folder / name), real_path(folder / IMAGES)
    return {
        "coco": f"annotations: {path / 'annotations.json'}, pictures: {images}",
        "yolo": f"yolo detect train data={shlex.quote(str(path / 'data.yaml'))}; its `val` is what is trained on: put "
        "pictures of your own there; images/ are links: copy the folder with cp -rL",
        "cvat": f"labels.json into the label constructor (raw); a task of the pictures in {images}, keeping its "
        "folders; then upload annotations.xml as `CVAT 1.1`",
        "labelstudio": "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={shlex.quote(str(real_path(folder)))} label-studio start; "
        "then config.xml as labelling interface, a local storage of that folder, and import tasks.json",
        "fiftyone": "in Python: import fiftyone; dataset = fiftyone.Dataset.from_dir("
        f"dataset_type=fiftyone.types.FiftyOneImageDetectionDataset, data_path={str(images)!r}, "
        f"labels_path={str(path / 'labels.json')!r}, label_field='boxes'); fiftyone.launch_app(dataset)",
    }[name]


def _categories(pictures: Sequence[BoxedPicture]) -> list[str]:
    return sorted({one.category for one in pictures})


def _round(value: float) -> float:
    return round(float(value), 6)


def _write_json(folder: Folder, name: str, content: Any) -> Path:
    folder.claim([name])
    with folder.file(name) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return folder.path / name
