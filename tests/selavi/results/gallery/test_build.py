import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selavi.results.evidence import Evidence
from selavi.results.gallery import build as gallery_build
from selavi.results.gallery.build import AboutRun, GalleryReport, MediaSource, in_process, write_gallery
from selavi.results.gallery.select import Head, Places
from selavi.results.gallery.thumbnails import read_file
from tests.selavi.results.gallery.synthetic_gallery import draw_made_up, evidence_of, synthetic_clips
from tests.selavi.results.gallery.test_data import read_call


def recordings(root: Path) -> tuple[pa.Table, list[Head]]:
    """Three good recordings and two that are none, in two clusters."""
    paths = ["empty.mp4", "mute.mp4", "plain.mp4", "short_sound.mp4", "text.mp4"]
    facts = {"width": 48, "height": 32, "duration_s": 3.0, "audio_state": "ok"}
    states = [(root / path).stat() for path in paths]
    clips = pa.table(
        {"id": paths, "path": paths, "start_s": [0.0] * 5, "label": pa.array([None] * 5, pa.string())}
        | {name: [value] * 5 for name, value in facts.items()}
        | {"bytes": [state.st_size for state in states], "mtime_ns": [state.st_mtime_ns for state in states]}
    )
    for path in paths:
        assert (root / path).exists()
    values = np.linspace(0.9, 0.5, 5).astype(np.float32)
    return clips, [Head(0, np.array([1, 1, 0, 0, 1], np.int32), values, values, values, values)]


def build(out_dir: Path, root: Path, **options: Any) -> tuple[GalleryReport, dict[str, Any]]:
    clips, heads = recordings(root)
    about = AboutRun("t", "runs/x", "train", 0, no_map="no features")
    report = write_gallery(out_dir, clips, heads, about, MediaSource(root, options.pop("mode", "link")), **options)
    return report, read_call(out_dir / "data" / "index.js")[1][0]


def members(out_dir: Path, cluster: int) -> dict[str, Any]:
    return read_call(out_dir / "data" / "h0" / f"c{cluster}.js")[1][1]


def test_broken_files_have_a_placeholder_and_are_counted(media: Path, tmp_path: Path) -> None:
    report, index = build(tmp_path, media)
    assert (report.made, report.kept) == (3, 0)
    assert dict(report.faults) == {"empty": 1, "not_media": 1}
    assert "2 clips have a placeholder: 1 empty (such as 'empty.mp4': 0 bytes)" in "\n".join(report.lines())
    found = members(tmp_path, 1)
    assert dict(zip(found["id"], [thumb is not None for thumb in found["thumb"]], strict=True)) == {
        "empty.mp4": False,
        "mute.mp4": True,
        "text.mp4": False,
    }
    assert found["playable"] == [path == "mute.mp4" for path in found["path"]]
    assert all((tmp_path / thumb).is_file() for thumb in found["thumb"] if thumb)
    assert "2 of 5 files that were looked at do not play" in index["mediaWarning"]
    assert index["tile"] == {"width": 180, "height": 120, "frames": 4, "spectrogram": 40}
    assert (index["hasMap"], index["noMap"], index["labelled"]) == (False, "no features", False)
    assert not (tmp_path / "data" / "map.js").exists() and not (tmp_path / "data" / "labels-h0.js").exists()


def test_an_export_that_was_stopped_goes_on(media: Path, tmp_path: Path) -> None:
    def stop(function: Any, jobs: Any, total: int, what: str) -> Iterator[tuple[int, Any]]:
        for number, outcome in in_process(function, jobs, total, what):
            yield number, outcome
            if number == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a", media, run_jobs=stop)
    assert not (tmp_path / "a" / "index.html").exists()
    report, _ = build(tmp_path / "a", media)
    assert (report.made, report.kept) == (1, 2)
    build(tmp_path / "b", media)
    for file in (tmp_path / "b").rglob("*.*"):
        twin = tmp_path / "a" / file.relative_to(tmp_path / "b")
        if file.name != "index.js":  # holds the time
            assert twin.read_bytes() == file.read_bytes()


def test_copied_media_make_a_folder_that_needs_nothing_else(media: Path, tmp_path: Path) -> None:
    report, index = build(tmp_path, media, mode="copy")
    found = members(tmp_path, 0)
    for path, url in zip(found["path"], found["media"], strict=True):
        assert (tmp_path / url).read_bytes() == (media / path).read_bytes()
    report, index = build(tmp_path, media, mode="transcode")
    found = members(tmp_path, 1)
    assert dict(zip(found["path"], [url is not None for url in found["media"]], strict=True)) == {
        "empty.mp4": False,
        "mute.mp4": True,
        "text.mp4": False,
    }
    assert report.faults["empty"] == 2  # no picture, no media
    assert len(list((tmp_path / "media").iterdir())) == 3 and index["media"] == "transcode"
    build(tmp_path, media)
    assert not list((tmp_path / "media").iterdir())


def test_only_shown_clips_have_pictures_unless_all_are_wanted_or_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, heads, features = synthetic_clips(300, 3)
    about, source = AboutRun("t", "runs/x", "train", 1), MediaSource(tmp_path / "none", read=draw_made_up)
    small = write_gallery(tmp_path / "small", clips, heads, about, source, places=Places.of(4), features=features)
    assert small.made == 300
    monkeypatch.setattr(gallery_build, "ALL_PICTURED", 299)
    few = write_gallery(tmp_path / "few", clips, heads, about, source, places=Places.of(4), features=features)
    assert few.made <= 2 * 3 * 4
    thumbs = members(tmp_path / "few", 0)["thumb"]
    assert all(thumbs[:2]) and len(thumbs) - thumbs.count(None) <= 24
    index = read_call(tmp_path / "few" / "data" / "index.js")[1][0]
    assert index["chosenHead"] == 1 and len(index["heads"][1]["clusters"][0]["cover"]) == 2
    assert write_gallery(tmp_path / "all", clips, heads, about, source, places=None).made == 300


def test_evidence_is_drawn_for_the_chosen_head(media: Path, tmp_path: Path) -> None:
    heat = np.full((4, 2, 2), 200, np.uint8)
    asked: list[str] = []

    def explain(ids: list[str]) -> list[Evidence]:
        asked.extend(ids)
        return [evidence_of("plain.mp4", heat, None), evidence_of("unknown.mp4", heat, None)]

    _, index = build(tmp_path, media, explain=explain, num_explained=1)
    assert asked == ["plain.mp4", "empty.mp4"]  # the most typical clip of either cluster
    assert index["hasEvidence"]
    found = members(tmp_path, 0)
    urls = dict(zip(found["id"], found["evidence"], strict=True))
    assert urls["short_sound.mp4"] is None and (tmp_path / urls["plain.mp4"]).is_file()
    _, index = build(tmp_path, media)
    assert not index["hasEvidence"] and not list((tmp_path / "evidence").rglob("*.png"))


def test_boxes_are_those_of_the_chosen_head(media: Path, tmp_path: Path) -> None:
    boxes = pa.table({"id": ["mute.mp4"], "time_s": [1.9], "x0": [12.0], "y0": [0.0], "x1": [48.0], "y1": [16.0]})
    for name, value in (("width", 48), ("height", 32), ("cluster", 1)):
        boxes = boxes.append_column(name, pa.array([value], pa.int32()))
    _, index = build(tmp_path, media, boxes=boxes)
    assert index["hasBoxes"] and not index["hasEvidence"]
    content = members(tmp_path, 1)
    assert dict(zip(content["id"], content["boxes"], strict=True))["mute.mp4"] == [[2 * 180 + 45, 0, 135, 60]]
    assert content["boxes"].count(None) == 2 and members(tmp_path, 0)["boxes"] == [None, None]
    _, index = build(tmp_path, media, boxes=boxes.slice(0, 0))
    assert not index["hasBoxes"] and "boxes" not in members(tmp_path, 1)


def test_the_key_is_that_of_run_split_and_clusters(media: Path, tmp_path: Path) -> None:
    first = build(tmp_path, media)[1]["key"]
    assert build(tmp_path, media)[1]["key"] == first
    clips, heads = recordings(media)
    heads[0].cluster[0] = 0
    write_gallery(tmp_path, clips, heads, AboutRun("t", "runs/x", "train", 0), MediaSource(media))
    assert read_call(tmp_path / "data" / "index.js")[1][0]["key"] != first


def test_a_gallery_without_its_media_still_opens(media: Path, tmp_path: Path) -> None:
    root = tmp_path / "media"
    shutil.copytree(media, root)
    clips, heads = recordings(root)
    shutil.rmtree(root)
    report = write_gallery(
        tmp_path / "g", clips, heads, AboutRun("t", "r", "train", 0), MediaSource(root, read=read_file)
    )
    assert report.page.exists() and report.faults["vanished"] == 5
    assert members(tmp_path / "g", 0)["media"] == [None, None]
    assert "5 of 5 files are no longer where they were scanned" in (report.media_warning or "")


def test_a_head_that_is_not_there(media: Path, tmp_path: Path) -> None:
    clips, heads = recordings(media)
    with pytest.raises(ValueError, match=r"expected one of the heads \[0\], got 3"):
        write_gallery(tmp_path, clips, heads, AboutRun("t", "r", "train", 3), MediaSource(media))
