"""AVE: Annotations.txt, trainSet.txt, valSet.txt, testSet.txt: Category&VideoID&Quality&StartTime&EndTime."""

from datamodules.index.sources.listing import (
    VIDEO,
    ListFormat,
    Listing,
    ListSample,
    clip_listing,
    matches,
    read_columns,
)


def fits(sample: ListSample) -> bool:
    """Whether the lines have five parts between &, of which the second is an id."""
    rows = _cells(sample)
    return all(len(row) == 5 for row in rows) and matches(VIDEO, [row[1] for row in rows[_has_header(rows) :]])


def read(sample: ListSample) -> Listing:
    """Read one file.

    The times are those of the event inside the 10 s clip, so clips are known by their id alone; 45 are listed
    again with another label.
    """
    rows = _cells(sample)
    if len(rows[0]) != 5:
        raise AVE.refuse(sample, f"its first line is {sample.lines[0]!r}")
    label, video = read_columns(sample, "&", _has_header(rows), range(2))
    return clip_listing(AVE, sample, video, label=label)


def _cells(sample: ListSample) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("&")] for line in sample.lines]


def _has_header(rows: list[list[str]]) -> bool:
    return rows[0][0].lower() == "category"


AVE = ListFormat("an AVE annotation file", "Church bell&RUhOCu3LNXM&good&0&10", fits, read)
