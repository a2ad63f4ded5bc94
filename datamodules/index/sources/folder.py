"""The SeLaVi folder tree {split}/{class}/{file} as a list: one path a line, as SeLaVi and `find` write them."""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.layout import read_layout, split_of
from datamodules.index.sources.listing import SUFFIX, ListFormat, Listing, ListSample, listing, matches, read_columns

log = logging.getLogger("selavi")

LINE = rf"[^,;\t]*[/\\][^,;\t]*{SUFFIX}\s*"
PARTS = r"(?:^|/)(?:(?P<above>[^/]*)/)?(?P<folder>[^/]+)/[^/]+$"


def fits(sample: ListSample) -> bool:
    """Whether the lines are paths with a folder and no other columns."""
    return matches(LINE, sample.lines)


def read(sample: ListSample) -> Listing:
    """Read one file; the last folder is the class, the one above it the split if it is named like one.

    A last folder that is named like a split itself is a split without classes or a class, as
    datamodules.index.layout.read_layout decides over the whole list.
    """
    (path,) = read_columns(sample, None, False, range(1))
    path = pc.replace_substring(path, "\\", "/")
    parts = pc.extract_regex(path, PARTS)
    if parts.null_count:
        name = path.filter(pc.is_null(parts))[0].as_py()
        raise FOLDER.refuse(sample, f"{name!r} has no folder")
    above, folder = (pc.struct_field(parts, part).dictionary_encode() for part in ("above", "folder"))
    splits = pa.array([split_of(name) for name in above.dictionary.to_pylist()], pa.string())
    split = splits.take(above.indices)
    label = folder.dictionary.take(folder.indices)
    bare = [name for name in folder.filter(pc.is_null(split)).unique().to_pylist() if split_of(name)]
    if bare:
        tails = pc.if_else(pc.is_null(split), label, pc.binary_join_element_wise(split, label, "/"))
        reading = read_layout({entry["values"]: entry["counts"] for entry in pc.value_counts(tails).to_pylist()})
        for doubt in reading.doubts:
            log.warning(f"{sample.path}, doubtful: {doubt}")
        if reading.kind == "splits":
            names = pa.array([split_of(name) for name in folder.dictionary.to_pylist()], pa.string())
            is_bare = pc.and_(pc.is_null(split), pc.is_in(label, value_set=pa.array(bare)))
            split = pc.if_else(is_bare, names.take(folder.indices), split)
            label = pc.if_else(is_bare, "", label)
    return listing("path", sample, path, label, split if split.null_count < len(split) else None)


FOLDER = ListFormat("a list of paths in class folders", "/data/vggsound/train/bowling/4abcdefghij_30.mp4", fits, read)
