"""The walk over a folder: links that lead nowhere, and every fault of the system at every call."""

import errno
import os
from pathlib import Path

import pytest

from datamodules.index.scan import list_media, scan
from datamodules.index.walk import Walk
from selavi.errors import UsageError

FAULTS = ("ELOOP", "ENOTDIR", "EACCES", "EPERM", "ESTALE", "ENAMETOOLONG", "EIO", "ENOENT", "ETIMEDOUT", "EINVAL")
STATUS = {"ELOOP": "vanished", "ENOTDIR": "vanished", "ENOENT": "vanished", "ENAMETOOLONG": "refused"}


def tree(root: Path) -> Path:
    for path in ("dog/1.mp4", "dog/2.mp4", "cat/3.mp4", "cat/deep/4.mp4", "5.mp4", "notes.txt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    (root / "link").symlink_to(root / "cat")
    (root / "dog" / "6.mp4").symlink_to(root / "5.mp4")
    return root.resolve()


def test_links_that_lead_nowhere_are_rows_or_a_counted_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path / "root")
    (root / "loop").symlink_to(root / "loop")
    (root / "dog" / "loop.mp4").symlink_to(root / "dog" / "loop.mp4")
    (root / "below").symlink_to(root / "5.mp4" / "x")
    (root / "below.mp4").symlink_to(root / "5.mp4" / "x")
    (root / "gone.mp4").symlink_to(root / "nothing")
    (root / "long.mp4").symlink_to("y" * 300)
    rows = {row["id"]: row for row in list_media(root).to_pylist()}
    faulty = {name: (row["status"], row["reason"]) for name, row in rows.items() if row["status"]}
    assert faulty == {
        "dog/loop.mp4": ("vanished", "Too many levels of symbolic links"),
        "below.mp4": ("vanished", "Not a directory"),
        "gone.mp4": ("vanished", "No such file or directory"),
        "long.mp4": ("refused", "File name too long"),
    }
    assert len(rows) == 10
    assert f"2 folders or links in {root} cannot be read, such as " in caplog.text


def test_a_scan_of_such_links_goes_on(tmp_path: Path) -> None:
    root = tree(tmp_path / "root")
    (root / "loop").symlink_to(root / "loop")
    (root / "7.mp4").symlink_to(root / "7.mp4")
    table = scan(root, tmp_path / "cache", workers=1)
    assert dict(zip(table["id"].to_pylist(), table["status"].to_pylist(), strict=True))["7.mp4"] == "vanished"


class Injected:
    """Raises an error at the n-th call of what it wraps, counting over all of them."""

    def __init__(self, number: int, name: str) -> None:
        self.left, self.number = number, getattr(errno, name)
        self.path = ""

    def __call__(self, path: object) -> None:
        self.left -= 1
        if self.left == 0:
            self.path = str(path)
            raise OSError(self.number, os.strerror(self.number), self.path)


class FaultyEntry:
    """An os.DirEntry whose questions may fail."""

    def __init__(self, entry: os.DirEntry[str], inject: Injected) -> None:
        self.entry, self.inject = entry, inject
        self.name, self.path = entry.name, entry.path

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        self.inject(self.path)
        return self.entry.is_dir(follow_symlinks=follow_symlinks)

    def is_symlink(self) -> bool:
        self.inject(self.path)
        return self.entry.is_symlink()

    def stat(self) -> os.stat_result:
        self.inject(self.path)
        return self.entry.stat()


class FaultyListing:
    """An os.scandir that may fail when it begins and at each entry."""

    def __init__(self, path: Path, inject: Injected) -> None:
        inject(path)
        self.inject, self.path = inject, path
        self.entries = iter(sorted(REAL_SCANDIR(path), key=lambda entry: entry.name))

    def __enter__(self) -> "FaultyListing":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __iter__(self) -> "FaultyListing":
        return self

    def __next__(self) -> FaultyEntry:
        self.inject(self.path)
        return FaultyEntry(next(self.entries), self.inject)


REAL_SCANDIR, REAL_STAT, REAL_READLINK = os.scandir, os.stat, os.readlink


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`faulty(n, errno's name)`: from now on the n-th call to the file system below the root fails."""
    root = tree(tmp_path / "root")

    def inject(number: int, name: str) -> Injected:
        injected = Injected(number, name)

        def stat(path, *args, **kwargs):
            if str(path).startswith(str(root)):
                injected(path)
            return REAL_STAT(path, *args, **kwargs)

        def readlink(path, *args, **kwargs):
            injected(path)
            return REAL_READLINK(path, *args, **kwargs)

        monkeypatch.setattr(os, "stat", stat)
        monkeypatch.setattr(os, "readlink", readlink)
        monkeypatch.setattr(os, "scandir", lambda path: FaultyListing(path, injected))
        return injected

    return root, inject


@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_at_any_call_ends_the_walk_or_passes_in_silence(faulty, name: str, caplog) -> None:
    root, inject = faulty
    whole = {"5.mp4", "cat/3.mp4", "cat/deep/4.mp4", "dog/1.mp4", "dog/2.mp4", "dog/6.mp4"}
    number = 0
    while True:
        number += 1
        caplog.clear()
        injected = inject(number, name)
        table = list_media(root)
        if not injected.path:
            break
        rows = dict(zip(table["id"].to_pylist(), table["status"].to_pylist(), strict=True))
        lost = whole - {row.replace("link/", "cat/") for row in rows}
        bad = {row for row, status in rows.items() if status}
        assert all(rows[row] == STATUS.get(name, "unreadable") for row in bad)
        # What is lost is told with the folder's name; what could not be looked at is a row.
        assert not lost or "folders or links" in caplog.text, (number, injected.path)
        assert bool(lost or bad or "cannot be read" in caplog.text) or rows.keys() == whole
    assert number > 30


@pytest.mark.parametrize("name", FAULTS)
def test_a_root_that_cannot_be_read_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    root, number = tree(tmp_path / "root"), getattr(errno, name)

    def stat(path, *args, **kwargs):
        if Path(path) == root:
            raise OSError(number, os.strerror(number), str(path))
        return REAL_STAT(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(UsageError) as caught:
        scan(root, tmp_path / "cache")
    assert "no such folder" in str(caught.value) or os.strerror(number) in str(caught.value)


def test_a_listing_that_breaks_off_keeps_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "root")
    walk = Walk(root, False, {".mp4"})
    injected = Injected(5, "EIO")
    monkeypatch.setattr(os, "scandir", lambda path: FaultyListing(path, injected))
    entries = list(walk)
    assert entries and len(walk.faults) + sum(entry.status is not None for entry in entries) == 1
