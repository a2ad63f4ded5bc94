"""The SeLaVi folder tree {split}/{class}/{file} as a list: one path a line, as SeLaVi and `find` write them."""

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.scan import SPLITS
from datamodules.sources.listing import SUFFIX, Listing, Sample, Source, listing, matches, read_columns

LINE = rf"[^,;\t]*[/\\][^,;\t]*{SUFFIX}\s*"
PARTS = rf"(?:^|/)(?:(?P<split>{'|'.join(sorted(SPLITS))})/)?(?P<label>[^/]+)/[^/]+$"


def fits(sample: Sample) -> bool:
    """Whether the lines are paths with a folder and no other columns."""
    return matches(LINE, sample.lines)


def read(sample: Sample) -> Listing:
    """Read one file; the last folder is the class, the one before it the split if it is named like one."""
    (path,) = read_columns(sample, None, False, range(1))
    path = pc.replace_substring(path, "\\", "/")
    parts = pc.extract_regex(path, PARTS)
    if parts.null_count:
        name = path.filter(pc.is_null(parts))[0].as_py()
        raise FOLDER.refuse(sample, f"{name!r} has no folder")
    label, split = (pc.struct_field(parts, part) for part in ("label", "split"))
    # {split}/{file}: there is no class.
    no_class = pc.is_in(label, value_set=pa.array(sorted(SPLITS)))
    split, label = pc.if_else(no_class, label, split), pc.if_else(no_class, "", label)
    return listing("path", sample, path, label, split if pc.any(pc.not_equal(split, "")).as_py() else None)


FOLDER = Source("a list of paths in class folders", "/data/vggsound/train/bowling/4abcdefghij_30.mp4", fits, read)
