"""Columns of somebody's table on the page."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from selavi.errors import UsageError
from selavi.results.gallery.columns import MOST_LETTERS, read_columns

IDS = pa.chunked_array([["a/1", "a/2", "007"]], pa.string())


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_texts_and_pictures_come_by_id_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "my pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "my pictures" / "1.png")
    rows = "007,<b>bond</b>,https://example.org/1?a=b,https://example.org/1.png\na/1,dog,,my pictures/1.png\nother,,,\n"
    path = write(tmp_path, f"id,caption,url,file\n{rows}")
    columns = read_columns(path, ["caption", "url"], "file", IDS, tmp_path / "run" / "gallery")
    rows_of_page = columns.rows(np.array([2, 0, 1]))
    assert rows_of_page == [["<b>bond</b>", "https://example.org/1?a=b"], ["dog", None], [None, None]]
    assert columns.urls(np.arange(3)) == ["../../my%20pictures/1.png", None, None]
    said = " ".join(columns.notes)
    assert "has 2 of 3 clips" in said
    assert "2 of 3 clips have no picture" in said


def test_long_cells_are_cut(tmp_path: Path) -> None:
    path = write(tmp_path, f"id,caption\na/1,{'x' * (MOST_LETTERS + 1)}\na/2,{'y' * MOST_LETTERS}\n")
    columns = read_columns(path, ["caption"], "", IDS, tmp_path)
    assert columns.rows(np.array([0, 1])) == [["x" * MOST_LETTERS + "…"], ["y" * MOST_LETTERS]]
    assert columns.urls(np.array([0])) == [None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,caption\na/1,x\na/1,y\n", "1 of 2 rows repeat an id"),
        ("id,caption\nb/1,x\n", "has none of the 3 clips: ids of clips are such as 'a/1', of its rows such as 'b/1'"),
        ("id,words\na/1,x\n", "caption"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_columns(write(tmp_path, text), ["caption"], "", IDS, tmp_path)
