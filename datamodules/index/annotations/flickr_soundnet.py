"""Flickr-SoundNet: a folder with an XML file a picture; each `bbox` begins with who drew it, then its edges.

Edges are pixels of a picture of 256 x 256.  Where two people agree it is certain (the consensus map).
"""

from pathlib import Path
from xml.etree import ElementTree

from datamodules.index.annotations.annotation import (
    Annotation,
    AnnotationFormat,
    Annotations,
    Box,
    as_published,
    files_below,
    read_bytes,
)
from selavi.errors import UsageError

TITLE = "Flickr-SoundNet"
EXAMPLE = "an element bbox with the children annotator, xmin, ymin, xmax and ymax: a name, and numbers of pixels of 256"
SIDE, NEEDED = 256, 2
"""Pixels of a side, and how many people make a pixel certain."""
EDGES = ("xmin", "ymin", "xmax", "ymax")


def read(folder: Path) -> Annotations:
    """Read the files of the folder and of those below it."""
    annotations = Annotations()
    for path in files_below(folder, "*.xml"):
        root = _parse(path)
        with as_published(path, TITLE, EXAMPLE):
            people: dict[str, list[Box]] = {}
            for box in root.iter("bbox"):
                edges = [float(box.findtext(name, "")) / SIDE for name in EDGES]
                people.setdefault((box[0].text or "").strip(), []).extend(annotations.clip([edges]))
            if not people:
                raise ValueError("there is no bbox")
            drawn = tuple(tuple(boxes) for boxes in people.values())
            annotations.rows.append(Annotation(path.stem, people=drawn, needed=NEEDED))
    return annotations


def _parse(path: Path) -> ElementTree.Element:
    content = read_bytes(path)
    if b"<!" in content.replace(b"<!--", b""):
        raise UsageError(f"{path} declares a document type or entities, which annotations of {TITLE} do not")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise UsageError(f"{path} is not XML: {error}; download it again") from error


FLICKR_SOUNDNET = AnnotationFormat(TITLE, EXAMPLE, "folder", read)
