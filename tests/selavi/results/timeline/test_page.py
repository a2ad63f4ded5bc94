"""The pages of timelines hold the segments whatever the names, and say what they cannot show."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import av
import numpy as np
import pytest

from selavi.media import encode_clip, playable
from selavi.results.timeline.page import NUM_COLOURS, clock, colour_of, rank_clusters, write_pages
from selavi.results.timeline.segments import Segment

SEGMENTS = [Segment(0.0, 1.5, 3, 0.75), Segment(1.5, 2.0, -1, 1.0), Segment(2.0, 4.0, 7, 0.5)]
HOSTILE = "</script><img src=x onerror=alert(1)> & \"quoted\" 'name'"


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A film that browsers play, below a folder with names that URLs must escape."""
    root = tmp_path / "media"
    (root / "day 1, 50%").mkdir(parents=True)
    time_s = np.arange(64_000) / 16_000
    frames = np.random.default_rng(0).integers(0, 255, (16, 32, 48, 3)).astype(np.uint8)
    path = root / "day 1, 50%" / "a#b?.mp4"
    encode_clip(path, frames, (0.3 * np.sin(900 * time_s)).astype(np.float32), fps=4, sample_rate=16_000)
    return root


def data_of(page: Path) -> dict:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S
    )
    assert found is not None
    return dict(json.loads(found[1]))


def write(segments: dict, root: Path | None, folder: Path, names: dict | None = None, transcoded: bool = False) -> Path:
    page = write_pages(segments, names or {}, folder, root, transcoded)
    assert page is not None
    return page


def test_a_page_holds_the_segments_and_finds_its_files(media: Path, tmp_path: Path) -> None:
    folder, path = tmp_path / "out" / "timeline", "day 1, 50%/a#b?.mp4"
    page = write({path: SEGMENTS}, media, folder, {3: HOSTILE})
    assert page == folder / f"{path}.html" and not (folder / "index.html").exists()
    data = data_of(page)
    assert data["segments"] == [[0.0, 1.5, 1, 0.75], [1.5, 2.0, 2, 1.0], [2.0, 4.0, 0, 0.5]]
    assert [(each["id"], each["name"]) for each in data["clusters"]] == [
        (7, "cluster 7"),
        (3, HOSTILE),
        (-1, "rejected"),
    ]
    assert data["why"] == "" and data["faults"] == []
    assert page.read_text(encoding="utf-8").count("<img") == 0
    for url in (data["media"], data["sheet"]["src"], data["sound"]["src"]):
        assert (page.parent / unquote(url)).exists()
    assert (page.parent / unquote(data["media"])).resolve() == (media / path).resolve()


def test_pictures_that_are_there_are_kept_until_the_recording_changes(media: Path, tmp_path: Path) -> None:
    folder, path = tmp_path / "timeline", "day 1, 50%/a#b?.mp4"
    write({path: SEGMENTS}, media, folder)
    before = {file: file.stat().st_mtime_ns for file in (folder / "media").iterdir()}
    write({path: SEGMENTS}, media, folder)
    assert {file: file.stat().st_mtime_ns for file in (folder / "media").iterdir()} == before
    shutil.copy(media / path, media / "b.mp4")
    shutil.move(media / "b.mp4", media / path)  # another time of change
    write({path: SEGMENTS}, media, folder)
    assert len(list((folder / "media").iterdir())) == 2 * len(before)


def test_several_recordings_have_a_list_and_lead_to_each_other(media: Path, tmp_path: Path) -> None:
    folder = tmp_path / "timeline"
    segments = {"day 1, 50%/a#b?.mp4": SEGMENTS, "gone.mp4": SEGMENTS[:1], "silent.mp4": []}
    index = write(segments, media, folder, {3: HOSTILE})
    text = index.read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^"#]+)"', text)
    assert [(folder / unquote(link)).name for link in links] == ["a#b?.mp4.html", "gone.mp4.html", "silent.mp4.html"]
    assert all((folder / unquote(link)).exists() for link in links)
    assert "<img" not in text and "3 recordings" in text and "1 segment, mostly" in text
    pages = [folder / f"{path}.html" for path in segments]
    for number, page in enumerate(pages):
        around = re.findall(r'<a href="([^"#]+)"', page.read_text(encoding="utf-8"))
        targets = [(page.parent / unquote(link)).resolve() for link in around]
        expected = [index, *pages[number - 1 : number if number else 0], *pages[number + 1 : number + 2]]
        assert targets == [one.resolve() for one in expected]
    assert data_of(pages[1])["why"].startswith("the recording cannot be read")
    assert data_of(pages[1])["media"] is None


def test_what_browsers_do_not_play_is_said_or_transcoded(media: Path, tmp_path: Path) -> None:
    path = media / "a.mkv"
    encode_clip(tmp_path / "a.mp4", np.full((8, 32, 48, 3), 90, np.uint8), None, fps=4, sample_rate=16_000)
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert data_of(write({"a.mkv": SEGMENTS}, media, tmp_path / "one"))["why"] == playable(path) == "Matroska container"
    data = data_of(write({"a.mkv": SEGMENTS}, media, tmp_path / "two", transcoded=True))
    assert data["why"] == "" and playable(tmp_path / "two" / unquote(data["media"])) is None
    assert data["sound"] is None and data["sheet"] is not None


def test_without_the_files_or_outside_of_their_folder_nothing_is_shown(media: Path, tmp_path: Path) -> None:
    data = data_of(write({"a.mp4": SEGMENTS}, None, tmp_path / "one"))
    assert "prepared" in data["why"] and data["media"] is data["sheet"] is data["sound"] is None
    (tmp_path / "secret.mp4").write_bytes(b"")
    segments = {"sub/../../secret.mp4": SEGMENTS}
    assert "leads out" in data_of(write(segments, media, tmp_path / "two" / "deep" / "er"))["why"]


def test_colours_are_those_of_the_clusters_with_the_most_time() -> None:
    many = {"a": [Segment(float(k), k + 1.0 + k / 100, k, 1.0) for k in range(20)] + [Segment(90.0, 190.0, -1, 1.0)]}
    ranks = rank_clusters(many)
    assert list(ranks) == [*range(19, -1, -1), -1]
    colours = [colour_of(cluster, ranks) for cluster in ranks]
    assert len(set(colours[:NUM_COLOURS])) == NUM_COLOURS
    assert set(colours[NUM_COLOURS:]) == {"oklch(0.78 0 0)"}


def test_a_clock_has_hours_where_it_needs_them() -> None:
    assert [clock(each) for each in (0, 59.6, 3599.4, 3723.0)] == ["0:00", "1:00", "59:59", "1:02:03"]
