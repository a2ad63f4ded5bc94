from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.index.layout import read_layout
from selavi.runs.manifest import SCHEMA


@pytest.fixture(scope="session")
def manifest_of() -> Callable[..., pa.Table]:
    """`manifest_of(paths, stem="corrupt")`: a scan's manifest of some paths, with the status of some."""

    def make(paths: Iterable[str], **statuses: str) -> pa.Table:
        rows, paths = [], sorted(paths)
        reading = read_layout(Counter(path.rpartition("/")[0] for path in paths))
        for path in paths:
            split, label = reading.place(path.rpartition("/")[0])
            status = statuses.get(Path(path).stem, "ok")
            rows.append({"id": path, "path": path, "split": split, "label": label, "status": status})
            rows[-1] |= {"start_s": 0.0, "duration_s": 9.0}
        return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"root": "/data/set"}))

    return make


@pytest.fixture(scope="session")
def annotations(shared: Path) -> Path:
    """The official lists."""
    folder = shared / "data" / "annotations"
    if not folder.is_dir():
        pytest.skip(f"no official lists in {folder}; set SELAVI_TESTDATA to the folder that holds data/annotations")
    return folder


@pytest.fixture
def write_list(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a list file and return its path."""

    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        return str(tmp_path / name)

    return write
