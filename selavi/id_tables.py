"""Tables that people bring, with ids and what belongs to them: every cell comes back as it is written.

    table = read_table(Path("labels.csv"), ["id", "label"])
    table["label"]                   # large_string; null where the cell is empty
    table.notes                      # what was guessed or left out, a sentence each, for the user

A file is known by its content, not by its suffix: Parquet, or text (UTF-8, or UTF-16 with its mark; also gzipped) of
cells between commas, semicolons or tabs.  Nothing is converted: 01, 1 and 1.0 are three texts.
"""

import csv
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.errors import UsageError
from selavi.guarded.gzip_file import open_gzip
from selavi.guarded.parquet import ParquetReader

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
NO_VALUE = ("nan", "NaN", "<NA>")
"""How pandas and NumPy write that there is none."""
DOUBTFUL = ("NA", "N/A", "n/a", "#N/A", "None", "none", "NULL", "null", "NAN", "NaT")
"""Texts that may mean that there is none, and may not: NA is Namibia, too."""

_HEAD_BYTES = 1 << 16
_ROWS_AT_ONCE = 1 << 16
_MAX_CELL = 1_000_000
_LARGEST_WHOLE = 2**53  # beyond it floats skip integers
_SPREADSHEETS = {b"PK\x03\x04": "a spreadsheet (.xlsx, .ods) or a zip archive", b"\xd0\xcf\x11\xe0": "an .xls file"}
_NUMPY = b"\x93NUMPY"
_UNREADABLE = (OSError, EOFError, zlib.error, pa.ArrowException)


TableBlocks = Callable[[list[str]], Iterator[pa.Table]]
"""Goes through a table: yields its blocks, columns as those of an IdTable; the list gets its notes."""


@dataclass
class IdTable:
    """Columns of a table as they are written.

    Attributes:
        columns: large_string by name; null where a cell is empty, or null or NaN in Parquet.
        notes: what was guessed, converted or left out, a sentence each.
    """

    columns: pa.Table
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.columns[name]

    def __len__(self) -> int:
        return int(self.columns.num_rows)


@dataclass(frozen=True)
class TextFile:
    """A file of text; made by open_table.

    Attributes:
        path: of the file.
        name: what messages call it.
        encoding: for TextIOWrapper.
        compressed: whether it is gzip.
        separator: what a first line such as Excel's `sep=;` says; "" without one.
    """

    path: Path
    name: str
    encoding: str
    compressed: bool
    separator: str = ""

    @contextmanager
    def _open(self) -> Iterator[TextIO]:
        try:
            with _open_bytes(self.path, self.compressed, self.name) as opened:
                file = TextIOWrapper(opened, encoding=self.encoding, newline="")
                if self.separator:
                    file.readline()
                yield file
        except UnicodeDecodeError as error:
            raise self._wrong_letter() from error
        except _UNREADABLE as error:
            raise UsageError(f"{self.name} cannot be read: {error}") from error

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number, line without its end); only CR, LF and both together end a line.

        Raises:
            UsageError: the file cannot be read, or is not text of its encoding.
        """
        with self._open() as file:
            for number, line in enumerate(file, 1 + bool(self.separator)):
                yield number, line.removesuffix("\n").removesuffix("\r")

    def rows(self, delimiter: str, empty: list[int] | None = None) -> Iterator[tuple[int, list[str]]]:
        """Yield (line that the row begins on, its cells); rows without any text are left out.

        Args:
            delimiter: between cells, which may be quoted as in RFC 4180 and then hold line ends.
            empty: gets the lines of the rows that are left out.

        Raises:
            UsageError: as lines, or a quotation mark is out of place; the message names the line.
        """
        line = first = 1 + bool(self.separator)
        limit = csv.field_size_limit(_MAX_CELL)
        try:
            with self._open() as file:
                reader = csv.reader(file, delimiter=delimiter, strict=True)
                for cells in reader:
                    if (cells and cells[0] and not cells[0].isspace()) or any(cell.strip() for cell in cells):
                        yield line, cells
                    elif empty is not None:
                        empty.append(line)
                    line = reader.line_num + first
        except csv.Error as error:
            raise UsageError(f"{self.name}, line {line}: not a row of CSV ({error})") from error
        finally:
            csv.field_size_limit(limit)

    def _wrong_letter(self) -> UsageError:
        with _open_bytes(self.path, self.compressed, self.name) as file:
            data = file.read()
        try:
            data.decode(self.encoding)
        except UnicodeDecodeError as error:
            if "16" in self.encoding:
                return UsageError(f"{self.name} begins like UTF-16, but is not: {error.reason}; save it as UTF-8")
            line = len(data[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
            return UsageError(
                f"{self.name}, line {line}: expected UTF-8, found the byte 0x{data[error.start]:02x} (Windows-1252, "
                'Latin-1?); save the file as UTF-8, which Excel calls "CSV UTF-8"'
            )
        return UsageError(f"{self.name} changed while it was read; try again")


def _open_bytes(path: Path, compressed: bool, name: str) -> IO[bytes]:
    return open_gzip(path, name) if compressed else path.open("rb")


def open_table(path: Path, name: str = "") -> TextFile | None:
    """Look at the beginning of a file: text, or None for Parquet.

    Args:
        path: of the file.
        name: what messages call it; "": the path.

    Raises:
        UsageError: it cannot be read, or is neither; a spreadsheet is told how to become CSV.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with _open_bytes(path, compressed, name) as opened:
            head = opened.read(_HEAD_BYTES)
    except _UNREADABLE as error:
        raise UsageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if head[:4] == b"PAR1":
        if compressed:
            raise UsageError(f"{name} is gzipped Parquet; unpack it first")
        return None
    if head[:6] == _NUMPY:
        raise UsageError(f"{name} is a NumPy array; expected a table: CSV with a header row, or Parquet")
    if head[:4] in _SPREADSHEETS:
        kind = _SPREADSHEETS[head[:4]]
        raise UsageError(f'{name} is {kind}, which is not read; save the sheet as CSV ("CSV UTF-8" in Excel)')
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") and head[2:4] != b"\0\0"
    zeros = [half.count(0) / max(len(half), 1) for half in (head[::2], head[1::2])]
    if not wide and max(zeros) > 0.9:
        raise UsageError(f"{name} is not UTF-8 but UTF-16 without a byte order mark, or UTF-32; save it as UTF-8")
    encoding = "utf-16" if wide else "utf-8-sig"
    begin = head.decode(encoding, errors="replace")
    separator = re.match(r'"?sep=([,;\t|])"?\s*(?=[\r\n])', begin)
    return TextFile(path, name, encoding, compressed, separator.group(1) if separator else "")


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = (), name: str = "") -> IdTable:
    """Read some columns of a CSV with a header row, or of a Parquet file.

    Args:
        path: of the file.
        columns: that it must have; more may be there, in any order.
        optional: that are read where they are there.
        name: what messages call the file; "": the path.

    Returns:
        `columns`, and those of `optional` that there are, one row for each of the file that is not empty.

    Raises:
        UsageError: the file cannot be read, lacks a column, has one twice, or a row is longer or shorter than the
            header.
    """
    notes: list[str] = []
    blocks = list(table_blocks(path, notes, columns, optional, name))
    return IdTable(pa.concat_tables(blocks), notes)


def table_blocks(
    path: Path, notes: list[str], columns: Sequence[str], optional: Sequence[str] = (), name: str = ""
) -> Iterator[pa.Table]:
    """Yield what read_table reads, in tables of at most 65,536 rows; an empty one where there is no row.

    Args:
        path: of the file.
        notes: gets the notes of an IdTable, all of them once the last block has come.
        columns: that it must have.
        optional: that are read where they are there.
        name: what messages call the file; "": the path.

    Raises:
        UsageError: as read_table, when the block comes that is at fault.
    """
    name = name or str(path)
    file = open_table(path, name)
    if file is None:
        yield from _parquet_blocks(path, name, notes, columns, optional)
    else:
        yield from _csv_blocks(file, notes, columns, optional)


def choose_delimiter(file: TextFile, columns: Sequence[str]) -> str:
    """What stands between the cells: what the first line says, else what finds most of `columns` in the header.

    Where that does not decide, what makes most cells of the header, and commas before the others.

    Raises:
        UsageError: as TextFile.rows.
    """
    if file.separator:
        return file.separator
    best, score = ",", (-1, -1)
    for delimiter in DELIMITERS:
        try:
            _, header = next(file.rows(delimiter), (1, []))
        except UsageError:
            continue  # quotes that fit another delimiter
        cells = [cell.strip() for cell in header]
        count = sum(column in cells for column in columns), len(cells)
        if count > score:
            best, score = delimiter, count
    return best


def describe_delimiter(file: TextFile, delimiter: str) -> str:
    """A note where the delimiter is not the one of the suffix; "" where it is."""
    expected = "\t" if ".tsv" in [suffix.lower() for suffix in file.path.suffixes] else ","
    return "" if delimiter == expected else f"{file.name}: read as cells between {DELIMITERS.get(delimiter, delimiter)}"


def describe_empty(name: str, lines: Sequence[int]) -> str:
    """A note about rows that TextFile.rows left out; "" where there are none."""
    if not lines:
        return ""
    return f"{name}: {len(lines)} empty {'row' if len(lines) == 1 else 'rows'} left out, from line {lines[0]} on"


def _csv_blocks(
    file: TextFile, notes: list[str], columns: Sequence[str], optional: Sequence[str]
) -> Iterator[pa.Table]:
    delimiter = choose_delimiter(file, [*columns, *optional])
    empty: list[int] = []
    rows = file.rows(delimiter, empty)
    _, header = next(rows, (1, []))
    places = find_columns(file.name, [cell.strip() for cell in header], columns, optional)
    part = list(islice(rows, _ROWS_AT_ONCE))
    while True:
        for line, cells in part:
            if len(cells) != len(header):
                fit_row(file.name, line, cells, len(header))
        arrays = [pa.array([cells[place] for _, cells in part], pa.large_string()) for place in places.values()]
        yield pa.table([_null_for_empty(array) for array in arrays], names=list(places))
        part = list(islice(rows, _ROWS_AT_ONCE))
        if not part:
            break
    notes += filter(None, [describe_delimiter(file, delimiter), describe_empty(file.name, empty)])


def find_columns(name: str, header: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> dict[str, int]:
    """The place of each column in a header.

    Raises:
        UsageError: one of `columns` is not there, or one of these or `optional` is there twice.
    """
    twice = [column for column in (*columns, *optional) if header.count(column) > 1]
    if twice:
        raise UsageError(f"{name} has the column {' and '.join(twice)} more than once: keep one of them in the header")
    missing = [column for column in columns if column not in header]
    if missing:
        names = ", ".join(header) if any(header) else "none"
        raise UsageError(
            f"{name} has the columns {names}; expected {' and '.join(columns)}, once each: rename them in the "
            "header (the first line), or write them to a file of their own"
        )
    return {column: header.index(column) for column in (*columns, *optional) if column in header}


def fit_row(name: str, line: int, cells: Sequence[str], width: int) -> None:
    """Check that a row is as long as the header; empty cells behind its end do not count.

    Raises:
        UsageError: it is not; the message names the line.
    """
    if len(cells) < width or any(cells[width:]):
        raise UsageError(
            f"{name}, line {line}: expected {width} cells, found {len(cells)}; quote cells that hold the delimiter"
        )


def _null_for_empty(values: Any) -> Any:
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.large_string()), values)


# ---- Parquet ----


def _parquet_blocks(
    path: Path, name: str, notes: list[str], columns: Sequence[str], optional: Sequence[str]
) -> Iterator[pa.Table]:
    with ParquetReader(path, name=name) as file:
        chosen = list(find_columns(name, file.schema.names, columns, optional))
        none = pa.RecordBatch.from_pylist([], schema=file.schema_of(chosen))
        of_blocks: list[str] = []
        for batch in chain(file.batches(chosen), [none] if not file.num_rows else []):
            block = pa.Table.from_batches([batch])
            yield pa.table([as_text(block[column], column, name, of_blocks) for column in chosen], names=chosen)
    notes += dict.fromkeys(of_blocks)


def as_text(values: pa.ChunkedArray, column: str, name: str, notes: list[str]) -> pa.ChunkedArray:
    """The values of a typed column as texts, large_string: integers as decimal numbers, nulls, NaN and "" as null.

    Args:
        values: (N,).
        column: its name; `id` may not be float or boolean.
        name: of the file, for messages.
        notes: gets a sentence where whole numbers came as floats.

    Raises:
        UsageError: another kind of values, or numbers that are not whole.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _null_for_empty(_checked(values.cast(pa.large_string()), column, name))
    if pa.types.is_integer(kind) or pa.types.is_null(kind) or (column != "id" and pa.types.is_boolean(kind)):
        return values.cast(pa.large_string())
    if column != "id" and pa.types.is_floating(kind):
        values = values.cast(pa.float64())
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), _LARGEST_WHOLE))
        if pc.all(whole, min_count=0).as_py():
            notes.append(f"{name}: the column {column} holds {kind}, all of them whole: read as 0, 1, 2 and so on")
            return values.cast(pa.int64()).cast(pa.large_string())
    raise UsageError(
        f"{name}: the column {column} holds {kind}; expected integers or strings "
        "(integers become floats in pandas where some are missing: astype('Int64') keeps them)"
    )


def _checked(values: pa.ChunkedArray, column: str, name: str) -> pa.ChunkedArray:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise UsageError(f"{name}: the column {column} is not UTF-8: {error}") from error
    return values


# ---- what a value means ----


def leave_out_nan(values: pa.ChunkedArray, column: str, name: str, notes: list[str]) -> pa.ChunkedArray:
    """Make NO_VALUE null, with a note; another note counts what may mean the same and is kept (DOUBTFUL)."""
    is_none = pc.is_in(values, value_set=pa.array(NO_VALUE, pa.large_string()))
    count = pc.sum(is_none).as_py() or 0
    if count:
        spelt = ", ".join(map(repr, sorted(set(values.filter(is_none).to_pylist()))))
        notes.append(f"{name}: {count} of {len(values)} rows have {spelt} as {column}: read as no {column}")
        values = pc.if_else(is_none, pa.scalar(None, pa.large_string()), values)
    doubtful = values.filter(pc.is_in(values, value_set=pa.array(DOUBTFUL, pa.large_string())))
    if len(doubtful):
        spelt = ", ".join(map(repr, sorted(set(doubtful.to_pylist()))))
        notes.append(
            f"{name}: {len(doubtful)} of {len(values)} rows have {spelt} as {column}: a {column} like any other, as it "
            f"is written; leave the cell empty for no {column}"
        )
    return values


def describe_numbers(values: pa.ChunkedArray, column: str, name: str) -> list[str]:
    """Notes about numbers that name clusters: 1 beside 1.0, and -1, which is often no cluster but what is left over."""
    counts = pc.value_counts(values)
    texts = dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
    same: dict[int, list[str]] = {}
    for text in texts:
        if text is not None and (number := re.fullmatch(r"([+-]?[0-9]+)(?:\.0*)?", text)):
            same.setdefault(int(number.group(1)), []).append(text)
    notes = []
    several = sorted(number for number, spelt in same.items() if len(spelt) > 1)
    mixed = len({"." in text for spelt in same.values() for text in spelt}) > 1
    if several:
        shown = "; ".join(" and ".join(sorted(same[number])) for number in several[:3])
        notes.append(
            f"{name}: the same number is written in several ways as {column} ({shown}{', ...' * (len(several) > 3)}): "
            f"counted as different, as they are written; write each {column} in one way if they are one"
        )
    elif mixed:
        notes.append(f"{name}: some numbers of {column} are written with a point, such as 1.0, and some without")
    left_over = sum(texts[text] for text in same.get(-1, []))
    if left_over:
        notes.append(
            f"{name}: {left_over} of {len(values)} clips have {column} -1 (what belongs to none, in HDBSCAN, or was "
            f"rejected, in selavi): counted as a {column} of its own; leave these clips out of both files to score "
            "the rest"
        )
    return notes


# ---- lists of ids ----


def read_ids(path: Path, unique: bool = True) -> IdTable:
    """Read the ids of rows that lie in another file: a line of text each, or a table, or an array.

    Text is a line each; where the first line has a cell `id`, it is the header of a table.  Parquet needs a column
    `id`; .npy one dimension of integers or strings.

    Args:
        path: of the file.
        unique: whether no id may be there twice.

    Returns:
        The column id, none missing.

    Raises:
        UsageError: it cannot be read, an id is missing, or one is there twice that may not be.
    """
    try:
        with path.open("rb") as file:
            is_array = file.read(6) == _NUMPY
    except OSError as error:
        raise UsageError(f"cannot read the ids in {path}: {error.strerror or error}") from error
    if is_array:
        ids = _ids_of_array(path)
    else:
        text = open_table(path)
        if text is None or "id" in _first_cells(text):
            ids = read_table(path, ["id"])
            if text is not None:
                ids.notes.append(f"{path}: its first line has a cell `id`: read as a table with that column")
        else:
            ids = _ids_of_lines(text)
    _require_ids(path, ids["id"], unique)
    return ids


def _first_cells(file: TextFile) -> list[str]:
    delimiter = choose_delimiter(file, ["id"])
    try:
        return [cell.strip() for cell in next(file.rows(delimiter), (1, []))[1]]
    except UsageError:
        return []  # quotes mean nothing in a list of lines


def _ids_of_lines(file: TextFile) -> IdTable:
    lines = [line for _, line in file.lines()]
    num_lines = len(lines)
    while lines and not lines[-1].strip():
        lines.pop()
    empty = describe_empty(file.name, range(len(lines) + 1, num_lines + 1))
    ids = pa.chunked_array([[line if line.strip() else None for line in lines]], pa.large_string())
    return IdTable(pa.table({"id": ids}), [empty] if empty else [])


def _ids_of_array(path: Path) -> IdTable:
    values = load_array(path)
    if values.ndim != 1 or values.dtype.kind not in "iuUS":
        raise UsageError(
            f"{path}: expected one dimension of integers or strings as ids, found {values.dtype} {values.shape}"
        )
    try:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: an id is not UTF-8: {error}") from error
    return IdTable(pa.table({"id": _null_for_empty(pa.chunked_array([texts], pa.large_string()))}))


def _require_ids(path: Path, ids: pa.ChunkedArray, unique: bool) -> None:
    if not len(ids):
        raise UsageError(f"{path} holds no id; expected a line each")
    if ids.null_count:
        row = pc.index(pc.is_null(ids), True).as_py()
        raise UsageError(f"{path}: {ids.null_count} of {len(ids)} ids are empty, the first is id {row + 1}: fill it in")
    num_distinct = pc.count_distinct(ids).as_py()
    if unique and num_distinct < len(ids):
        raise UsageError(f"{len(ids) - num_distinct} of the {len(ids)} ids in {path} are there more than once")


def begin_array(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    """Write the head of an .npy file, whose rows follow block by block.

    Args:
        file: that is written.
        dtype: of the numbers, as numpy spells it with its byte order, such as `<f4`.
        shape: of the whole array.
    """
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)


def load_array(path: Path) -> np.ndarray:
    """Open an .npy file without reading it whole (memory-mapped, read-only); nothing in it is run.

    Raises:
        UsageError: it cannot be read, is none, or holds Python objects.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "Object arrays cannot be loaded" in str(error) or "Python objects in dtype" in str(error):
            raise UsageError(
                f"{path} is not an array that numpy.save wrote of numbers or strings: it holds Python objects, which "
                "are never loaded; convert it first, such as values.astype(str) or .astype('float32')"
            ) from error
        raise UsageError(f"{path} is not an array that numpy.save wrote: {error}") from error
    if not isinstance(values, np.ndarray):
        names = ", ".join(values.files) if hasattr(values, "files") else "several"
        raise UsageError(f"{path} is not an array that numpy.save wrote, but an archive of arrays ({names}): save one")
    return values
