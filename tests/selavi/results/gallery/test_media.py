from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pytest

from selavi import media as files
from selavi.errors import UsageError
from selavi.filesystem import look
from selavi.media import MediaError
from selavi.results.gallery.media import (
    MISSING,
    OUTSIDE,
    PRESENT,
    Links,
    MediaJob,
    Mode,
    copy_file,
    describe,
    locate,
    transcode_file,
)
from selavi.results.gallery.media import (
    look as look_at,
)

NAMES = [
    '"><img src=x onerror=alert(1)>.mp4',
    "#?&=%20;.mp4",
    "%2e%2e/inside.mp4",
    "🎺 trumpet.mp4",
    "-dash.mp4",
    "javascript:alert(1).mp4",
    "back\\slash.mp4",
    "new\nline.mp4",
    "\u202egpm.4.mp4",
    "x" * 240 + ".mp4",
    "sub/../here.mp4",
]


def clips_of(paths: list[str], root: Path) -> pa.Table:
    """The clips of files as they are now."""
    count = len(paths)
    seen = [look(root / path) for path in paths]
    facts = {"bytes": [file.bytes for file in seen], "mtime_ns": [file.mtime_ns or 1 for file in seen]}
    return pa.table({"id": paths, "path": paths, "width": [1] * count, "duration_s": [1.0] * count} | facts)


def links_of(
    paths: list[str],
    root: Path,
    out_dir: Path,
    mode: Mode = "link",
    names: list[bytes] | None = None,
    unplayable: dict[int, str] | None = None,
    looked_at: list[int] | None = None,
) -> tuple[list[str | None], list[bool], list[str]]:
    seen = np.zeros(len(paths), bool)
    seen[looked_at or list(unplayable or {})] = True
    states = locate(clips_of(paths, root), root, False)
    given = np.array(names or [b""] * len(paths), "S24")
    links = Links(clips_of(paths, root), root, out_dir, mode, states, given, unplayable or {}, seen)
    return links(np.arange(len(paths)))


def test_any_name_is_found_by_its_url_and_by_nothing_else(tmp_path: Path) -> None:
    root, out_dir = tmp_path / "media #1 & 100%", tmp_path / "runs" / "a b" / "gallery"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).resolve().write_text(name)
    urls, playable, kinds = links_of(NAMES, root, out_dir)
    for name, url in zip(NAMES, urls, strict=True):
        assert url is not None
        parts = urlsplit(url)
        assert not (parts.scheme or parts.netloc or parts.query or parts.fragment) and url.isascii()
        assert (out_dir / unquote(parts.path)).resolve().read_text() == name
    assert all(playable) and set(kinds) == {"video"}


def test_nothing_outside_of_the_root_is_linked(tmp_path: Path) -> None:
    root, secret = tmp_path / "media", tmp_path / "secret"
    (root / "sub").mkdir(parents=True)
    secret.mkdir()
    for path in (root / "a.mp4", secret / "b.mp4", tmp_path / "media-too.mp4"):
        path.write_text("x")
    (root / "file.mp4").symlink_to(secret / "b.mp4")
    (root / "folder").symlink_to(secret)
    (root / "sub" / "inner.mp4").symlink_to(root / "a.mp4")
    paths = ["a.mp4", "file.mp4", "folder/b.mp4", "sub/inner.mp4", "gone.mp4"]
    assert locate(clips_of(paths, root), root, False).tolist() == [PRESENT, OUTSIDE, OUTSIDE, PRESENT, MISSING]
    assert locate(clips_of(paths, root), root, True).tolist() == [PRESENT, PRESENT, PRESENT, PRESENT, MISSING]
    urls, playable, _ = links_of(paths, root, tmp_path / "out")
    assert urls == ["../media/a.mp4", None, None, "../media/sub/inner.mp4", None]
    assert playable == [True, False, False, True, False]
    for path in ("../secret/b.mp4", "/etc/passwd", "..", "../media-too.mp4", "sub/../../secret/b.mp4", ""):
        with pytest.raises(UsageError, match="lies outside of the media root"):
            locate(clips_of([path], root), root, True)


def test_a_root_that_is_itself_a_link_is_the_users_choice(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.mp4").write_text("x")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert locate(clips_of(["a.mp4"], tmp_path / "root"), tmp_path / "root", False).tolist() == [PRESENT]


def test_clips_that_were_not_looked_at_are_as_most_of_their_kind(tmp_path: Path) -> None:
    paths = ["a.avi", "b.avi", "c.avi", "d.mp4", "e.mp4", "f.mp4", "g.AVI"]
    for path in paths:
        (tmp_path / path).write_text("x")
    unplayable = {0: "AVI container", 1: "AVI container", 3: "HEVC video"}
    playable = links_of(paths, tmp_path, tmp_path / "out", unplayable=unplayable, looked_at=[0, 1, 3, 4])[1]
    assert playable == [False, False, False, False, True, True, False]


def test_copies_are_named_by_a_hash_and_keep_a_plain_suffix(tmp_path: Path) -> None:
    paths, names = ["a.WebM", "b.m<p4", "c"], [b"a" * 24, b"b" * 24, b""]
    copied = links_of(paths, tmp_path, tmp_path / "out", "copy", names)
    assert copied[0] == [f"media/{'a' * 24}.webm", f"media/{'b' * 24}", None] and copied[1] == [True, True, False]
    assert links_of(paths, tmp_path, tmp_path / "out", "transcode", names)[0][1] == f"media/{'b' * 24}.mp4"


def test_files_are_looked_at_copied_and_transcoded_once(media: Path, tmp_path: Path) -> None:
    job = MediaJob(media / "plain.mp4", tmp_path / "x.mp4", 0)
    assert look_at(job) == "" and "unreadable" in look_at(MediaJob(media / "text.mp4", tmp_path, 0))
    assert copy_file(job) == "made" and job.target.read_bytes() == job.source.read_bytes()
    assert copy_file(job) == "kept"
    small = MediaJob(media / "plain.mp4", tmp_path / "small.mp4", 0)
    assert transcode_file(small) == "made" and files.playable(small.target) is None
    assert transcode_file(small) == "kept"
    for function in (copy_file, transcode_file):
        with pytest.raises(MediaError, match="vanished"):
            function(MediaJob(media / "none.mp4", tmp_path / "none.mp4", 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.mp4", "x.mp4"]


def test_what_will_not_play_is_said_with_what_to_do() -> None:
    states = np.array([PRESENT] * 6 + [MISSING] * 2 + [OUTSIDE])
    assert describe(np.array([PRESENT]), {}, 1, "link", 0) is None
    said = describe(states, {0: "HEVC video", 1: "HEVC video", 2: "AVI container"}, 6, "link", 3)
    assert said == (
        "2 of 9 files are no longer where they were scanned (moved? say data.root=NEW). "
        "1 files are links to places outside of the media folder "
        "and are not shown. 3 of 6 files that were looked at do not play in every browser (HEVC video: 2, "
        "AVI container: 1). Export again with --media transcode to play them."
    )
    assert "3 clips that are not in the rows" in (describe(states, {}, 6, "copy", 3) or "")
