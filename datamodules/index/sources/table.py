"""Any CSV, TSV or Parquet with a column of paths; label, split, id, start and end are read where they are there."""

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.sources.listing import (
    COLUMNS,
    SUFFIX,
    ListFormat,
    Listing,
    ListSample,
    find_columns,
    listing,
    matches,
    read_columns,
    require_once,
)
from selavi.errors import UsageError
from selavi.id_tables import describe_delimiter, leave_out_nan, read_table

ROLES = ("id", "path", "label", "split", "start", "end")
DELIMITERS = (",", "\t", ";")
PATH_AND_LABEL = rf"\S+{SUFFIX} \S+\s*"  # as video classifiers' lists are: no header, a space between


def fits(sample: ListSample) -> bool:
    """Whether a header names a path column or, without a header, the first column is one of media files."""
    if sample.parquet_columns is not None:
        return "path" in find_columns(sample.parquet_columns, ROLES)
    rows = sample.cells(_delimiter(sample))
    return "path" in find_columns(rows[0], ROLES) or matches(f".*{SUFFIX}", [row[0] for row in rows])


def read(sample: ListSample) -> Listing:
    """Read one file; without a header the first column is the path and a second one the label."""
    if sample.parquet_columns is not None:
        return _read_parquet(sample, sample.parquet_columns)
    delimiter = _delimiter(sample)
    first = sample.cells(delimiter)[0]
    columns = find_columns(first, ROLES)
    has_header = "path" in columns
    if not has_header:
        if not matches(f".*{SUFFIX}", first[:1]):
            raise _no_path(sample, first)
        columns = {"path": 0} | ({"label": 1} if len(first) > 1 else {})
    if has_header:
        require_once(sample, first, columns)
    if note := describe_delimiter(sample.text, delimiter) if sample.text and delimiter != " " else "":
        sample.notes.append(note)
    values = dict(zip(columns, read_columns(sample, delimiter, has_header, list(columns.values())), strict=True))
    return _listing(sample, values)


def _read_parquet(sample: ListSample, names: tuple[str, ...]) -> Listing:
    columns = find_columns(names, ROLES)
    if "path" not in columns:
        raise _no_path(sample, list(names))
    called = {role: names[column] for role, column in columns.items()}
    table = read_table(sample.path, list(called.values()), name=f"data.list={sample.path}")
    sample.notes.extend(table.notes)
    text = {role: table[name].cast(pa.string()).combine_chunks() for role, name in called.items()}
    if text["path"].null_count:
        row = pc.index(pc.is_null(text["path"]), True).as_py()
        raise UsageError(f"data.list={sample.path}: row {row + 1} has no path; fill it in or leave the row out")
    return _listing(sample, text)


def _listing(sample: ListSample, text: dict[str, pa.Array]) -> Listing:
    name = f"data.list={sample.path}"
    for role in {"label", "split"} & text.keys():
        values = pa.chunked_array([text[role].cast(pa.large_string())])
        text[role] = leave_out_nan(values, role, name, sample.notes).combine_chunks().cast(pa.string())
    if alone := [role for role in ("start", "end") if role in text and not {"start", "end"} <= text.keys()]:
        sample.notes.append(f"its column of {alone[0]}s is not read, for it takes a begin and an end to name a span")
    times = _times(text["start"], text["end"], name) if {"start", "end"} <= text.keys() else None
    return listing("path", sample, text["path"], text.get("label"), text.get("split"), text.get("id"), times)


def _times(start: pa.Array, end: pa.Array, name: str) -> tuple[pa.Array, pa.Array]:
    """Seconds of each row; null where a row has none.

    Raises:
        UsageError: some are no numbers, or a clip ends before it begins.
    """
    columns = []
    for role, text in (("start", start), ("end", end)):
        plain = pc.if_else(pc.equal(pc.fill_null(text, ""), ""), pa.scalar(None, text.type), text)
        good = pc.fill_null(pc.match_substring_regex(plain, r"^[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"), True)
        if not pc.all(good, min_count=0).as_py():
            row = pc.index(good, False).as_py()
            raise UsageError(
                f"{name}: row {row + 1} has {text[row].as_py()!r} as {role}: expected seconds, such as 12.5"
            )
        columns.append(pc.cast(plain, pa.float64()))
    starts, ends = columns
    wrong = pc.fill_null(pc.less_equal(ends, starts), pc.xor(pc.is_null(starts), pc.is_null(ends)))
    if pc.any(wrong, min_count=0).as_py():
        row = pc.index(wrong, True).as_py()
        raise UsageError(
            f"{name}: row {row + 1} is a clip from {starts[row]} to {ends[row]}: expected a begin and a later end, or "
            "neither of them for a whole file"
        )
    return starts, ends


def _delimiter(sample: ListSample) -> str:
    if matches(PATH_AND_LABEL, sample.lines):
        return " "
    assert sample.text is not None
    if sample.text.separator:
        return sample.text.separator
    by_header = [mark for mark in DELIMITERS if "path" in find_columns(sample.cells(mark)[0], ROLES)]
    return next((mark for mark in [*by_header, *DELIMITERS] if mark in sample.lines[0]), ",")


def _no_path(sample: ListSample, columns: list[str]) -> UsageError:
    known = ", ".join(COLUMNS["path"])
    return UsageError(
        f"data.list={sample.path} has no column of paths: found {', '.join(columns)}; name one of them {known}"
    )


TABLE = ListFormat("a table with a path column", "path,label,split", fits, read)
