"""HMDB-51: {class}_test_split{1,2,3}.txt, one file a class; file.avi and 1 for train, 2 for test, 0 for neither."""

import re

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.sources.listing import ListFormat, Listing, ListSample, listing, matches, read_columns

LINE = r".+\.[A-Za-z0-9]+ +[012] *"
PARTS = r"^(?P<name>.+\.[A-Za-z0-9]+) +(?P<flag>[012]) *$"
FILE = r"(?P<label>.+)_test_split[123]\.txt(\.gz)?"


def fits(sample: ListSample) -> bool:
    """Whether the lines are a file and a flag, and the file's name says the class."""
    return matches(LINE, sample.lines) and matches(FILE, [sample.path.name])


def read(sample: ListSample) -> Listing:
    """Read one file; clips that the fold does not use (flag 0) are left out."""
    (line,) = read_columns(sample, None, False, range(1))
    parts = pc.extract_regex(line, PARTS)
    if parts.null_count:
        raise HMDB51.refuse(sample, f"one of its lines is {line.filter(pc.is_null(parts))[0].as_py()!r}")
    named = re.fullmatch(FILE, sample.path.name)
    if named is None:
        raise HMDB51.refuse(sample, "its name does not say the class, as brush_hair_test_split1.txt does")
    name, flag = (pc.struct_field(parts, part) for part in ("name", "flag"))
    used = pc.not_equal(flag, "0")
    split = pc.if_else(pc.equal(flag, "1"), "train", "test").filter(used)
    return listing("path", sample, name.filter(used), pa.repeat(named["label"], len(split)), split)


HMDB51 = ListFormat("an HMDB-51 split file", "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1", fits, read)
