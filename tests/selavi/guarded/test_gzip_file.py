import gzip
from pathlib import Path

import pytest

from selavi.errors import UsageError
from selavi.guarded import gzip_file
from selavi.guarded.gzip_file import open_gzip
from selavi.id_tables import read_ids, read_table
from selavi.results.naming import read_names


def test_text_comes_back(tmp_path: Path) -> None:
    content = b"id,label\n" + b"a,dog\n" * 100_000
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(content))
    with open_gzip(tmp_path / "x.csv.gz", "x") as file:
        assert file.read() == content
    assert len(read_table(tmp_path / "x.csv.gz", ["id", "label"])) == 100_000


READERS = {"table": lambda path: read_table(path, ["id"]), "ids": read_ids, "names": read_names}
LINES = {"rows": b"a\n", "empty lines": b"\n", "one line": b"a" * 1000, "letters": b"\xff"}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("line", LINES)
def test_a_small_file_that_unpacks_to_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str, line: str
) -> None:
    monkeypatch.setattr(gzip_file, "LEAST_BYTES", 500_000)
    path = tmp_path / "names.csv.gz"
    header = b"head,cluster\n0,1\n" if read == "names" else b"id\n"
    path.write_bytes(gzip.compress(header + LINES[line] * (3_000_000 // len(LINES[line]))))
    with pytest.raises(UsageError, match=r"names\.csv\.gz"):
        READERS[read](path)


def test_the_message_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt.gz"
    path.write_bytes(gzip.compress(b"\n" * (gzip_file.LEAST_BYTES + 1)))
    assert path.stat().st_size < 100_000
    refused = pytest.raises(UsageError, match=r"has 65 kB and unpacks to more than 67 MB: .*gunzip")
    with refused, open_gzip(path, str(path)) as file:
        file.read()


def test_a_damaged_file_is_a_message(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    whole = gzip.compress(b"id\n" + b"abcdefgh\n" * 1000)
    for damaged in (whole[:20], whole[:-4], whole[:30] + b"\0\0\0\0" + whole[34:], b"\x1f\x8b"):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"x\.csv\.gz"):
            read_table(path, ["id"])
