"""Pictures of AudioSet's instruments as Hu et al. (2020) annotated them: a mapping from `VIDEO/SECOND` to boxes.

`normbox` is (x, y, width, height) as shares.
"""

from pathlib import Path

from datamodules.index.annotations.annotation import (
    Annotation,
    AnnotationFormat,
    Annotations,
    as_published,
    from_corner,
    read_published_json,
)

TITLE = "AudioSet-instrument"
EXAMPLE = '"aB3-x_9zQkM/30": {"bbox": [{"normbox": [0.1, 0.2, 0.5, 0.8], "category": "cello"}]}'


def read(path: Path) -> Annotations:
    """Read the file: an annotation for each picture, or for each category of one with several."""
    entries, annotations = read_published_json(path), Annotations()
    with as_published(path, TITLE, EXAMPLE):
        for name, entry in entries.items():
            second = float(name.rpartition("/")[2])
            categories = sorted({str(box["category"]) for box in entry["bbox"]})
            for category in (*categories, *(() if categories else (None,))):
                own = [box["normbox"] for box in entry["bbox"] if str(box["category"]) == category]
                boxes = annotations.clip([from_corner(box) for box in own])
                annotations.rows.append(Annotation(name, second, people=(boxes,), label=category))
    return annotations


AUDIOSET_INSTRUMENT = AnnotationFormat(TITLE, EXAMPLE, "file", read)
