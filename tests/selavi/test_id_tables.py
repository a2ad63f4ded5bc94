"""Whatever a program writes comes back as it is written, by every reader of tables of ids."""

import csv
import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.index.sources import read_list
from selavi.errors import UsageError
from selavi.evaluation.compare import cluster_arrays, read_id_labels
from selavi.evaluation.external import evaluate_files, read_column, read_joined
from selavi.id_tables import DOUBTFUL, IdTable, load_array, read_ids, read_table
from selavi.results.naming import read_names

Rows = list[tuple[str, str]]

# ---- who writes: rows of two columns -> bytes, and the suffix that they usually have ----


def as_csv(rows: Rows, header: tuple[str, str], delimiter: str = ",", end: str = "\n", quoting: int = 0) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([header, *rows])
    return text.getvalue()


def excel_tail(text: str, delimiter: str) -> str:
    return text + f"{delimiter}\r\n" * 3 + "\r\n"


def spare_columns(rows: Rows, header: tuple[str, str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([(*cells, "", "") for cells in [header, *rows]])
    return text.getvalue()


def as_parquet(rows: Rows, header: tuple[str, str], dictionary: bool = False) -> bytes:
    columns = [pa.array([row[place] or None for row in rows], pa.string()) for place in (0, 1)]
    sink = io.BytesIO()
    pq.write_table(pa.table([c.dictionary_encode() if dictionary else c for c in columns], names=list(header)), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[Rows, tuple[str, str]], bytes]] = {
    "csv": lambda rows, header: as_csv(rows, header).encode(),
    "all quoted": lambda rows, header: as_csv(rows, header, quoting=csv.QUOTE_ALL).encode(),
    "pandas": lambda rows, header: as_csv(rows, header, end=os.linesep).encode(),
    "crlf": lambda rows, header: as_csv(rows, header, end="\r\n").encode(),
    "cr": lambda rows, header: as_csv(rows, header, end="\r", quoting=csv.QUOTE_ALL).encode(),
    "no last line end": lambda rows, header: as_csv(rows, header).rstrip("\n").encode(),
    "tabs": lambda rows, header: as_csv(rows, header, "\t").encode(),
    "gzip": lambda rows, header: gzip.compress(as_csv(rows, header).encode()),
    "excel utf-8": lambda rows, header: as_csv(rows, header, end="\r\n").encode("utf-8-sig"),
    "excel semicolons": lambda rows, header: as_csv(rows, header, ";", "\r\n").encode("utf-8-sig"),
    "excel sep": lambda rows, header: ("sep=;\r\n" + as_csv(rows, header, ";", "\r\n")).encode("utf-8-sig"),
    "excel unicode text": lambda rows, header: as_csv(rows, header, "\t", "\r\n").encode("utf-16"),
    "big endian": lambda rows, header: b"\xfe\xff" + as_csv(rows, header, "\t", "\r\n").encode("utf-16-be"),
    "excel tail": lambda rows, header: excel_tail(as_csv(rows, header, end="\r\n"), ",").encode(),
    "excel tail, semicolons": lambda rows, header: excel_tail(as_csv(rows, header, ";", "\r\n"), ";").encode(),
    "spare columns": lambda rows, header: spare_columns(rows, header).encode(),
    "parquet": as_parquet,
    "parquet, dictionaries": lambda rows, header: as_parquet(rows, header, dictionary=True),
}

# ---- who reads: a file of two columns -> its rows, None where nothing is written ----

Read = Callable[[Path], list[tuple[str | None, str | None]]]


def pairs(table: IdTable, columns: tuple[str, str]) -> list[tuple[str | None, str | None]]:
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def labels_of_ids(path: Path) -> list[tuple[str | None, str | None]]:
    ids = read_table(path, ["id"])["id"]
    return list(zip(ids.to_pylist(), read_id_labels(path, ids)[0].to_pylist(), strict=True))


def listed(path: Path) -> list[tuple[str | None, str | None]]:
    rows = read_list(str(path), "table")[2].rows
    return list(zip(rows["name"].to_pylist(), rows["label"].to_pylist(), strict=True))


READERS: dict[str, tuple[tuple[str, str], Read]] = {
    "external, clusters": (("id", "cluster"), lambda path: pairs(read_column(path, "cluster"), ("id", "cluster"))),
    "external, labels": (("id", "label"), lambda path: pairs(read_column(path, "label"), ("id", "label"))),
    "compare": (("id", "label"), labels_of_ids),
    "list": (("path", "label"), listed),
}

# Texts that other readers take for numbers, dates, booleans or nothing, and what Excel and shells are about.
ODD = ["01", "1", "001", "1.0", "1e3", "12345678901234567890", "-0", "+1", "1_000", "0x1f", "inf", "2024-01-31"]
ODD += [*DOUBTFUL, "true", "TRUE", "yes", "=1+1", "'1", "#N/A!", "1,5", "a;b", "a\tb", 'say "no"', "two\nlines"]
ODD += ["caf\u00e9", "cafe\u0301", "\u200b1", "\ufeffx", "a\u2028b", "a\x0bb", "sep=;", "id", "label", "\U0001f408"]
inner = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=8)
texts = st.sampled_from(ODD) | inner.filter(lambda text: text.strip() == text and text not in ("nan", "NaN", "<NA>"))
tables = st.lists(st.tuples(texts, st.just("") | texts), min_size=1, max_size=8, unique_by=lambda row: row[0])


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("reader", READERS)
@settings(deadline=None, max_examples=25)
@given(rows=tables)
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, reader: str, writer: str, rows: Rows
) -> None:
    header, read = READERS[reader]
    path = tmp_path_factory.mktemp("table") / "table"  # without a suffix: the content says what it is
    path.write_bytes(WRITERS[writer](rows, header))
    assert read(path) == [(first, second or None) for first, second in rows]


@settings(deadline=None, max_examples=50)
@given(names=st.lists(texts, min_size=1, max_size=6), delimiter=st.sampled_from([",", ";", "\t"]))
def test_names_come_back(tmp_path_factory: pytest.TempPathFactory, names: list[str], delimiter: str) -> None:
    path = tmp_path_factory.mktemp("names") / "names.csv"
    text = io.StringIO(newline="")
    rows = [("head", "cluster", "name"), *((0, place, name) for place, name in enumerate(names))]
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path.write_bytes(excel_tail(text.getvalue(), delimiter * 2).encode("utf-16" if delimiter == "\t" else "utf-8-sig"))
    assert [row["name"] for row in read_names(path).rows] == names


LINES: dict[str, Callable[[list[str]], bytes]] = {
    "lines": lambda ids: "".join(f"{line}\n" for line in ids).encode(),
    "mark": lambda ids: "".join(f"{line}\n" for line in ids).encode("utf-8-sig"),
    "crlf, blank lines": lambda ids: ("\r\n".join(ids) + "\r\n\r\n \r\n").encode(),
    "cr": lambda ids: "\r".join(ids).encode(),
    "utf-16": lambda ids: "".join(f"{line}\r\n" for line in ids).encode("utf-16"),
    "gzip": lambda ids: gzip.compress("\n".join(ids).encode()),
    "table": lambda ids: as_csv([(line, "x") for line in ids], ("id", "note")).encode(),
    "parquet": lambda ids: as_parquet([(line, "x") for line in ids], ("id", "note")),
    "array": lambda ids: array_bytes(np.array(ids)),
}


def array_bytes(values: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, values)
    return sink.getvalue()


@pytest.mark.parametrize("kind", LINES)
@settings(deadline=None, max_examples=25)
@given(ids=st.lists(texts.filter(lambda text: "\n" not in text and text != "id"), min_size=1, unique=True))
def test_ids_come_back(tmp_path_factory: pytest.TempPathFactory, kind: str, ids: list[str]) -> None:
    if kind not in ("table", "parquet", "array"):
        ids = [line for line in ids if "id" not in line.split("\t") + line.split(";") + line.split(",")]
        ids = ids or ["a"]
        if ids[0] in ("sep=;",) or ids[0].startswith("\ufeff"):
            ids.insert(0, "first")
    path = tmp_path_factory.mktemp("ids") / "ids"
    path.write_bytes(LINES[kind](ids))
    assert read_ids(path)["id"].to_pylist() == ids


# ---- what is refused, and what is told ----


def written(tmp_path: Path, data: bytes | str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("id,label,label\na,x,y\n", "has the column label more than once: keep one of them"),
        ("id,label\na,caf\xe9\n".encode("cp1252"), r"line 2: expected UTF-8, found the byte 0xe9 \(Windows-1252"),
        (b"PK\x03\x04\x14\x00rest", "is a spreadsheet .* save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an .xls file, which is not read; save the sheet as CSV"),
        ("id,label\na,x\n".encode("utf-16-le"), "is not UTF-8 but UTF-16 without a byte order mark"),
        ("id,label\na,x\n".encode("utf-32"), "or UTF-32; save it as UTF-8"),
        (gzip.compress(b"id,label\na,x\n" * 99)[:-12], "cannot be read: "),
        (gzip.compress(as_parquet([("a", "x")], ("id", "label"))), "is gzipped Parquet; unpack it first"),
        ("id,label\na\n", "line 2: expected 2 cells, found 1"),
        ("id,label\na,x,y\n", "line 2: expected 2 cells, found 3"),
        ('id,label\na,"x\n', r"line 2: not a row of CSV \(unexpected end of data\)"),
        ("id\na\n", "has the columns id; expected id and label"),
        ("", "has the columns none; expected id and label"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, data: bytes | str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_table(written(tmp_path, data), ["id", "label"])


def test_a_column_twice_is_refused_by_every_reader(tmp_path: Path) -> None:
    for header, read in READERS.values():
        path = written(tmp_path, as_csv([("a", "x,y")], (header[0], f"{header[1]},{header[1]}")).replace('"', ""))
        with pytest.raises(UsageError, match=f"has the column {header[1]} more than once"):
            read(path)
        pq.write_table(pa.table([["a"], ["x"], ["y"]], names=[*header, header[1]]), path)
        with pytest.raises(UsageError, match=f"has the column {header[1]} more than once"):
            read(path)


def test_columns_that_nobody_reads_may_be_anything(tmp_path: Path) -> None:
    path = written(tmp_path, ",note,note,id,label,\n0,1,2,a,x,\n1,,,b,y,\n")
    assert read_table(path, ["id", "label"]).columns.to_pydict() == {"id": ["a", "b"], "label": ["x", "y"]}


def test_a_header_without_rows_is_a_table_without_rows(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "id,label"), ["id", "label"])
    assert len(table) == 0
    assert table.columns.schema.types == [pa.large_string()] * 2


def test_columns_of_types(tmp_path: Path) -> None:
    path, nan = tmp_path / "t.csv", float("nan")
    integers = pa.array([7, 2**63, None], pa.uint64())
    pq.write_table(pa.table({"id": integers, "label": pa.array([1.0, nan, None])}), path)
    table = read_table(path, ["id", "label"])
    assert table.columns.to_pydict() == {"id": ["7", "9223372036854775808", None], "label": ["1", None, None]}
    assert table.notes == [f"{path}: the column label holds double, all of them whole: read as 0, 1, 2 and so on"]
    for ids, labels, message in (
        (pa.array([1.0]), pa.array(["x"]), "the column id holds double"),
        (pa.array([True]), pa.array(["x"]), "the column id holds bool"),
        (pa.array(["a"]), pa.array([0.5]), "the column label holds double"),
        (pa.array(["a"]), pa.array([2.0**60]), "the column label holds double"),
        (pa.array(["a"]), pa.array([float("inf")]), "the column label holds double"),
        (pa.array(["a"]), pa.array([b"x"]), "the column label holds binary"),
    ):
        pq.write_table(pa.table({"id": ids, "label": labels}), path)
        with pytest.raises(UsageError, match=message):
            read_table(path, ["id", "label"])


def test_a_folder_is_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "label=cat"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["a"], "label": ["dog"]}), folder / "t.parquet")
    assert read_table(folder / "t.parquet", ["id", "label"])["label"].to_pylist() == ["dog"]


def test_delimiters_and_empty_rows_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, "id;label\na;x\n;\n\nb;y\n;;\n")
    assert read_table(path, ["id", "label"]).notes == [
        f"{path}: read as cells between semicolons",
        f"{path}: 3 empty rows left out, from line 3 on",
    ]
    assert read_table(written(tmp_path, "id\tlabel\na\tx\n", "t.tsv"), ["id", "label"]).notes == []
    assert read_table(written(tmp_path, "id,label\na,x\n", "t.txt"), ["id", "label"]).notes == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.0, 2.0]), r"expected one dimension of integers or strings as ids, found float64 \(2,\)"),
        (np.array([["a"]]), "expected one dimension"),
        (np.array([{}, 1], dtype=object), "holds Python objects, which are never loaded"),
        (np.array([3, 3]), "1 of the 2 ids in .* are there more than once"),
        (np.array(["a", ""]), "1 of 2 ids are empty, the first is id 2"),
        (np.array([b"\xff"]), "an id is not UTF-8"),
    ],
)
def test_arrays_that_are_no_ids_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    np.save(tmp_path / "ids.npy", values, allow_pickle=True)
    with pytest.raises(UsageError, match=message):
        read_ids(tmp_path / "ids.npy")


def test_other_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([7, 8]))
    assert read_ids(tmp_path / "ids.npy")["id"].to_pylist() == ["7", "8"]
    for text, message in (("a\n\nb\n", "1 of 3 ids are empty, the first is id 2"), ("\n \n", "holds no id")):
        with pytest.raises(UsageError, match=message):
            read_ids(written(tmp_path, text))
    table = read_ids(written(tmp_path, "id\n01\n1\n"))
    assert table["id"].to_pylist() == ["01", "1"]
    assert "its first line has a cell `id`: read as a table" in table.notes[0]
    np.savez(tmp_path / "a.npz", x=np.zeros(2), y=np.zeros(2))
    with pytest.raises(UsageError, match=r"an archive of arrays \(x, y\): save one"):
        load_array(tmp_path / "a.npz")


# ---- the files that were read wrongly once ----


@pytest.fixture(scope="module")
def faults() -> Iterator[Path]:
    own = Path(__file__).resolve().parents[2]
    for root in (Path(os.environ.get("SELAVI_TESTDATA", own.parent / "shared")), own.parent / "shared"):
        if (root / "data" / "faults" / "tables").is_dir():
            yield root / "data" / "faults"
            return
    pytest.skip("no data/faults/tables in ../shared; set SELAVI_TESTDATA to the folder that holds it")


def test_faulty_tables_of_old(faults: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from selavi.evaluation.compare import ClusteringPlan

    tables, protocol = faults / "tables", ClusteringPlan(["kmeans"], [0], "standardise+l2")

    def clips(ids: str, labels: str) -> tuple[int, str]:
        rows = cluster_arrays([tables / "x.npy"], tables / ids, tables / labels, protocol)
        return rows[0]["n"], capsys.readouterr().err

    assert clips("ids.txt", "l.csv")[0] == 90
    assert clips("ids_bom.txt", "l.csv")[0] == 90
    assert clips("ids_v.txt", "l_lead.csv")[0] == 90
    assert read_column(tables / "l_lead.csv", "label")["label"].unique().to_pylist() == ["01", "1", "001"]
    number, told = clips("ids_vblank.txt", "l_lead.csv")
    assert number == 90
    assert "1 empty row left out, from line 91 on" in told
    number, told = clips("ids_v.txt", "l_empty.csv")
    assert number == 85
    assert "5 of 90 ids have no label and are left out" in told
    number, told = clips("ids_v.txt", "l_nan.csv")
    assert number == 80
    assert "5 of 90 rows have 'NaN' as label: read as no label" in told
    with pytest.raises(UsageError, match="has the column label more than once"):
        clips("ids_v.txt", "l_dupcol.csv")


@pytest.mark.parametrize(
    ("clusters", "note"),
    [
        ("c.csv", None),
        ("c_semi.csv", "read as cells between semicolons"),
        ("c_blankcells.csv", "3 empty rows left out, from line 122 on"),
        (
            "c_float1.csv",
            "the same number is written in several ways as cluster (0 and 0.0; 1 and 1.0; 2 and 2.0, ...)",
        ),
    ],
)
def test_faulty_clusters_of_old(faults: Path, tmp_path: Path, clusters: str, note: str | None) -> None:
    path = tmp_path / clusters
    path.write_bytes((faults / "tables" / clusters).read_bytes())  # the figures are written beside it
    found = evaluate_files(path, faults / "tables" / "l_eval.csv")
    assert found["n"] == 120
    assert [text for text in found["notes"] if note is None or note in text] == found["notes"]
    assert len(found["notes"]) == (note is not None)
    assert read_joined(path, faults / "tables" / "l_eval.csv")[0].null_count == 0


def test_faulty_lists_of_old(faults: Path) -> None:
    plain, blank = (read_list(str(faults / "lists" / name), "auto")[2] for name in ("comma.csv", "blank.csv"))
    assert blank.rows.equals(plain.rows)
    assert len(plain.rows) == 15
    assert not plain.notes
    assert "2 empty rows left out, from line 17 on" in blank.notes[0]
