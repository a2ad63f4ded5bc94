"""VGG-SS: vggss.json, a list with an entry a clip; boxes are shares of the picture in the middle of ten seconds.

A clip is the YouTube id, `_`, and the second in six digits at which it begins.  Some boxes are out of the picture or
empty: what is inside is kept.
"""

from pathlib import Path

from datamodules.index.annotations.annotation import (
    Annotation,
    AnnotationFormat,
    Annotations,
    as_published,
    read_published_json,
)

TITLE = "VGG-SS"
EXAMPLE = '{"file": "aB3-x_9zQkM_000030", "class": "dog barking", "bbox": [[0.1, 0.2, 0.5, 0.8]]}'
MIDDLE_S = 5.0
"""The moment that was shown to those who drew, by custom."""


def read(path: Path) -> Annotations:
    """Read the file."""
    entries, annotations = read_published_json(path), Annotations()
    with as_published(path, TITLE, EXAMPLE):
        for entry in list(entries):
            recording, _, second = entry["file"].rpartition("_")
            if not recording or not second.isdigit():
                raise ValueError(f"the clip {entry['file']!r} has no second")
            boxes = annotations.clip(entry["bbox"])
            annotations.rows.append(
                Annotation(entry["file"], float(second), MIDDLE_S, (boxes,), label=str(entry["class"]))
            )
    return annotations


VGGSS = AnnotationFormat(TITLE, EXAMPLE, "file", read)
