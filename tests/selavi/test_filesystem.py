"""The system's words for paths, and paths as people type them."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from selavi.cli import run_tool
from selavi.filesystem import (
    Enclosure,
    expand,
    explain,
    fault_of,
    free_disk,
    look,
    on_one_disk,
    place_of,
    real_path,
    user_path,
)


def test_a_look_never_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    assert (look(tmp_path).kind, look(tmp_path / "pipe").kind) == ("folder", "other")
    seen = look(tmp_path / "file")
    assert (seen.kind, seen.bytes, seen.mtime_ns) == ("file", 3, (tmp_path / "file").stat().st_mtime_ns)
    assert look(tmp_path / "loop").reason == "Too many levels of symbolic links"
    assert look(tmp_path / "file" / "x").reason == "Not a directory"
    assert look(tmp_path / ("x" * 300)).status == "refused"
    assert look("a\0b").status == "refused"
    assert look(tmp_path / "none").status == "vanished"


@pytest.mark.parametrize("name", ["EACCES", "EPERM", "EIO", "ESTALE", "ETIMEDOUT", "ENOMEM"])
def test_what_may_pass_is_unreadable(name: str) -> None:
    number = getattr(errno, name)
    assert fault_of(OSError(number, os.strerror(number), "x")) == ("unreadable", os.strerror(number))


def test_real_paths_of_odd_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert real_path(tmp_path / "loop").is_absolute()
    (tmp_path / "to").symlink_to(tmp_path)
    assert real_path(tmp_path / "to") == tmp_path.resolve()

    def refuse(path: object) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(os, "readlink", refuse)
    assert real_path(tmp_path / "to") == tmp_path / "to"


def test_home_folders_are_expanded_and_urls_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand("~/videos") == "/home/me/videos"
    assert expand("~") == "/home/me"
    assert user_path("~/a b/c") == Path("/home/me/a b/c")
    for text in ("s3://bucket/~/set", "https://x.org/~me/set", "a/~/b", "", "/data/~x", "file:///mnt//a"):
        assert expand(text) == text


@pytest.mark.parametrize("name", ["EACCES", "ENAMETOOLONG", "ENOSPC", "EIO", "ELOOP", "ENOTDIR", "ESTALE", "EROFS"])
def test_a_tool_ends_with_one_line_where_the_system_refuses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = getattr(errno, name)

    def action() -> None:
        raise OSError(number, os.strerror(number), "/data/my set/x")

    assert run_tool(action) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: '/data/my set/x': {os.strerror(number)}; ")
    assert error.count("\n") == 1


def test_other_errors_stay_crashes() -> None:
    assert explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None

    def action() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")

    with pytest.raises(FileNotFoundError):
        run_tool(action)


def test_no_path_leaves_an_enclosure_unseen(tmp_path: Path) -> None:
    """The one check behind scan, gallery and hand-over: every kind of path and link, against where it really ends."""
    root, outside = tmp_path / "media", tmp_path / "media2"
    for folder in (root / "a" / "b", outside / "b"):
        folder.mkdir(parents=True)
        (folder / "x.mp4").touch()
    links = {
        "in": root / "a",
        "out": outside,
        "a/up": "..",
        "a/further": "../..",
        "a/in.mp4": "b/x.mp4",
        "a/out.mp4": outside / "b" / "x.mp4",
        "a/chain.mp4": "../in/out.mp4",
        "a/broken.mp4": "nothing",
        "a/broken_out.mp4": outside / "nothing",
        "loop": "loop",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "link").symlink_to(root)
    folders = ["", "a/", "a/b/", "in/", "in/b/", "out/", "out/b/", "a/up/", "a/up/out/b/", "a/further/media2/b/"]
    files = ["x.mp4", "in.mp4", "out.mp4", "chain.mp4", "broken.mp4", "broken_out.mp4", "none.mp4"]
    for start in (root, tmp_path / "link"):
        enclosure = Enclosure(start)
        for name in [folder + file for folder in folders for file in files]:
            path = enclosure.path(name)
            assert enclosure.names(path)
            assert enclosure.leads_out(path) == (not Path(os.path.realpath(path)).is_relative_to(root)), name
        for name in ("../media2/b/x.mp4", "/etc/passwd", "a/../../media2/b/x.mp4", "../media", "."):
            assert not enclosure.names(enclosure.path(name)), name
        assert not enclosure.leads_out(enclosure.path("loop"))
        assert enclosure.leads_out(enclosure.path("a\0b/x.mp4"))
    everything = Enclosure("/")
    assert everything.names("/etc") and not everything.leads_out("/etc/hosts")


def test_what_a_thread_is_refused_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As the thread is that writes TensorBoard's log where the disk is full."""

    def write() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def action() -> None:
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()

    before = threading.excepthook
    assert run_tool(action) == 0
    advice = "make room, and run the same command again"
    assert capsys.readouterr().err == f"warning: No space left on device; {advice}\n"
    assert threading.excepthook is before


def test_a_folder_that_is_not_there_yet_has_the_disk_of_the_one_above_it(tmp_path: Path) -> None:
    new = tmp_path / "a" / "b"
    assert place_of(new) == place_of(tmp_path) == tmp_path
    (tmp_path / "a").touch()  # a file is no place
    assert place_of(new) == tmp_path
    assert free_disk(new) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert on_one_disk(new, tmp_path) and not on_one_disk(new, "/proc")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
