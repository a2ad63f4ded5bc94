"""MUSIC, solo and duet, as Hu et al. (2020) annotated it: a mapping from a picture's path to its boxes.

`normbox` is (x, y, width, height) as shares.  Only what sounds has a box, so that a picture may have none.
"""

from pathlib import Path

from datamodules.index.annotations.annotation import (
    AnnotationFormat,
    Annotations,
    as_published,
    read_published_json,
)

TITLE = "MUSIC"
EXAMPLE = '"VIDEO/frame_013/00411.jpg": {"bbox": [{"normbox": [0.1, 0.2, 0.5, 0.8], "category_id": 3}]}'


def read(path: Path) -> Annotations:
    """Read the file: an annotation for each picture, or for each category of one with several."""
    entries, annotations = read_published_json(path), Annotations()
    with as_published(path, TITLE, EXAMPLE):
        for name, entry in entries.items():
            annotations.add_picture(name, entry["bbox"], "category_id")
    return annotations


MUSIC = AnnotationFormat(TITLE, EXAMPLE, "file", read)
