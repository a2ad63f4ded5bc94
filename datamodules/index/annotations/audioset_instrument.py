"""Pictures of AudioSet's instruments as Hu et al. (2020) annotated them: a mapping from `VIDEO/SECOND` to boxes.

`normbox` is (x, y, width, height) as shares.
"""

from pathlib import Path

from datamodules.index.annotations.annotation import (
    AnnotationFormat,
    Annotations,
    as_published,
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
            annotations.add_picture(name, entry["bbox"], "category", second)
    return annotations


AUDIOSET_INSTRUMENT = AnnotationFormat(TITLE, EXAMPLE, "file", read)
