import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.index import notebook as notebook_module
from datamodules.index import probing
from datamodules.index.layout import describe_layout
from datamodules.index.manifest import STATUSES, judge
from datamodules.index.scan import list_media, other_suffixes, recall, scan
from datamodules.index.suffixes import FILM_SUFFIXES, SOUND_SUFFIXES
from datamodules.processes import Failure
from selavi.errors import UsageError
from selavi.filesystem import PASSING
from selavi.media import MediaError, MediaInfo
from selavi.runs.manifest import SCHEMA, media_root


class Probe:
    """Stands in for selavi.media.probe and counts; `die_at` ends the process of scanning at that file."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.die_at = -1

    def __call__(self, path: Path, **_: object) -> MediaInfo:
        if len(self.asked) == self.die_at:
            raise KeyboardInterrupt
        self.asked.append(path.name)
        if not path.exists():
            raise MediaError(path, "vanished", "No such file or directory")
        if path.stat().st_size == 0:
            raise MediaError(path, "empty", "0 bytes")
        return MediaInfo(2.0, 12.0, 48, 32, "ok", 2.0, None, "stamps")


def run_here(function, jobs, **_: object) -> Iterator[tuple[int, object]]:
    """run_jobs in this process."""
    return ((number, function(job)) for number, job in enumerate(jobs))


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    probe = Probe()
    monkeypatch.setattr(probing, "probe", probe)
    monkeypatch.setattr(notebook_module, "run_jobs", run_here)
    return probe


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * 10)
    return root


# ---- what is found ----


def find_media(root: Path, allow_links: bool = False) -> list[str]:
    return list_media(root, allow_links)["id"].to_pylist()


def test_media_files_are_found_at_any_depth(tmp_path: Path) -> None:
    tree(tmp_path, "b/2.MP4", "a.webm", "b/c/d/3.mkv", ".hidden/4.mp4", "b/.5.mp4", "b/notes.txt", "b/6.mp4.part")
    assert find_media(tmp_path) == ["a.webm", "b/2.MP4", "b/c/d/3.mkv"]


def test_links_out_of_the_root_are_refused_unless_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path / "elsewhere", "1.mp4")
    root = tree(tmp_path / "root", "fan/2.mp4")
    (root / "ball").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "fan" / "again").symlink_to(tmp_path / "elsewhere")
    (root / "fan" / "out.mp4").symlink_to(tmp_path / "elsewhere" / "1.mp4")
    (root / "fan" / "in.mp4").symlink_to(root / "fan" / "2.mp4")
    (root / "fan" / "notes.txt").symlink_to(tmp_path / "elsewhere" / "1.mp4")
    table = list_media(root)
    assert table["id"].to_pylist() == ["ball", "fan/2.mp4", "fan/again", "fan/in.mp4", "fan/out.mp4"]
    assert table["status"].to_pylist() == ["refused", None, "refused", None, "refused"]
    assert "a link to a folder outside of data.root, " in table["reason"][0].as_py()
    assert "elsewhere/1.mp4': allow it with data.allow_links" in table["reason"][4].as_py()
    assert f"{root}/ball is a link to a folder outside of data.root, '{tmp_path}/elsewhere'" in caplog.text
    assert find_media(root, allow_links=True) == ["ball/1.mp4", "fan/2.mp4", "fan/in.mp4", "fan/out.mp4"]


def test_what_is_not_a_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    table = scan(tmp_path, tmp_path / "cache")
    assert table["status"].to_pylist() == ["refused"]
    assert "a pipe" in table["reason"][0].as_py()


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


def test_files_with_other_suffixes_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.mp4", "a/2.xyz", "b/3.XYZ", "b/list.txt", "b/README", "b/4.mp3", ".hidden.txt", "5.wav")
    films = FILM_SUFFIXES - SOUND_SUFFIXES
    assert other_suffixes(list_media(tmp_path, suffixes=films), films) == (
        "6 files with other suffixes were not read: .xyz 2, .txt 1, none 1; with sound alone, which modalities=[audio] "
        "reads: .mp3 1, .wav 1"
    )
    told = "4 files with other suffixes were not read: .xyz 2, .txt 1, none 1"
    assert other_suffixes(list_media(tmp_path)) == told
    tree(tmp_path / "clean", "1.mp4")
    assert other_suffixes(list_media(tmp_path / "clean")) == ""


def test_where_there_is_no_media_the_others_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.xyz", "2.xyz")
    with pytest.raises(UsageError, match=r"no media file in it \(looked for .*; 2 files with other .*: \.xyz 2"):
        scan(tmp_path, tmp_path / "cache")


def test_another_layout_reads_no_file_again(tmp_path: Path, probe: Probe) -> None:
    root = tree(tmp_path / "root", "Train/dog/1.mp4", "Testing/dog/2.mp4", "Testing/cat/3.mp4")
    table = scan(root, tmp_path / "cache")
    assert list(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True)) == [
        ("test", "cat"),
        ("test", "dog"),
        ("train", "dog"),
    ]
    assert describe_layout(table) == ["splits: train 1, test 2 (folders Testing as test, Train as train); 2 classes"]
    table = scan(root, tmp_path / "cache", layout="classes")
    assert table["label"].to_pylist() == ["Testing", "Testing", "Train"]
    assert scan(root, tmp_path / "cache", layout="flat")["label"].null_count == 3
    assert len(probe.asked) == 3
    with pytest.raises(UsageError, match=r"data\.layout .* must be auto, classes, splits, flat; got 'none'"):
        scan(root, tmp_path / "cache", layout="none")


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


def test_what_a_scan_has_seen_is_recalled_without_a_word_to_the_disk(tmp_path: Path, probe: Probe) -> None:
    root, cache = tree(tmp_path / "root", "a/x.mp4", "b/y.mp4"), tmp_path / "cache"
    listing = list_media(root)
    assert recall(root, listing, cache) is None and not cache.exists()
    scanned = scan(root, cache)
    before = sorted((path, path.stat().st_mtime_ns) for path in cache.iterdir())
    recalled = recall(root, listing, cache)
    assert recalled is not None
    assert recalled.equals(scanned) and recalled.schema.metadata == scanned.schema.metadata
    tree(root, "b/z.mp4")
    assert recall(root, list_media(root), cache) is None  # a new file
    assert sorted((path, path.stat().st_mtime_ns) for path in cache.iterdir()) == before


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
    with pytest.raises(UsageError, match=r"no media file in it \(looked for .*\.avi, .*\.mp4"):
        scan(tmp_path / "root", tmp_path / "cache")
    with pytest.raises(UsageError, match="that is a file, not a folder; point"):
        scan(tmp_path / "root" / "notes.txt", tmp_path / "cache")
    with pytest.raises(UsageError, match="no such folder: that is a path of Windows"):
        scan(Path(r"C:\Users\me\Videos"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_root_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / os.fsdecode(b"b\xe4d"), "1.mp4")
    with pytest.raises(UsageError, match="name is not UTF-8; rename it"):
        scan(root, tmp_path / "cache")


# ---- files that are hostile, or not there any more ----


def test_what_changes_while_it_is_read_is_not_remembered(tmp_path: Path, probe: Probe) -> None:
    root = tree(tmp_path / "root", "1.mp4", "2.mp4", "3.mp4")
    growing, leaving = root / "1.mp4", root / "2.mp4"
    real = probe.__call__

    def probing_while_others_write(path: Path, **_: object) -> MediaInfo:
        info = real(path)
        if path == growing:
            growing.write_bytes(b"x" * 20)
        if path == leaving:
            leaving.unlink()
        return info

    probing.probe = probing_while_others_write  # the fixture puts the real one back
    table = scan(root, tmp_path / "cache")
    assert table["status"].to_pylist() == ["changed", "vanished", "ok"]
    leaving.write_bytes(b"x" * 10)
    assert scan(root, tmp_path / "cache")["status"].to_pylist() == ["changed", "vanished", "ok"]
    probing.probe = probe
    leaving.write_bytes(b"x" * 10)
    assert scan(root, tmp_path / "cache")["status"].to_pylist() == ["ok", "ok", "ok"]
    assert probe.asked.count("3.mp4") == 1


def test_an_unknown_exception_of_a_decoder_is_one_bad_file(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "root", "1.mp4")
    monkeypatch.setattr(probing, "probe", lambda path, **_: 1 // 0)
    row = scan(root, tmp_path / "cache").to_pylist()[0]
    assert (row["status"], row["reason"]) == ("corrupt", "ZeroDivisionError: integer division or modulo by zero")


def test_retry_probes_what_could_not_be_used(tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "root", "1.mp4", "2.mp4")
    failing = [(0, Failure("corrupt", "cut off")), (1, {"status": "ok", "duration_s": 2.0})]
    monkeypatch.setattr(notebook_module, "run_jobs", lambda *_, **__: iter(failing))
    assert scan(root, tmp_path / "cache")["status"].to_pylist() == ["corrupt", "ok"]
    monkeypatch.setattr(notebook_module, "run_jobs", run_here)
    assert scan(root, tmp_path / "cache")["status"].to_pylist() == ["corrupt", "ok"]
    assert probe.asked == []
    assert scan(root, tmp_path / "cache", retry=True)["status"].to_pylist() == ["ok", "ok"]
    assert probe.asked == ["1.mp4"]


@pytest.mark.parametrize("status", PASSING)
def test_a_passing_failure_is_no_fact(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    root = tree(tmp_path / "root", "1.mp4", "2.mp4")
    failing = [(0, Failure(status, "this time")), (1, {"status": "ok", "duration_s": 2.0})]
    monkeypatch.setattr(notebook_module, "run_jobs", lambda *_, **__: iter(failing))
    assert scan(root, tmp_path / "cache")["status"].to_pylist() == [status, "ok"]
    monkeypatch.setattr(notebook_module, "run_jobs", run_here)
    assert scan(root, tmp_path / "cache")["status"].to_pylist() == ["ok", "ok"]
    assert probe.asked == ["1.mp4"]
    assert "1 files that could not be read the last time" in caplog.text


@pytest.mark.parametrize("status", sorted({*STATUSES} - {*PASSING, "ok"}))
def test_a_lasting_failure_is_remembered(
    tmp_path: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    root = tree(tmp_path / "root", "1.mp4")
    monkeypatch.setattr(notebook_module, "run_jobs", lambda *_, **__: iter([(0, Failure(status, "for good"))]))
    scan(root, tmp_path / "cache")
    monkeypatch.setattr(notebook_module, "run_jobs", run_here)
    assert scan(root, tmp_path / "cache")["status"].to_pylist() == [status]
    assert probe.asked == []


@pytest.mark.parametrize(("policy", "column"), [("require", "expect_require"), ("mask", "expect_mask")])
def test_odd_media_end_as_expected(shared: Path, odd_scan: pa.Table, policy: str, column: str) -> None:
    with (shared / "data" / "oddmedia" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        expected = {row["file"]: row[column].split("|") for row in csv.DictReader(file)}
    expected["audio_only.m4a"] = ["ok"]  # the table is of a time when clips needed a picture
    judged = judge(odd_scan, clip_s=1.0, audio_policy=policy, modalities=["video", "audio"])
    found = dict(zip(judged["id"].to_pylist(), judged["status"].to_pylist(), strict=True))
    assert found.keys() == expected.keys()
    wrong = {name: (found[name], expected[name]) for name in found if found[name] not in expected[name]}
    assert not wrong
    assert set(found.values()) <= set(STATUSES)


@pytest.fixture(scope="module")
def odd_scan(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = shared / "data" / "oddmedia"
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}")
    return scan(folder, tmp_path_factory.mktemp("cache"), workers=1)


def test_a_url_is_no_folder_to_scan(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.root is a URL \(s3://\.\.\.\): files are scanned in a local folder"):
        scan(Path("s3://bucket/set"), tmp_path / "cache")
