"""Kinetics-400, -600 and -700: label,youtube_id,time_start,time_end,split[,is_cc]; test lists have no label."""

from datamodules.index.sources.listing import (
    NUMBER,
    VIDEO,
    ListFormat,
    Listing,
    ListSample,
    clip_listing,
    find_columns,
    matches,
    read_columns,
)

ROLES = ("video", "start", "end", "label", "split")
# Where there is no header: the columns as the official files have them.
LABELLED = {"label": 0, "video": 1, "start": 2, "end": 3, "split": 4}
UNLABELLED = {"video": 0, "start": 1, "end": 2, "split": 3}


def fits(sample: ListSample) -> bool:
    """Whether a header names an id, a start and an end, or the lines are such without a header."""
    rows = sample.cells()
    return _has_header(rows[0]) or all(_columns(row) is not None for row in rows)


def read(sample: ListSample) -> Listing:
    """Read one file; clips are known by their id and start, as no two of a list differ in the end alone."""
    first = sample.cells()[0]
    has_header = _has_header(first)
    columns = find_columns(first, ROLES) if has_header else _columns(first)
    if columns is None:
        raise KINETICS.refuse(sample, f"its first line is {sample.lines[0]!r}")
    values = dict(zip(columns, read_columns(sample, ",", has_header, list(columns.values())), strict=True))
    return clip_listing(
        KINETICS,
        sample,
        values["video"],
        values["start"],
        values.get("label"),
        values.get("split"),
        values["end"],
    )


def _has_header(row: list[str]) -> bool:
    return {"video", "start", "end"} <= find_columns(row, ROLES).keys()


def _columns(row: list[str]) -> dict[str, int] | None:
    for columns, widths in ((LABELLED, (5, 6)), (UNLABELLED, (4,))):
        video, start, end = columns["video"], columns["start"], columns["end"]
        if len(row) in widths and matches(VIDEO, [row[video]]) and matches(NUMBER, [row[start], row[end]]):
            return columns
    return None


KINETICS = ListFormat("a Kinetics list", "abseiling,0wR5jVB-WPk,417,427,val", fits, read)
