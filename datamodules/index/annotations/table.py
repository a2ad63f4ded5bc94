"""A table of one's own: a row a box, with the columns id, time_s, x, y, w, h and perhaps label; boxes are shares."""

from pathlib import Path

from datamodules.index.annotations.annotation import (
    Annotation,
    AnnotationFormat,
    Annotations,
    as_published,
    from_corner,
)
from selavi.id_tables import read_table

TITLE = "a table"
EXAMPLE = "id,time_s,x,y,w,h,label with a line such as videos/a.mp4,1.5,0.1,0.2,0.4,0.6,dog"
COLUMNS = ("id", "time_s", "x", "y", "w", "h")


def read(path: Path) -> Annotations:
    """Read the file (CSV, Parquet): an annotation for each moment of a clip, and each label of one with several.

    A row without x, y, w and h says that nothing lies there.
    """
    table, annotations = read_table(path, COLUMNS, ["label"]), Annotations()
    columns = [table[name].to_pylist() for name in COLUMNS]
    labels = table["label"].to_pylist() if "label" in table.columns.column_names else [None] * len(table)
    by_moment: dict[tuple[str, float, str | None], list[tuple[float, float, float, float]]] = {}
    with as_published(path, TITLE, EXAMPLE):
        for label, name, time_s, *edges in zip(labels, *columns, strict=True):
            if name is None:
                raise ValueError("a row without an id")
            boxes = by_moment.setdefault((name, float(time_s), label), [])
            if edges != [None] * 4:
                boxes.append(from_corner([float(edge) for edge in edges]))
    for (name, time_s, label), boxes in by_moment.items():
        annotations.rows.append(Annotation(name, time_s=time_s, people=(annotations.clip(boxes),), label=label))
    return annotations


TABLE = AnnotationFormat(TITLE, EXAMPLE, "file", read)
