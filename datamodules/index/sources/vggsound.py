"""VGG-Sound: vggsound.csv (id, start, label, split) and test.csv (file, label), without a header or with one."""

from datamodules.index.sources.listing import (
    NUMBER,
    SUFFIX,
    VIDEO,
    ListFormat,
    Listing,
    ListSample,
    clip_listing,
    find_columns,
    matches,
    read_columns,
)

ROLES = ("video", "start", "label", "split")


def fits(sample: ListSample) -> bool:
    """Whether the lines are id,start,label,split or id_start.mp4,label; Kinetics' have an end as well."""
    rows = sample.cells()
    header = find_columns(rows[0], (*ROLES, "end"))
    if {"video", "start"} <= header.keys():
        return "end" not in header
    return _is_full(rows) or _is_files(rows)


def read(sample: ListSample) -> Listing:
    """Read one file; start_s is in seconds."""
    rows = sample.cells()
    header = find_columns(rows[0], ROLES)
    if {"video", "start"} <= header.keys():
        values = dict(zip(header, read_columns(sample, ",", True, list(header.values())), strict=True))
        return clip_listing(
            VGGSOUND, sample, values["video"], values["start"], values.get("label"), values.get("split")
        )
    if _is_full(rows[:1]):
        return clip_listing(VGGSOUND, sample, *read_columns(sample, ",", False, range(4)))
    if _is_files(rows[:1]):
        name, label = read_columns(sample, ",", False, range(2))
        return clip_listing(VGGSOUND, sample, name, label=label)
    raise VGGSOUND.refuse(sample, f"its first line is {sample.lines[0]!r}")


def _is_full(rows: list[list[str]]) -> bool:
    return all(
        len(row) == 4 and matches(VIDEO, row[:1]) and matches(NUMBER, row[1:2]) and not matches(NUMBER, row[2:3])
        for row in rows
    )


def _is_files(rows: list[list[str]]) -> bool:
    return all(len(row) == 2 and matches(f"{VIDEO}_{NUMBER}{SUFFIX}", row[:1]) for row in rows)


VGGSOUND = ListFormat("a VGG-Sound list", '---g-f_I2yQ,1,"people marching",test', fits, read)
