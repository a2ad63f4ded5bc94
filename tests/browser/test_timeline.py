"""The page of a timeline in a browser: seen, heard, walked through by keys, on a phone and in the dark."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selavi.results.timeline.page import write_pages
from selavi.results.timeline.segments import Segment
from tests.browser.pages import NARROW, require_fits, require_nothing_serious

Visit = Callable[..., Any]
PATH = "day/one.mp4"
SEGMENTS = [
    Segment(0.0, 2.0, 0, 0.91),
    Segment(2.0, 3.5, 1, 0.62),
    Segment(3.5, 6.0, 0, 0.88),
    Segment(6.0, 8.0, -1, 1.0),
    Segment(8.0, 10.0, 2, 0.5),
]
NAMES = {0: "rain", 1: '</script><img src=x onerror="alert(1)">', 2: "a name so long that it finds no place " * 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """Pages of the recording, of one that is not there, and of one without segments."""
    root = tmp_path_factory.mktemp("timeline") / "media"
    (root / "day").mkdir(parents=True)
    (root / PATH).symlink_to(recording)
    out = root.parent / "timeline"
    segments = {PATH: SEGMENTS, "gone.mp4": SEGMENTS[:2], "none.mp4": []}
    write_pages(segments, NAMES, out, root, False)
    return out


def time_of(page: Any) -> float:
    return float(page.get_attribute("#track", "aria-valuenow"))


def test_a_click_on_the_track_plays_from_there(visit: Visit, folder: Path) -> None:
    page = visit(folder, name=f"{PATH}.html")
    page.wait_for_function("document.querySelector('video').readyState > 0")
    box = page.locator("#track").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.45, box["y"] + 150)
    page.wait_for_function("!document.querySelector('video').paused")
    assert 4.4 < time_of(page) < 6.0
    assert page.locator("#play").inner_text() == "Pause"
    page.keyboard.press(" ")
    page.wait_for_function("document.querySelector('video').paused")
    assert "rain" in page.get_attribute("#track", "aria-valuetext")
    assert page.locator("#list [aria-current]").inner_text().startswith("0:03.5 to 0:06.0")


def test_keys_move_by_seconds_and_by_segments(visit: Visit, folder: Path) -> None:
    page = visit(folder, name=f"{PATH}.html")
    page.wait_for_function("document.querySelector('video').readyState > 0")
    for key, expected in (("n", 2.0), ("n", 3.5), ("ArrowRight", 4.5), ("p", 3.5), ("p", 2.0), ("ArrowLeft", 1.0)):
        page.keyboard.press(key)
        page.wait_for_function(f"Math.abs(document.querySelector('#track').ariaValueNow - {expected}) < 0.06")
    page.focus("#track")
    page.keyboard.press("End")
    assert time_of(page) == pytest.approx(10.0, abs=0.1)
    page.keyboard.press("Home")
    assert time_of(page) == 0.0
    page.keyboard.press("+")
    assert not page.locator("#whole").is_disabled()
    page.click("#whole")
    assert page.locator("#out").is_disabled()


def test_one_cluster_alone_and_all_again(visit: Visit, folder: Path) -> None:
    page = visit(folder, name=f"{PATH}.html")
    assert page.locator("#list li").count() == 5
    rain = page.locator("#legend button", has_text="rain")
    rain.click()
    assert page.locator("#list li").count() == 2
    assert page.locator("#shown").inner_text().startswith("2 segments of rain")
    page.keyboard.press("n")
    page.wait_for_function("document.querySelector('#track').ariaValueNow == 3.5")  # the next of them
    rain.click()
    assert page.locator("#list li").count() == 5
    assert page.locator("#legend img").count() == 0  # names are words


def test_what_is_drawn_is_where_its_time_is(visit: Visit, folder: Path) -> None:
    page = visit(folder, name=f"{PATH}.html", viewport={"width": 1000, "height": 900})
    page.wait_for_timeout(600)
    track = page.locator("#canvas")
    drawn = np.asarray(Image.open(BytesIO(track.screenshot())).convert("RGB")).astype(int)
    height, width = drawn.shape[:2]
    seen = [tuple(drawn[height - 30, round(width * (one.start_s + one.end_s) / 20)]) for one in SEGMENTS]
    assert seen[0] == seen[2] and len(set(seen)) == 4
    assert drawn[36].max() > 150 and drawn[72:150].max() > 200  # the pictures; the tone


def test_pages_lead_to_each_other_and_say_what_is_missing(visit: Visit, folder: Path) -> None:
    page = visit(folder)
    page.click("text=gone.mp4")
    page.wait_for_selector("#stage p")
    assert "cannot be read" in page.locator("#stage").inner_text()
    assert page.locator("#play").is_disabled()
    page.click("text=Next")
    page.wait_for_selector("#shown")
    assert page.locator("#shown").inner_text().startswith("0 segments")
    page.click("text=All recordings")
    page.wait_for_selector("text=3 recordings")


@pytest.mark.parametrize("name", ["index.html", f"{PATH}.html", "gone.mp4.html", "none.mp4.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Visit, folder: Path, name: str, scheme: str) -> None:
    page = visit(folder, name=name, color_scheme=scheme)
    if name == f"{PATH}.html":
        page.locator("#legend button").first.click()
    page.wait_for_timeout(400)
    require_nothing_serious(page)


@pytest.mark.parametrize("name", ["index.html", f"{PATH}.html", "gone.mp4.html"])
def test_nothing_overflows_a_phone(visit: Visit, folder: Path, name: str) -> None:
    page = visit(folder, name=name, **NARROW, is_mobile=True, has_touch=True)
    require_fits(page)
    if name == f"{PATH}.html":
        page.locator("#track").scroll_into_view_if_needed()
        box = page.locator("#track").bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] * 0.9, box["y"] + 100)
        assert time_of(page) == pytest.approx(9.0, abs=0.4)


def test_the_tab_key_walks_through_and_out(visit: Visit, folder: Path) -> None:
    page = visit(folder, name=f"{PATH}.html")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "BODY":
            break
    assert reached[-1] == "BODY" and "track" in reached and "play" in reached
