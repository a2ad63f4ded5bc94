"""UCF-101: trainlist01.txt (Class/file.avi number) and testlist01.txt (Class/file.avi); folds 1 to 3."""

import pyarrow.compute as pc

from datamodules.index.sources.listing import ListFormat, Listing, ListSample, listing, matches, read_columns

LINE = r"[^/]+/v_[^/]+_g[0-9]+_c[0-9]+\.[A-Za-z0-9]+(\s+[0-9]+)?\s*"
PARTS = r"^(?P<label>[^/]+)/(?P<name>v_[^/]+_g[0-9]+_c[0-9]+\.[A-Za-z0-9]+)(?:\s+[0-9]+)?$"


def fits(sample: ListSample) -> bool:
    """Whether the lines are Class/v_Class_gNN_cNN.avi, with a number or without."""
    return matches(LINE, sample.lines)


def read(sample: ListSample) -> Listing:
    """Read one file; file names are unique without their folder, and the file's name says the split."""
    (line,) = read_columns(sample, None, False, range(1))
    parts = pc.extract_regex(line, PARTS)
    if parts.null_count:
        raise UCF101.refuse(sample, f"one of its lines is {line.filter(pc.is_null(parts))[0].as_py()!r}")
    return listing("path", sample, pc.struct_field(parts, "name"), pc.struct_field(parts, "label"))


UCF101 = ListFormat("a UCF-101 split file", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", fits, read)
