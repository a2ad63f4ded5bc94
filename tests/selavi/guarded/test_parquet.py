"""Tables come back as they were, within a budget of memory, and never other than they were written."""

import io
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selavi.errors import UsageError
from selavi.guarded.budget import LEAST_BYTES, MOST_TIMES, budget_of
from selavi.guarded.parquet import ParquetReader, parquet_writer, read_parquet, write_parquet

TABLE = pa.table(
    {
        "id": [f"clip {number}" for number in range(1000)],
        "label": pa.array([None, "dog"] * 500, pa.large_string()),
        "head": pa.array(range(1000), pa.int32()),
        "kind": pa.array(["a", "b"] * 500).dictionary_encode(),
        "bytes": pa.array([b"\x00\xff"] * 1000),
        "times_s": pa.array([[0.5, 1.5]] * 1000),
    }
).replace_schema_metadata({"root": "/media"})


def test_a_table_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "t.parquet"
    write_parquet(TABLE, path, row_group_size=300)
    back = read_parquet(path)
    assert back.equals(TABLE) and back.schema.metadata == {b"root": b"/media"}
    some = read_parquet(path, ["head", "id"])
    assert some.column_names == ["head", "id"] and some["id"].equals(TABLE["id"])
    assert read_parquet(io.BytesIO(path.read_bytes()), name="x").equals(TABLE)
    with ParquetReader(path) as file:
        assert (file.num_rows, file.num_row_groups, file.schema.names) == (1000, 4, TABLE.column_names)
        batches = list(file.batches(["id"], rows=64, row_groups=[1]))
    assert sum(map(len, batches)) == 300 and max(map(len, batches)) == 64
    assert batches[0]["id"][0].as_py() == "clip 300"
    empty = TABLE.slice(0, 0)
    write_parquet(empty, path)
    assert read_parquet(path).equals(empty)


def test_blocks_make_the_same_file_as_a_table(tmp_path: Path) -> None:
    with parquet_writer(tmp_path / "t.parquet", TABLE.schema) as writer:
        writer.write_table(TABLE.slice(0, 400))
        writer.write_table(TABLE.slice(400))
    assert read_parquet(tmp_path / "t.parquet").equals(TABLE)
    with pytest.raises(RuntimeError, match="stop"), parquet_writer(tmp_path / "t.parquet", TABLE.schema) as writer:
        raise RuntimeError("stop")
    assert read_parquet(tmp_path / "t.parquet").equals(TABLE)


def test_files_of_others_have_no_checksum(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    assert read_parquet(tmp_path / "t.parquet").equals(TABLE)


def test_other_columns_and_texts_than_were_written_are_refused(tmp_path: Path) -> None:
    write_parquet(TABLE, tmp_path / "t.parquet")
    written = pq.read_table(tmp_path / "t.parquet")
    texts = written.schema.metadata
    for changed in (
        written.rename_columns(["id", "label", "head", "sort", "bytes", "times_s"]).replace_schema_metadata(texts),
        written.replace_schema_metadata({**texts, b"root": b"/"}),
    ):
        pq.write_table(changed, tmp_path / "t.parquet")
        with pytest.raises(UsageError, match="another checksum; if you changed them, leave out the text selavi_check"):
            read_parquet(tmp_path / "t.parquet")


def test_what_is_missing_or_no_table_is_said(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(UsageError, match=r"t\.parquet: no such file"):
        read_parquet(path)
    path.write_bytes(b"PAR1PAR1")
    with pytest.raises(UsageError, match=r"t\.parquet cannot be read, is no Parquet file or damaged .*: do this"):
        read_parquet(path, advice="do this")
    write_parquet(TABLE, path)
    with pytest.raises(UsageError, match=r"lacks the columns none; it has id, label, head"):
        read_parquet(path, ["id", "none"])
    with pytest.raises(UsageError, match="directory"):
        read_parquet(tmp_path)


def test_texts_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    odd = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"id": odd}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"t\.parquet cannot be read"):
        read_parquet(tmp_path / "t.parquet")


# ---- two megabytes that become twenty gigabytes ----


def one_text_meant_often(path: Path) -> None:
    """A text of 1 MB in a dictionary, 20,000 times."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"id": texts}), path, store_schema=False)


def equal_texts(path: Path) -> None:
    """2 GB of one letter, compressed."""
    schema = pa.schema([("id", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(20):
            writer.write_table(pa.table({"id": pa.array(["y" * 10_000_000] * 10)}, schema=schema))


def equal_numbers(path: Path) -> None:
    """100 million zeros."""
    table = pa.table({"id": np.zeros(10_000_000, np.int64)})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(table)


def long_lists(path: Path) -> None:
    """Three rows of 15 million zeros each."""
    rows = pa.ListArray.from_arrays(pa.array([0, 15_000_000], pa.int32()), pa.array(np.zeros(15_000_000)))
    pq.write_table(pa.table({"id": pa.concat_arrays([rows] * 3)}), path, compression="zstd")


BOMBS = [one_text_meant_often, equal_texts, equal_numbers, long_lists]


@pytest.mark.slow
@pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)
def test_small_files_that_fill_the_memory_are_refused_before_they_do(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "bomb.parquet"
    make(path)
    assert path.stat().st_size < 2_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=r"bomb\.parquet has .* and unpacks to .* or more, at most 268 MB are read"):
        read_parquet(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < LEAST_BYTES


def test_one_text_that_is_meant_often_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selavi.guarded.budget.LEAST_BYTES", 1_000_000)
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), pa.array(["x" * 1000]))
    pq.write_table(pa.table({"id": texts, "n": range(2000)}), tmp_path / "t.parquet", store_schema=False)
    with pytest.raises(UsageError, match="unpacks to"):
        read_parquet(tmp_path / "t.parquet")
    assert len(read_parquet(tmp_path / "t.parquet", ["n"])) == 2000


def test_a_large_file_may_unpack_to_more() -> None:
    assert budget_of(0) == budget_of(1000) == LEAST_BYTES
    assert budget_of(10**9) == MOST_TIMES * 10**9


# ---- damage ----


def test_a_flipped_bit_is_a_message_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(TABLE, path)
    whole = path.read_bytes()
    generator = np.random.default_rng(17)
    refused = 0
    for place in generator.integers(len(whole) * 8, size=200).tolist():
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            back = read_parquet(path)
        except UsageError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert back.equals(TABLE), f"bit {place}"
            assert back.schema.metadata == TABLE.schema.metadata
    assert refused > 100


def test_a_truncated_file_is_a_message(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(TABLE, path)
    whole = path.read_bytes()
    for length in np.random.default_rng(17).integers(len(whole), size=50).tolist():
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"t\.parquet"):
            read_parquet(path)
