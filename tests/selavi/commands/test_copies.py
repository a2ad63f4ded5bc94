"""Results in object stores: one in memory, and a local folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from datamodules.stores.shards import open_shards
from selavi.commands.copies import copy_results, require_store
from selavi.errors import UsageError
from tools import assign, embed, export_clusters, prepare


@pytest.fixture
def memory() -> Iterator[Any]:
    store = fsspec.filesystem("memory")
    yield store
    for path in store.find("/"):
        store.rm_file(path)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of results: two files, one below a folder, and what is only there to go on from."""
    folder = tmp_path / "results"
    for name in ("a.csv", "whole.json", "pages/b.html", "parts/00.parquet", ".lock", "prepare.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name * 1000)
    return folder


@pytest.mark.parametrize("place", ["memory", "file"])
def test_results_are_copied_whole_and_replace_what_was_there(
    place: str, results: Path, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "memory://bucket/run" if place == "memory" else f"file://{tmp_path}/bucket/run"
    files, root = fsspec.core.url_to_fs(url)
    for words in ("first", "second, longer"):
        (results / "a.csv").write_text(words)
        copy_results(results, url, "whole.json")
        assert sorted(path.removeprefix(root) for path in files.find(root)) == [
            "/a.csv",
            "/pages/b.html",
            "/whole.json",
        ]
        assert files.cat_file(f"{root}/a.csv").decode() == words
        assert f"copied: 3 files, 22 kB, to {url}" in capsys.readouterr().err


def test_a_store_that_fails_has_no_half_file_and_no_mark_of_a_whole_copy(
    results: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://bucket/run"
    copy_results(results, url, "whole.json")
    with monkeypatch.context() as patch:

        def fail(source: Any, copy: Any, length: int) -> None:
            copy.write(source.read(10))
            raise OSError("the bucket is gone")

        patch.setattr("shutil.copyfileobj", fail)
        with pytest.raises(
            UsageError, match=r"are whole, but memory://bucket/run does not take them \(the bucket is gone"
        ):
            copy_results(results, url, "whole.json")
    assert not memory.exists("/bucket/run/whole.json")
    assert memory.cat_file("/bucket/run/a.csv") == b"a.csv" * 1000
    copy_results(results, url, "whole.json")
    assert memory.cat_file("/bucket/run/whole.json") == b"whole.json" * 1000


@pytest.mark.parametrize(("url", "message"), [("results", "expected a URL"), ("nosuch://bucket", "nosuch")])
def test_what_is_no_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"--copy-to {url}: .*{message}"):
        require_store(url)


def test_a_store_that_is_only_read_is_named(results: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(type(memory), "makedirs", refuse)
    with pytest.raises(UsageError, match=r"does not take them \(NotImplementedError\)"):
        copy_results(results, "memory://bucket/run", "whole.json")


def test_labels_and_vectors_go_to_a_store(finished_run: Path, demo_set: Path, tmp_path: Path, memory: Any) -> None:
    clips = [str(demo_set / "test"), "--workers", "0"]
    out = tmp_path / "labels"
    words = [str(finished_run), *clips, "--views", "1", "--out", str(out), "--copy-to", "memory://bucket/labels"]
    assert assign.main(words) == 0
    with memory.open("/bucket/labels/assignments.parquet") as file:
        assert pq.read_table(file).equals(pq.read_table(out / "assignments.parquet"))
    out = tmp_path / "vectors"
    assert embed.main([*clips, "--with", "crafted", "--out", str(out), "--copy-to", "memory://bucket/vectors"]) == 0
    for name in ("video.npy", "audio.npy", "ids.csv"):
        assert memory.cat_file(f"/bucket/vectors/{name}") == (out / name).read_bytes()
    assert assign.main([*words[:-1], "nosuch://bucket"]) == 2


def test_shards_go_to_a_store_from_which_they_are_read(
    demo_set: Path, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cache = tmp_path / "shards", tmp_path / "cache"
    words = [
        str(demo_set),
        str(out),
        "--cache-dir",
        str(cache),
        "--size",
        "32",
        "--sample-rate",
        "8000",
        "--workers",
        "1",
    ]
    assert prepare.main([*words, "--copy-to", "memory://bucket/set", "--task", "1/2"]) == 0
    assert not memory.exists("/bucket/set")
    assert prepare.main([*words, "--copy-to", "memory://bucket/set", "--task", "0/2"]) == 0
    manifest, reader = open_shards("memory://bucket/set", cache, 1)
    assert reader is not None and len(manifest) == 48
    assert manifest["id"].equals(open_shards(str(out), cache, 1)[0]["id"])
    assert prepare.main([*words, "--format", "files", "--copy-to", "memory://bucket/set"]) == 2
    assert "--copy-to is for --format shards" in capsys.readouterr().err


def test_the_page_goes_to_a_store_with_all_that_it_shows(
    finished_run: Path, memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    words = [str(run), "--map", "none", "--copy-to", "memory://bucket/page"]
    assert export_clusters.main(words) == 2
    assert "--copy-to: the page would link to files of this machine" in capsys.readouterr().err
    assert export_clusters.main([*words, "--media", "copy", "--clips", "2", "--evidence", "0"]) == 0
    gallery = run / "gallery"
    kept = {path.relative_to(gallery).as_posix() for path in gallery.rglob("*") if path.is_file()}
    there = {path.removeprefix("/bucket/page/") for path in memory.find("/bucket/page")}
    assert there == {path for path in kept if not path.startswith(".") and not path.endswith(".lock")}
    assert any(path.endswith(".mp4") for path in there) and "index.html" in there
