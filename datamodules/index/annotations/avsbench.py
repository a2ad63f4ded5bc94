"""AVSBench: a folder of masks, `[SPLIT/][CLASS/]VIDEO/VIDEO_1.png` to `VIDEO_5.png`, black where nothing sounds.

The number is that of the second.  A split of one sounding object has the first mask of its training videos only.
"""

import re
from pathlib import Path

from datamodules.index.annotations.annotation import Annotation, AnnotationFormat, Annotations, files_below
from selavi.errors import UsageError

TITLE = "AVSBench"
EXAMPLE = "gt_masks/test/dog_barking/aB3-x_9zQkM_30000_35000/aB3-x_9zQkM_30000_35000_1.png"


def read(folder: Path) -> Annotations:
    """List the masks of the folder and of those below it; each is read when its truth is asked for."""
    annotations = Annotations()
    for path in files_below(folder, "*.png"):
        name, _, second = path.stem.rpartition("_")
        if name != path.parent.name or not re.fullmatch("[1-9][0-9]{0,8}", second):
            raise UsageError(f"{path} was read as a mask of {TITLE}; one of them is: {EXAMPLE}")
        above = path.parent.parent
        label = None if above == folder or above.name in ("train", "val", "test") else above.name
        annotations.rows.append(Annotation(name, time_s=float(second) - 0.5, mask=path, label=label))
    return annotations


AVSBENCH = AnnotationFormat(TITLE, EXAMPLE, "folder", read)
