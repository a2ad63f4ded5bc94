"""Boxes and masks that people drew, of public sets and of tables of one's own: one module a format."""

from pathlib import Path

from datamodules.index.annotations.annotation import Annotation, AnnotationFormat, Annotations
from datamodules.index.annotations.audioset_instrument import AUDIOSET_INSTRUMENT
from datamodules.index.annotations.avsbench import AVSBENCH
from datamodules.index.annotations.coco import COCO
from datamodules.index.annotations.flickr_soundnet import FLICKR_SOUNDNET
from datamodules.index.annotations.music import MUSIC
from datamodules.index.annotations.table import TABLE
from datamodules.index.annotations.vggss import VGGSS
from selavi.errors import UsageError

FORMATS: dict[str, AnnotationFormat] = {
    "vggss": VGGSS,
    "flickr_soundnet": FLICKR_SOUNDNET,
    "music": MUSIC,
    "audioset_instrument": AUDIOSET_INSTRUMENT,
    "avsbench": AVSBENCH,
    "coco": COCO,
    "table": TABLE,
}

__all__ = ["FORMATS", "Annotation", "AnnotationFormat", "Annotations", "read_annotations"]


def read_annotations(path: Path, name: str) -> Annotations:
    """Read the annotations of a file or a folder.

    Args:
        path: of it.
        name: of its format, a key of FORMATS.

    Raises:
        UsageError: there is no such format, it cannot be read, or is not of this format.
    """
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r} of annotations; there are {', '.join(FORMATS)}")
    return FORMATS[name].read(path)
