"""Parquet files: written with checksums, read within a budget of memory.

Arrow verifies the checksum of each page, if asked.  What lies outside of the pages (names and types of columns, the
texts of the schema, such as where the media are) has one of our own among those texts.
"""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selavi.atomic import write_atomically
from selavi.errors import UsageError
from selavi.guarded.budget import require_budget

ADVICE = "make it anew, or get it again from where it was made"
_CHECKSUM = b"selavi_checksum"
_UNREADABLE = (OSError, EOFError, pa.ArrowException, ValueError, OverflowError)
_ROWS_AT_ONCE = 1 << 16
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT96": 12}
_OTHER_WIDTH = 8


def write_parquet(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a table, whole or not at all, with checksums.

    Args:
        table: of any columns.
        path: of the file.
        options: of pyarrow.parquet.write_table.
    """
    marked = table.replace_schema_metadata(_with_checksum(table.schema).metadata)
    with write_atomically(path) as temporary:
        pq.write_table(marked, temporary, write_page_checksum=True, **options)


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, **options: Any) -> Iterator["_Blocks"]:
    """Yield a writer of tables of a schema, one after the other, into a file that appears whole or not at all.

    Args:
        path: of the file.
        schema: of every table.
        options: of pyarrow.parquet.ParquetWriter.
    """
    marked = _with_checksum(schema)
    with (
        write_atomically(path) as temporary,
        pq.ParquetWriter(temporary, marked, write_page_checksum=True, **options) as writer,
    ):
        yield _Blocks(writer)


class _Blocks:
    """Takes tables without the checksum that the file has."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write_table(self, table: pa.Table) -> None:
        self._writer.write_table(table.replace_schema_metadata(self._writer.schema.metadata))


def _with_checksum(schema: pa.Schema) -> pa.Schema:
    texts = _own_texts(schema)
    return schema.with_metadata({**texts, _CHECKSUM: _checksum(schema, texts)})


def read_parquet(
    source: Path | IO[bytes], columns: Sequence[str] | None = None, *, name: str = "", advice: str = ADVICE
) -> pa.Table:
    """Read a file, or some of its columns.

    Args:
        source: a path, or an open file with random access.
        columns: None: all.
        name: what messages call it; "": the path.
        advice: what to do where it is damaged.

    Returns:
        The table, as pyarrow.parquet.read_table gives it, its texts valid UTF-8.

    Raises:
        UsageError: it cannot be read, is damaged, lacks a column, or unpacks to more than selavi.guarded.budget allows.
    """
    with ParquetReader(source, name=name, advice=advice) as file:
        return pa.Table.from_batches(list(file.batches(columns)), schema=file.schema_of(columns))


class ParquetReader:
    """An open file, read block by block.

    Attributes:
        name: what messages call it.
        schema: of its columns, without our checksum.
        num_rows: of all of it.
        num_row_groups: of it.

    Raises:
        UsageError: as read_parquet.
    """

    def __init__(self, source: Path | IO[bytes], *, name: str = "", advice: str = ADVICE) -> None:
        self.name, self._advice = name or str(source), advice
        with self._in_words():
            self._num_bytes = _num_bytes(source)
            with pq.ParquetFile(source) as file:
                schema = file.schema_arrow
            kept, texts = (schema.metadata or {}).get(_CHECKSUM), _own_texts(schema)
            if kept is not None and kept != _checksum(schema, texts):
                raise ValueError(
                    "its columns and texts have another checksum; if you changed them, leave out the text "
                    f"{_CHECKSUM.decode()}"
                )
            self.schema = schema.with_metadata(texts or None)
            in_pages = [field.name for field in schema if _is_text(field.type)]
            ahead = not isinstance(source, Path)  # of what is far away; of a file here it would keep all in memory
            self._file = pq.ParquetFile(
                source, read_dictionary=in_pages, page_checksum_verification=True, pre_buffer=ahead
            )
        self.num_rows: int = self._file.metadata.num_rows
        self.num_row_groups: int = self._file.metadata.num_row_groups

    def __enter__(self) -> "ParquetReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def schema_of(self, columns: Sequence[str] | None) -> pa.Schema:
        """The schema of some columns, in the order of `columns`; None: all.

        Raises:
            UsageError: one is not there, or there more than once.
        """
        names = self.schema.names
        twice = [name for name in columns or dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise UsageError(f"{self.name} has the column {twice[0]} more than once: {self._advice}")
        if columns is None:
            return self.schema
        missing = [name for name in columns if name not in self.schema.names]
        if missing:
            raise UsageError(
                f"{self.name} lacks the columns {', '.join(missing)}; it has {', '.join(self.schema.names)}: "
                f"{self._advice}"
            )
        return pa.schema([self.schema.field(name) for name in columns], self.schema.metadata)

    def batches(
        self,
        columns: Sequence[str] | None = None,
        *,
        rows: int = _ROWS_AT_ONCE,
        row_groups: Sequence[int] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows, at most `rows` at a time.

        What the file says of its size is checked before anything is unpacked, and what is unpacked is counted: a text
        that stands once in a page may be meant a million times.

        Args:
            columns: None: all.
            rows: of a batch.
            row_groups: None: all.

        Raises:
            UsageError: as read_parquet.
        """
        schema = self.schema_of(columns)
        unpacked = 0
        with self._in_words():
            self._require_budget(set(schema.names), row_groups)
            batches = self._file.iter_batches(rows, row_groups=row_groups, columns=schema.names)
        while True:
            with self._in_words():
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
                unpacked += sum(_unpacked_bytes(batch[name]) for name in schema.names)
                require_budget(self.name, self._num_bytes, unpacked)
                arrays = [_plain(batch[field.name], field.type) for field in schema]
                plain = pa.RecordBatch.from_arrays(arrays, schema=schema)
            yield plain

    def _require_budget(self, names: set[str], row_groups: Sequence[int] | None) -> None:
        packed = numbers = 0
        for group in range(self.num_row_groups) if row_groups is None else row_groups:
            facts = self._file.metadata.row_group(group)
            for place in range(facts.num_columns):
                column = facts.column(place)
                path = column.path_in_schema
                if path in names or path.split(".")[0] in names:
                    packed += column.total_uncompressed_size
                    numbers += column.num_values * _WIDTHS.get(column.physical_type, _OTHER_WIDTH)
        require_budget(self.name, self._num_bytes, max(packed, numbers))

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Say what Arrow found in one line, with what to do."""
        try:
            yield
        except UsageError:
            raise
        except FileNotFoundError as error:
            raise UsageError(f"{self.name}: no such file") from error
        except _UNREADABLE as error:
            reason = str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__]
            raise UsageError(
                f"{self.name} cannot be read, is no Parquet file or damaged ({reason[0]}): {self._advice}"
            ) from error


def _num_bytes(source: Path | IO[bytes]) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    here = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(here)
    return size


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _unpacked_bytes(values: pa.Array) -> int:
    """What an array takes once each of its texts stands for itself."""
    if not pa.types.is_dictionary(values.type) or not _is_text(values.type.value_type):
        return int(values.nbytes)
    lengths = pc.binary_length(values.dictionary).cast(pa.int64())
    return int(pc.sum(lengths.take(values.indices)).as_py() or 0) + 4 * len(values)


def _plain(values: pa.Array, kind: pa.DataType) -> pa.Array:
    return values if values.type == kind else values.cast(kind)


def _own_texts(schema: pa.Schema) -> dict[bytes, bytes]:
    return {key: text for key, text in (schema.metadata or {}).items() if key != _CHECKSUM}


def _checksum(schema: pa.Schema, texts: Mapping[bytes, bytes]) -> bytes:
    kinds = [str(field.type).replace("<item: ", "<element: ") for field in schema]  # Parquet renames what lists hold
    columns = list(zip(schema.names, kinds, strict=True))
    return b"%08x" % zlib.crc32(repr((columns, sorted(texts.items()))).encode())
