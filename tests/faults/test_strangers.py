"""A run folder from a stranger: nothing leaves through it that is not the run's own clip.

The stranger writes everything in the folder: the manifest with its media root, paths, sizes and times, the settings.
Whoever opens it has a private recording and a private text somewhere.  Every way out is tried with every trick.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selavi.filesystem import look
from selavi.runs.folder import RunFolder
from tools import assign, cluster_eval, degrade, export_clusters, probe, refit

TEXT = b"-----BEGIN PRIVATE KEY-----"
REASONS = ("manifest.parquet names 1 of", "lie outside of the media folder", "are not those that were scanned")
GUESSED = 1_700_000_000_000_000_000


def private_folder(tmp_path: Path, media: Path) -> Path:
    """A folder of somebody's with a recording and a text in it."""
    folder = tmp_path / "private"
    folder.mkdir()
    shutil.copyfile(media / "plain.mp4", folder / "birthday.mp4")
    (folder / "id_rsa").write_bytes(TEXT * 10)
    return folder


def hostile_run(tmp_path: Path, finished_run: Path, demo_set: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run whose first training clip, and media root, are what `change` makes of them."""
    run, root = shutil.copytree(finished_run, tmp_path / "run"), tmp_path / "media"
    shutil.copytree(demo_set, root)
    table = pq.read_table(RunFolder(run).manifest)
    rows = table.to_pylist()
    first = next(row for row in rows if row["split"] == "train")
    facts = {"row": first, "root": root, "run": run}
    change(facts)
    schema = table.schema.with_metadata({"root": str(facts["root"])})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), RunFolder(run).manifest)
    settings = RunFolder(run).settings
    text = (
        settings.read_text().replace("allow_links: false", "allow_links: true").replace("cache_gb: 1.0", "cache_gb: 0")
    )
    settings.write_text(text)
    return run


def size_of(path: Path) -> int:
    return look(path).bytes


def root_is_private(name: str, mtime_ns: int | None) -> Callable[[Path], Callable[[dict[str, Any]], None]]:
    """The manifest says that the media lie in the private folder, and knows the size of a file there."""

    def make(private: Path) -> Callable[[dict[str, Any]], None]:
        def change(facts: dict[str, Any]) -> None:
            facts["root"] = private
            facts["row"] |= {"path": name, "bytes": size_of(private / name), "mtime_ns": mtime_ns}

        return change

    return make


def path_leads_out(pattern: str) -> Callable[[Path], Callable[[dict[str, Any]], None]]:
    def make(private: Path) -> Callable[[dict[str, Any]], None]:
        def change(facts: dict[str, Any]) -> None:
            path, seen = pattern.format(private=private), look(private / "birthday.mp4")
            facts["row"] |= {"path": path, "bytes": seen.bytes, "mtime_ns": seen.mtime_ns}

        return change

    return make


def link_leads_out(name: str, mtime_ns: int | None) -> Callable[[Path], Callable[[dict[str, Any]], None]]:
    """The stranger's own media come with a link, and the settings allow links."""

    def make(private: Path) -> Callable[[dict[str, Any]], None]:
        def change(facts: dict[str, Any]) -> None:
            (facts["root"] / "clip.mp4").symlink_to(private / name)
            facts["row"] |= {"path": "clip.mp4", "bytes": size_of(private / name), "mtime_ns": mtime_ns}

        return change

    return make


TRICKS = {
    "root, time not known": root_is_private("birthday.mp4", 0),
    "root, no time": root_is_private("birthday.mp4", None),
    "root, time guessed": root_is_private("birthday.mp4", GUESSED),
    "root, a text": root_is_private("id_rsa", 0),
    "absolute path": path_leads_out("{private}/birthday.mp4"),
    "path above the root": path_leads_out("../private/birthday.mp4"),
    "path through the root": path_leads_out("train/../../private/birthday.mp4"),
    "link, time not known": link_leads_out("birthday.mp4", 0),
    "link, time guessed": link_leads_out("birthday.mp4", GUESSED),
    "link to a text": link_leads_out("id_rsa", 0),
}


def leaked(run: Path, private: Path) -> list[str]:
    """The files and links in a run folder that hold, or lead to, what is private."""
    secrets = [(private / "birthday.mp4").read_bytes(), TEXT]
    found = []
    for path in run.rglob("*"):
        if path.is_symlink() and Path(os.path.realpath(path)).is_relative_to(private):
            found.append(f"{path} leads there")
        elif path.is_file() and any(secret in path.read_bytes() for secret in secrets):
            found.append(f"{path} holds it")
    return found


def victims(run: Path, clip_id: str) -> list[str]:
    """What the gallery has of a clip: its picture and its recording."""
    from tests.selavi.results.gallery.test_data import read_call

    shown = []
    for script in (run / "gallery" / "data").glob("h*/c*.js"):
        content = read_call(script)[1][1]
        if clip_id in content["id"]:
            place = content["id"].index(clip_id)
            shown += [url for url in (content["thumb"][place], content["media"][place]) if url]
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
@pytest.mark.parametrize("mode", ["link", "copy", "transcode"])
def test_an_export_takes_nothing_of_others(
    trick: Callable[[Path], Any],
    mode: str,
    finished_run: Path,
    demo_set: Path,
    media: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    private = private_folder(tmp_path, media)
    run = hostile_run(tmp_path, finished_run, demo_set, trick(private))
    words = ["--media", mode, "--clips", "all", "--map", "none", "--evidence", "0", "--to", "videofolder"]
    code = export_clusters.main([str(run), *words])
    said = capfd.readouterr().err
    assert code == 2, said  # what is handed over is whole or not at all; the gallery goes without the clip
    assert (
        "manifest.parquet names 1 of" in said
        or "lie outside of the media folder" in said
        or "not those that were" in said
    )
    assert not leaked(run, private)
    first = next(row["id"] for row in pq.read_table(run / "manifest.parquet").to_pylist() if row["split"] == "train")
    assert not victims(run, first)
    if (run / "gallery" / "index.html").exists() and mode == "copy":
        assert export_clusters.main([str(run), *words[:8]]) == 0
        assert "are not those that were scanned" in capfd.readouterr().err or "are links to places outside" in said
        assert not leaked(run, private) and not victims(run, first)


@pytest.mark.slow
def test_a_folder_that_its_owner_names_gives_recordings_alone(
    finished_run: Path, demo_set: Path, media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    private = private_folder(tmp_path, media)
    run = hostile_run(tmp_path, finished_run, demo_set, root_is_private("id_rsa", 0)(private))
    words = ["--media", "copy", "--clips", "all", "--map", "none", "--evidence", "0"]
    shutil.copytree(demo_set, private, dirs_exist_ok=True)
    assert export_clusters.main([str(run), *words, f"data.root={private}"]) == 0
    assert "not_media (such as 'train/ball_bell" in capfd.readouterr().err
    assert not leaked(run, private)
    assert len(list((run / "gallery" / "media").iterdir())) == 31
    assert export_clusters.main([str(run), *words, f"data.root={private}", "--to", "spotlight"]) == 2
    assert "id_rsa is no recording" in capfd.readouterr().err
    assert not leaked(run, private)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "degrade", "probe", "refit", "assign"])
@pytest.mark.parametrize("trick", ["absolute path", "path above the root", "path through the root"])
def test_no_command_opens_a_path_that_leads_out(
    trick: str,
    name: str,
    finished_run: Path,
    demo_set: Path,
    media: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    private = private_folder(tmp_path, media)
    run = hostile_run(tmp_path, finished_run, demo_set, TRICKS[trick](private))
    out = str(tmp_path / "out")
    mains: dict[str, tuple[Any, list[str]]] = {
        "evaluate": (cluster_eval.main, [str(run), "--views", "1"]),
        "degrade": (degrade.main, [str(run), "--corruptions", "no_audio", "--out", out, "--views", "1"]),
        "probe": (probe.main, [str(run), "--views", "1"]),
        "refit": (refit.main, [str(run), "--out", out]),
        "assign": (assign.main, [str(finished_run), str(run / "manifest.parquet"), "--out", out, "--workers", "0"]),
    }
    main, words = mains[name]
    assert main(words) == 2
    said = capfd.readouterr().err
    assert "manifest.parquet names 1 of" in said and "outside of its media folder" in said
    assert not leaked(run, private)


@pytest.mark.slow
def test_those_who_trained_here_notice_nothing(
    finished_run: Path, demo_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    words = ["--media", "copy", "--clips", "all", "--map", "none", "--evidence", "0", "--to", "videofolder"]
    assert export_clusters.main([str(run), *words]) == 0
    assert "not those that were scanned" not in capfd.readouterr().err
    assert len(list((run / "gallery" / "media").iterdir())) == 32


@pytest.mark.slow
def test_clips_that_were_touched_are_taken_where_their_folder_is_named(
    finished_run: Path, demo_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = hostile_run(tmp_path, finished_run, demo_set, lambda facts: None)  # copied, with the times of the originals
    touched = sorted((tmp_path / "media").rglob("*.mp4"))
    for path in touched:
        os.utime(path, ns=(1, 1))
    words = ["--media", "copy", "--clips", "all", "--map", "none", "--evidence", "0"]
    assert export_clusters.main([str(run), *words]) == 0
    assert "32 files are not those that were scanned" in capfd.readouterr().err
    assert not list((run / "gallery").glob("media/*"))
    assert export_clusters.main([str(run), *words, f"data.root={tmp_path / 'media'}"]) == 0
    assert len(list((run / "gallery" / "media").iterdir())) == 32


@pytest.mark.parametrize("place", ["gallery", "gallery/data", "gallery/media", "handover", "handover/features"])
def test_no_export_writes_or_removes_outside_of_the_run(
    place: str, finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, mine = shutil.copytree(finished_run, tmp_path / "run"), tmp_path / "mine"
    mine.mkdir()
    (mine / "program.js").write_text("mine")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(mine)
    assert export_clusters.main([str(run), "--map", "none", "--evidence", "0", "--to", "features"]) == 2
    assert f"{run / place} is a link out of the run folder, to {mine}" in capfd.readouterr().err
    assert [path.name for path in mine.iterdir()] == ["program.js"]
