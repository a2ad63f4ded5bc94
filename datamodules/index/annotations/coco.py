"""COCO: images, annotations and categories in one JSON file; a box is (x, y, width, height) in pixels of its image."""

from pathlib import Path

from datamodules.index.annotations.annotation import (
    Annotation,
    AnnotationFormat,
    Annotations,
    as_published,
    from_corner,
    read_published_json,
)

TITLE = "COCO"
EXAMPLE = (
    '{"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}], "categories": [{"id": 3, "name": '
    '"dog"}], "annotations": [{"image_id": 1, "category_id": 3, "bbox": [10, 20, 100, 200]}]}'
)


def read(path: Path) -> Annotations:
    """Read the file: an annotation for each image, or for each category of one with several."""
    content, annotations = read_published_json(path), Annotations()
    with as_published(path, TITLE, EXAMPLE):
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        by_image: dict[object, dict[str, list[list[float]]]] = {entry["id"]: {} for entry in content["images"]}
        for entry in content["annotations"]:
            by_image[entry["image_id"]].setdefault(names[entry["category_id"]], []).append(entry["bbox"])
        for image in content["images"]:
            name, width, height = str(image["file_name"]), float(image["width"]), float(image["height"])
            by_label = by_image[image["id"]]
            if not by_label:
                annotations.rows.append(Annotation(name, people=((),)))
            for label, given in by_label.items():
                boxes = annotations.clip([from_corner(box, width, height) for box in given])
                annotations.rows.append(Annotation(name, people=(boxes,), label=label))
    return annotations


COCO = AnnotationFormat(TITLE, EXAMPLE, "file", read)
