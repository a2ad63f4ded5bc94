from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.manifest import (
    SCHEMA,
    describe_bad,
    mark_unusable,
    media_root,
    read_manifest,
    select_split,
    usable,
    write_manifest,
)
from selavi.errors import UsageError


@pytest.fixture
def manifest() -> pa.Table:
    rows = [
        {"id": f"{split}/{label or ''}{n}.mp4", "path": f"{split}/{n}.mp4", "split": split, "label": label}
        | {"duration_s": 2.0, "status": status, "reason": None if status == "ok" else "why"}
        for n, (split, label, status) in enumerate(
            [
                ("train", "ball", "ok"),
                ("train", None, "empty"),
                ("test", "fan", "ok"),
                ("test", "fan", "corrupt"),
                ("train", "fan", "corrupt"),
            ]
        )
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"root": "/some where/ö"}))


def test_it_is_read_back_with_its_root(tmp_path: Path, manifest: pa.Table) -> None:
    write_manifest(manifest, tmp_path / "deep" / "manifest.parquet")
    found = read_manifest(tmp_path / "deep" / "manifest.parquet")
    assert found.equals(manifest)
    assert media_root(found) == Path("/some where/ö")


def test_splits_are_selected_and_missing_ones_refused(manifest: pa.Table) -> None:
    assert select_split(manifest, "test")["path"].to_pylist() == ["test/2.mp4", "test/3.mp4"]
    assert media_root(select_split(manifest, "test")) == Path("/some where/ö")
    with pytest.raises(UsageError) as caught:
        select_split(manifest, "val")
    assert str(caught.value) == "no file in split 'val' of /some where/ö; found: test (2 files), train (3 files)"
    with pytest.raises(UsageError, match="found: nothing"):
        select_split(manifest.slice(0, 0), "train")


def test_only_rows_without_a_fault_are_usable(manifest: pa.Table) -> None:
    assert usable(manifest)["status"].to_pylist() == ["ok", "ok"]
    assert len(usable(manifest.slice(1, 1))) == 0


def test_rows_are_marked_and_nothing_else_changes(manifest: pa.Table) -> None:
    marked = mark_unusable(manifest, {manifest["id"][2].as_py(): ("too_short", "0.5 s"), "nobody": ("x", "y")})
    assert marked["status"].to_pylist() == ["ok", "empty", "too_short", "corrupt", "corrupt"]
    assert marked["reason"].to_pylist() == [None, "why", "0.5 s", "why", "why"]
    assert marked.schema.equals(manifest.schema, check_metadata=True)
    assert marked.drop_columns(["status", "reason"]).equals(manifest.drop_columns(["status", "reason"]))
    assert manifest["status"].to_pylist()[2] == "ok"


def test_bad_files_are_counted_by_reason(manifest: pa.Table) -> None:
    assert describe_bad(manifest) == "2 corrupt (such as test/3.mp4); 1 empty (such as train/1.mp4)"
    assert describe_bad(usable(manifest)) == ""
