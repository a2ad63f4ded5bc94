import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules import scan as scan_module
from datamodules.manifest import SCHEMA, media_root
from datamodules.scan import find_media, scan, split_and_label
from selavi.errors import UsageError
from selavi.media import MediaError, MediaInfo


class Probe:
    """Stands in for selavi.media.probe and counts; `die_at` ends the process of scanning at that file."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.die_at = -1

    def __call__(self, path: Path) -> MediaInfo:
        if len(self.asked) == self.die_at:
            raise KeyboardInterrupt
        self.asked.append(path.name)
        if not path.exists():
            raise MediaError(path, "vanished", "No such file or directory")
        if path.stat().st_size == 0:
            raise MediaError(path, "empty", "0 bytes")
        return MediaInfo(2.0, 12.0, 48, 32, "ok")


class Pool:
    """One process, this one."""

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function, *columns, chunksize: int) -> Iterator[object]:
        return map(function, *columns)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    probe = Probe()
    monkeypatch.setattr(scan_module, "probe", probe)
    monkeypatch.setattr(scan_module, "worker_pool", lambda *_: Pool())
    return probe


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * 10)
    return root


# ---- what is found ----


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/ball/1.mp4", ("train", "ball")),
        ("test/ball/deep/er/1.mp4", ("test", "ball")),
        ("val/1.mp4", ("val", None)),
        ("ball/1.mp4", ("train", "ball")),
        ("1.mp4", ("train", None)),
        ("testing/1.mp4", ("train", "testing")),
    ],
)
def test_folders_say_split_and_class(path: str, expected: tuple[str, str | None]) -> None:
    assert split_and_label(path) == expected


def test_media_files_are_found_at_any_depth(tmp_path: Path) -> None:
    tree(tmp_path, "b/2.MP4", "a.webm", "b/c/d/3.mkv", ".hidden/4.mp4", "b/.5.mp4", "b/notes.txt", "b/6.mp4.part")
    assert find_media(tmp_path) == ["a.webm", "b/2.MP4", "b/c/d/3.mkv"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    tree(tmp_path / "elsewhere", "1.mp4")
    tree(tmp_path / "root", "fan/2.mp4")
    (tmp_path / "root" / "ball").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "fan" / "again").symlink_to(tmp_path / "elsewhere")
    assert find_media(tmp_path / "root") == ["ball/1.mp4", "fan/2.mp4"]


def test_a_folder_that_cannot_be_read_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tree(tmp_path, "a/1.mp4", "b/2.mp4")
    listing = os.scandir

    def guarded(path: str):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert find_media(tmp_path) == ["a/1.mp4"]
    assert "1 folders" in caplog.text and "Permission denied" in caplog.text and "/b" in caplog.text


# ---- the manifest ----


def test_generated_clips_and_bad_files_become_rows(tmp_path: Path, media: Path) -> None:
    root = tmp_path / "root"
    (root / "train" / "square").mkdir(parents=True)
    for name in ("plain", "mute", "silent", "empty", "text"):
        shutil.copy(media / f"{name}.mp4", root / "train" / "square")
    (root / "train" / "square" / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (root / "train" / "square" / os.fsdecode(b"b\xe4d.mp4")).write_bytes((media / "plain.mp4").read_bytes())
    table = scan(root, tmp_path / "cache", workers=1)
    assert table.schema.equals(SCHEMA)
    assert media_root(table) == root.resolve()
    rows = {Path(row["path"]).stem: row for row in table.to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "plain": "ok",
        "mute": "ok",
        "silent": "ok",
        "empty": "empty",
        "text": "not_media",
        "gone": "vanished",
        "b\\xe4d": "refused",
    }
    assert {name: rows[name]["audio_state"] for name in ("plain", "mute", "silent")} == {
        "plain": "ok",
        "mute": "absent",
        "silent": "silent",
    }
    assert all(row["reason"] for row in rows.values() if row["status"] != "ok")
    plain = rows["plain"]
    assert plain["id"] == plain["path"] == "train/square/plain.mp4"
    assert (plain["split"], plain["label"], plain["width"], plain["height"]) == ("train", "square", 48, 32)
    assert plain["bytes"] == (media / "plain.mp4").stat().st_size
    assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
    again = scan(root, tmp_path / "cache", workers=1)
    assert again.equals(table)


def test_a_second_scan_probes_what_is_new_or_changed(tmp_path: Path, probe: Probe) -> None:
    root = tree(tmp_path / "root", "1.mp4", "2.mp4", "3.mp4")
    first = scan(root, tmp_path / "cache")
    assert probe.asked == ["1.mp4", "2.mp4", "3.mp4"]
    assert scan(root, tmp_path / "cache").equals(first)
    assert len(probe.asked) == 3
    (root / "2.mp4").write_bytes(b"other contents")
    tree(root, "4.mp4")
    (root / "3.mp4").unlink()
    table = scan(root, tmp_path / "cache")
    assert probe.asked[3:] == ["2.mp4", "4.mp4"]
    assert table["id"].to_pylist() == ["1.mp4", "2.mp4", "4.mp4"]


def test_a_file_that_moves_to_another_class_is_found_there(tmp_path: Path, probe: Probe) -> None:
    root = tree(tmp_path / "root", "ball/1.mp4", "fan/2.mp4")
    scan(root, tmp_path / "cache")
    shutil.move(root / "ball", root / "rain")
    assert scan(root, tmp_path / "cache")["label"].to_pylist() == ["fan", "rain"]


def test_an_interrupted_scan_goes_on_where_it_was(tmp_path: Path, probe: Probe) -> None:
    root = tree(tmp_path / "root", *(f"{n}.mp4" for n in range(8)))
    cache = tmp_path / "cache"
    for die_at in (3, 5):  # twice: the second journal goes on after the first one's torn line
        probe.die_at = die_at
        with pytest.raises(KeyboardInterrupt):
            scan(root, cache)
        journal = next(cache.glob("*.jsonl"))
        with journal.open("a") as file:
            file.write('{"id": "6.m')
    probe.die_at = -1
    table = scan(root, cache)
    assert probe.asked == [f"{n}.mp4" for n in range(8)]
    assert table["status"].to_pylist() == ["ok"] * 8
    assert not list(cache.glob("*.jsonl"))


def test_journal_lines_are_plain_rows(tmp_path: Path, probe: Probe) -> None:
    root = tree(tmp_path / "root", "ö.mp4", "p.mp4")
    probe.die_at = 1
    with pytest.raises(KeyboardInterrupt):
        scan(root, tmp_path / "cache")
    lines = next((tmp_path / "cache").glob("*.jsonl")).read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert [row["id"] for row in rows] == ["p.mp4"]


def test_two_roots_do_not_share_a_store(tmp_path: Path, probe: Probe) -> None:
    for name in ("a", "b"):
        tree(tmp_path / name, "1.mp4")
        scan(tmp_path / name, tmp_path / "cache")
    assert len(probe.asked) == 2
    assert len(list((tmp_path / "cache").glob("*.parquet"))) == 2


def test_no_folder_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder; point data\.root at a folder of videos"):
        scan(tmp_path / "none", tmp_path / "cache")
    tree(tmp_path / "root", "notes.txt")
    with pytest.raises(UsageError, match=r"no media file in it \(looked for \.avi, .*\.mp4"):
        scan(tmp_path / "root", tmp_path / "cache")
    with pytest.raises(UsageError, match="no such folder"):
        scan(tmp_path / "root" / "notes.txt", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_root_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / os.fsdecode(b"b\xe4d"), "1.mp4")
    with pytest.raises(UsageError, match="name is not UTF-8; rename it"):
        scan(root, tmp_path / "cache")
