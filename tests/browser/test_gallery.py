"""The gallery in Chromium, opened from disk as a person opens it."""

import csv
import io
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from selavi.results.naming import read_names
from tests.browser.pages import (
    NARROW,
    Visit,
    arrived,
    download,
    go_to,
    name_cluster,
    require_fits,
    require_nothing_serious,
    tiles,
    wait,
)
from tests.selavi.results.gallery.synthetic_gallery import HOSTILE

pytestmark = pytest.mark.browser

VIEWS = {
    "index": "#/",
    "cluster": "#/cluster/1",
    "map": "#/map",
    "labels": "#/labels",
    "pairs": "#/pairs",
    "names": "#/names",
    "help": "#/help",
}


def playing(page: Any) -> list[dict[str, Any]]:
    """Media elements that run: are they muted, have they decoded sound?"""
    return page.evaluate(
        "[...document.querySelectorAll('video')].filter((v) => !v.paused).map((v) => ("
        "{muted: v.muted || v.volume === 0, time: v.currentTime, sound: v.webkitAudioDecodedByteCount,"
        " picture: v.videoWidth}))"
    )


# Opening


def test_opens_180_000_clips_within_seconds_and_megabytes(visit: Visit, large: Path, browser: Any) -> None:
    page = visit(large)
    page.wait_for_selector("a.card")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 10_000  # ms: a bound on breakage; `pytest -s` prints what it was
    assert page.locator("a.card").count() == 200  # the others come when scrolled to
    assert page.locator(".lede").inner_text().startswith("180,000 clips in 300 clusters")

    for route in ("#/cluster/0", "#/map", "#/labels", "#/"):
        go_to(page, route)
        page.wait_for_selector("#main h1")
    page.fill("#search", "0179/01795")
    page.wait_for_selector(".hits a")
    heap = page.context.new_cdp_session(page).send("Runtime.getHeapUsage")["usedSize"]
    renderer = _renderer_bytes(browser)
    print(f"first paint {paint:.0f} ms, heap {heap / 1e6:.0f} MB, renderer {renderer / 1e6:.0f} MB")
    assert heap < 300e6
    assert renderer < 300e6


def _renderer_bytes(browser: Any) -> int:
    """Memory that the largest renderer has for itself alone."""
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    sizes = []
    for process in processes:
        if process["type"] == "renderer":
            rollup = Path(f"/proc/{process['id']}/smaps_rollup").read_text(encoding="ascii")
            sizes.append(sum(int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.M)) * 1024)
    return max(sizes)


def test_members_come_page_by_page(visit: Visit, large: Path) -> None:
    page = visit(large)
    cluster = page.evaluate("app.head.clusters.findLast((each) => each.size > 2000).cluster")
    go_to(page, f"#/cluster/{cluster}")
    page.locator("#row-all").scroll_into_view_if_needed()
    page.wait_for_selector(".row.all button.tile")
    size = int(page.locator("#row-all").inner_text().split()[1].replace(",", ""))
    assert size > 2000  # three files of members
    seen = set()
    while True:
        seen |= set(page.locator(".row.all .file").evaluate_all("(all) => all.map((each) => each.title)"))
        assert page.locator(".row.all button.tile").count() <= 96
        following = page.get_by_role("button", name="Next page")
        if following.is_disabled():
            break
        before = page.locator(".pager [role=status]").inner_text()
        following.click()
        wait(page, f"document.querySelector('.pager [role=status]').innerText !== {before!r}")
    assert len(seen) == size


def test_a_file_that_is_missing_is_named(visit: Visit, gallery: Path, tmp_path: Path, watch: Any) -> None:
    page_alone = tmp_path / "gallery"
    (page_alone / "data").mkdir(parents=True)
    (page_alone / "index.html").write_bytes((gallery / "index.html").read_bytes())
    (page_alone / "data" / "index.js").write_bytes((gallery / "data" / "index.js").read_bytes())
    page = visit(page_alone, "#/cluster/1")
    assert "data/h0/c1.js cannot be read" in page.locator(".fault-note").inner_text()
    watch.said.clear()  # Chromium itself logs the missing files


def test_a_run_without_labels_map_or_figures_says_so_in_words(visit: Visit, bare: Path) -> None:
    page = visit(bare)
    for route in ("#/", *(f"#/cluster/{cluster}" for cluster in range(5)), "#/map", "#/labels", "#/names", "#/help"):
        go_to(page, route)
        page.wait_for_selector("#main h1")
        page.wait_for_timeout(100)
        assert re.findall(r"null|undefined|NaN", page.locator("body").inner_text()) == [], route

    # A cluster that is split off has neither labels nor neighbours in any run.
    page = visit(bare, "#/cluster/1")
    page.locator(".row.typical .pick input").first.check()
    page.get_by_role("button", name="Split off").click()
    page.get_by_role("button", name="Name it").click()
    arrived(page, "address === '#/cluster/5'")
    assert re.findall(r"null|undefined|NaN", page.locator("body").inner_text()) == []


# Seeing and hearing


def test_a_click_plays_with_sound_and_one_clip_sounds_at_a_time(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/0")
    tiles(page).nth(0).click()
    wait(page, "[...document.querySelectorAll('video')].some((v) => !v.muted && v.currentTime > 0.3)")
    (first,) = [each for each in playing(page) if not each["muted"]]
    assert first["sound"] > 0 and first["picture"] > 0
    page.wait_for_timeout(300)
    assert next(each for each in playing(page) if not each["muted"])["time"] > first["time"]

    for index in range(1, 6):
        tiles(page).nth(index).click()
        wait(page, "[...document.querySelectorAll('video')].filter((v) => !v.paused && !v.muted).length === 1")
        assert page.locator(".clip.sounding").count() == 1
        assert page.locator("video").count() <= 4
    assert tiles(page).nth(5).get_attribute("aria-pressed") == "true"
    tiles(page).nth(5).click()
    page.mouse.move(5, 5)
    wait(page, "![...document.querySelectorAll('video')].some((v) => !v.paused)")


def test_a_click_on_the_spectrogram_plays_from_there(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/0")
    box = page.locator(".row.typical .sound").first.bounding_box()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    wait(page, "[...document.querySelectorAll('video')].some((v) => !v.muted && v.currentTime > 6)")
    assert playing(page)[0]["time"] < 9


def test_pointing_previews_silently_unless_motion_is_unwanted(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/0")
    tiles(page).nth(2).hover()
    wait(page, "[...document.querySelectorAll('video')].some((v) => v.currentTime > 0.2)")
    assert [each["muted"] for each in playing(page)] == [True]
    page.mouse.move(5, 5)
    wait(page, "![...document.querySelectorAll('video')].some((v) => !v.paused)")

    page = visit(gallery, "#/cluster/0", reduced_motion="reduce")
    tiles(page).nth(2).hover()
    page.wait_for_timeout(500)
    assert page.locator("video").count() == 0


def test_media_leave_with_the_screen_and_volume_stays(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/0", viewport={"width": 900, "height": 500})
    tiles(page).nth(0).click()
    wait(page, "[...document.querySelectorAll('video')].some((v) => v.currentTime > 0.1)")
    page.locator("#volume").fill("0.35")
    assert page.evaluate("document.querySelector('video').volume") == 0.35
    page.mouse.wheel(0, 3000)
    wait(page, "!document.querySelector('video')")
    page.keyboard.press("m")
    page.reload()
    page.wait_for_selector("#main h1")
    assert page.evaluate("player.settings") == {"volume": 0.35, "muted": True}


def test_what_cannot_play_says_why(visit: Visit, large: Path, gallery: Path, watch: Any) -> None:
    page = visit(large, "#/cluster/0")
    page.wait_for_selector(".row.typical .note")
    assert page.locator(".row.typical .note").first.inner_text() == "no media file"
    tiles(page).nth(0).click()
    assert "has no media file" in page.locator("#toast").inner_text()
    assert page.locator(".row.typical .blank").first.inner_text() == "no picture"

    page = visit(gallery, "#/cluster/0")
    page.wait_for_selector(".row.typical button.tile")
    page.evaluate("shownTiles[0].clip.media = 'moved-away.mp4'")
    tiles(page).nth(0).click()
    page.wait_for_selector("#toast.shown")
    assert "has the file been moved?" in page.locator("#toast").inner_text()
    assert page.locator(".row.typical .note").first.inner_text() == "cannot be opened"
    watch.said.clear()  # Chromium itself logs the missing file


def test_hearing_a_row_goes_from_clip_to_clip(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/0")
    page.wait_for_selector(".row.typical button.tile")
    page.evaluate("shownTiles.forEach((tile) => { tile.clip.duration = 0.4; })")
    page.keyboard.press("p")
    for index in range(3):
        wait(page, f"document.querySelectorAll('.row.typical .clip')[{index}].classList.contains('sounding')")


@pytest.mark.parametrize(
    ("maps", "worth", "words"),
    [
        ("contrast", "", "whatever the cluster; in the sound, what the model goes by. Nobody has measured here"),
        (
            "evidence",
            "measured on 9 pictures: it points",
            "beside the thing itself. Measured on 9 pictures: it points.",
        ),
    ],
)
def test_maps_lie_over_the_pictures_when_asked_for(
    visit: Visit, gallery: Path, maps: str, worth: str, words: str
) -> None:
    page = visit(gallery)
    page.evaluate(
        "(about) => { Object.assign(app.index, about); }", {"hasEvidence": True, "maps": maps, "worth": worth}
    )
    go_to(page, "#/cluster/0")
    page.wait_for_selector(".row.odd button.tile")
    page.evaluate("shownTiles.slice(0, 3).forEach((tile) => { tile.clip.evidence = tile.clip.thumb; })")
    assert page.locator("img.overlay").count() == 0
    page.keyboard.press("e")
    assert page.get_by_role("button", name="Where and when").get_attribute("aria-pressed") == "true"
    boxes = page.evaluate(
        "[...document.querySelectorAll('img.overlay')].map((image) => [image, image.previousSibling].map("
        "(each) => JSON.stringify(each.getBoundingClientRect())))"
    )
    assert len(boxes) == 6  # frames and spectrogram of three tiles
    assert all(overlay == picture for overlay, picture in boxes)
    assert words in page.locator(".hint").first.inner_text()
    assert "The box" not in page.locator(".hint").first.inner_text()
    page.keyboard.press("e")
    assert page.locator("img.overlay").count() == 0
    assert "to hear it" in page.locator(".hint").first.inner_text()


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ("evidence", "around the largest part of what the model goes by"),
        ("windows", "when each is looked at by itself"),
        ("heard", "most like what is heard"),
    ],
)
def test_boxes_say_which_maps_they_are_of(visit: Visit, gallery: Path, maps: str, words: str) -> None:
    page = visit(gallery)
    page.evaluate("(maps) => { app.index.hasBoxes = true; app.index.boxMaps = maps; }", maps)
    go_to(page, "#/cluster/0")
    page.wait_for_selector(".row.odd button.tile")
    page.keyboard.press("e")
    assert words in page.locator(".hint").first.inner_text()


def test_a_box_around_what_glows_is_said_to_be_so(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    about = {"hasEvidence": True, "maps": "contrast", "hasBoxes": True, "boxMaps": "contrast"}
    page.evaluate("(about) => { Object.assign(app.index, about); }", about)
    go_to(page, "#/cluster/0")
    page.wait_for_selector(".row.odd button.tile")
    page.keyboard.press("e")
    assert page.locator(".hint").first.inner_text().endswith("The box is around its largest hot part.")


def test_boxes_lie_on_their_pictures_and_follow_the_evidence_switch(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    page.evaluate("app.index.hasBoxes = true")
    go_to(page, "#/cluster/0")
    page.wait_for_selector(".row.odd button.tile")
    # The second picture of a thumbnail is what a tile shows: its left half, from the upper edge to the middle.
    page.evaluate(
        "shownTiles.slice(0, 3).forEach(({ clip }) => {"
        " const { width, height } = app.index.tile; clip.boxes = [[width, 0, width / 2, height / 2]]; })"
    )
    assert page.locator("svg.boxes").count() == 0
    page.keyboard.press("e")
    assert page.locator(".tile svg.boxes rect").count() == 3
    places = page.evaluate(
        "((tile) => ['.frame', '.boxes rect'].map((each) => {"
        " const { x, y, width, height } = tile.querySelector(each).getBoundingClientRect();"
        " return [x, y, width, height]; }))(shownTiles[0].element)"
    )
    (x, y, width, height), box = places
    assert box == pytest.approx([x, y, width / 2, height / 2], abs=2)
    assert "around the largest part of what the model goes by" in page.locator(".hint").first.inner_text()
    tiles(page).first.focus()
    assert page.locator(".whole-strip rect").count() == 1
    page.keyboard.press(" ")
    assert page.locator(".large-strip rect").count() == 1
    page.keyboard.press("e")
    assert page.locator("svg.boxes").count() == 0


# Keys and access


def test_keys_alone_lead_from_the_index_to_a_sounding_clip(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    page.wait_for_selector("a.card")

    def focused(what: str) -> Any:
        return page.evaluate(f"document.activeElement.{what}")

    for _ in range(20):
        page.keyboard.press("Tab")
        if focused("className").startswith("card"):
            break
    first = focused("dataset.cluster")
    page.keyboard.press("ArrowRight")
    second = focused("dataset.cluster")
    assert first != second
    page.keyboard.press("Enter")
    page.wait_for_selector(".row.typical button.tile")
    assert page.url.endswith(f"#/cluster/{second}")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert focused("getAttribute('aria-label')").startswith(f"clip 2 of cluster {second}")
    page.keyboard.press("Enter")
    wait(page, "[...document.querySelectorAll('video')].some((v) => !v.muted && v.currentTime > 0.2)")
    page.keyboard.press("x")
    assert page.locator("#selected-count").inner_text() == "1 clip selected"
    page.keyboard.press("Escape")
    assert page.locator(".clip.sounding").count() == 0
    page.keyboard.press("j")
    arrived(page, f"!address.endsWith('/{second}')")
    page.keyboard.press("k")
    arrived(page, f"address.endsWith('/{second}')")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    page.keyboard.press("/")
    wait(page, "document.activeElement.id === 'search'")


def test_the_tab_key_walks_through_a_cluster_and_out(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    page.wait_for_selector(".row.odd button.tile")
    page.locator(".row.all").scroll_into_view_if_needed()  # whose tiles come when they are seen
    page.wait_for_selector(".row.all button.tile")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.className + '|' + document.activeElement.tagName"))
        if reached[-1] == "|BODY":
            break
    assert reached[-1] == "|BODY"  # out again: no trap
    assert sum(each.startswith("tile|") for each in reached) == 4  # one stop a row: typical, borderline, odd, all


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(visit: Visit, gallery: Path, view: str, scheme: str) -> None:
    page = visit(gallery, VIEWS[view], color_scheme=scheme)
    page.wait_for_timeout(600)
    if view == "cluster":  # with the dock, a selection, an edit and its message
        name_cluster(page, "a name")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("x")
        page.wait_for_timeout(400)
    require_nothing_serious(page)


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_overflows_a_narrow_screen(visit: Visit, gallery: Path, hostile: Path, view: str) -> None:
    for folder in (gallery, hostile):
        page = visit(folder, VIEWS[view], **NARROW)
        require_fits(page)


def test_the_scheme_is_a_choice_that_stays(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("#scheme")
    page.click("#scheme")
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    page.wait_for_selector("#main h1")
    assert page.evaluate(paper) == dark


# Finding


def test_sorting_filters_and_search(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    page.wait_for_selector("a.card")

    def cards() -> list[int]:
        return [int(n) for n in page.locator("a.card").evaluate_all("(all) => all.map((each) => each.dataset.cluster)")]

    sizes = page.evaluate("Object.fromEntries(app.head.clusters.map((each) => [each.cluster, each.size]))")
    assert cards() == sorted(cards(), key=lambda cluster: (-sizes[str(cluster)], cluster))
    page.get_by_label("Sort by").select_option("number")
    assert cards() == list(range(8))
    for key, sign in (("confidence", -1), ("agreement", -1), ("purity", -1), ("entropy", 1)):
        page.get_by_label("Sort by").select_option(key)
        value = page.evaluate(f"Object.fromEntries(app.head.clusters.map((each) => [each.cluster, each.{key}]))")
        assert [value[str(each)] for each in cards()] == sorted(value.values(), key=lambda v, s=sign: s * v)

    page.fill("#search", "5")
    assert cards() == [5]
    page.fill("#search", "RAIN")
    assert 2 in cards() and len(cards()) < 8  # of label or suggestion "rain 0"
    page.fill("#search", "0000117_")
    page.wait_for_selector(".hits a")
    assert "0000117_" in page.locator(".hits a").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_selector(".clip.sought")
    assert "0000117_" in page.locator(".clip.sought .file").get_attribute("title")
    assert page.evaluate("document.activeElement.closest('.sought') !== null")


def test_another_head(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    page.locator("#head").select_option("1")
    arrived(page, "address === '#/h1/'")
    page.locator("a.card").first.click()
    arrived(page, "address.startsWith('#/h1/cluster/')")
    name_cluster(page, "of head one")
    page.locator("#head").select_option("0")
    arrived(page, "address === '#/'")
    assert page.locator("a.card.named").count() == 0


def test_the_map_selects_and_leads_to_clips(visit: Visit, gallery: Path, tmp_path: Path) -> None:
    page = visit(gallery, "#/map")
    page.wait_for_selector(".map-clusters a")
    assert page.locator(".map-side h2").inner_text() == "8 clusters in view"
    box = page.locator("canvas.map-canvas").bounding_box()
    left, top, right, bottom = box["x"] + 3, box["y"] + 90, box["x"] + box["width"] - 3, box["y"] + box["height"] - 3
    page.get_by_role("button", name="Select", exact=True).click()
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y)
    page.mouse.up()
    count = int(page.locator("#selected-count").inner_text().split()[0])
    assert 100 < count <= 240
    page.locator(".map-side button.tile").first.click()  # its media is looked up only now
    wait(page, "[...document.querySelectorAll('video')].some((v) => !v.muted && v.currentTime > 0.1)")
    page.get_by_role("button", name="Split off").click()
    rows = read_names(download(page, tmp_path)).rows
    assert len(rows) == count and {row["into"] for row in rows} == {8}

    page = visit(gallery, "#/map")
    page.wait_for_selector(".map-clusters a")
    page.locator("canvas.map-canvas").focus()
    for key in ["+"] * 6 + ["ArrowLeft"] * 4:
        page.keyboard.press(key)
    wait(page, "!document.querySelector('.map-side h2').innerText.startsWith('8 ')")


def test_labels_and_clusters(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/labels")
    page.wait_for_selector("tbody tr")
    assert page.locator("tbody tr").count() == 8
    assert "8 labels and 8 clusters" in page.locator("canvas.heat").get_attribute("aria-label")
    holder = page.locator("tbody tr").first.locator("a").first
    href = holder.get_attribute("href")
    holder.click()
    arrived(page, f"address === '{href}'")


# Names


def test_names_go_round(visit: Visit, gallery: Path, tmp_path: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    page.wait_for_selector(".row.typical button.tile")
    name = 'dogs, "loud"\N{DOG FACE}'
    page.locator("#name").fill(name)
    page.locator("#name").press("Enter")
    assert page.locator("#unsaved").inner_text() == "1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    moved = page.evaluate("[...selection.values()].map((clip) => clip.id).sort()")
    page.get_by_role("button", name="Split off").click()
    page.get_by_role("button", name="Name it").click()
    arrived(page, "address === '#/cluster/8'")
    assert page.locator(".row.arrived .clip").count() == 2
    name_cluster(page, "puppies")
    go_to(page, "#/cluster/2")
    page.get_by_label("Merge into cluster").fill(name)
    page.keyboard.press("Enter")
    assert "Merged into 1" in page.locator(".state").inner_text()
    go_to(page, "#/cluster/3")
    page.get_by_role("button", name="Reject this cluster").click()
    go_to(page, "#/cluster/4")
    page.wait_for_selector(".row.typical button.tile")
    page.keyboard.press("y")
    suggestion = page.locator("#name").input_value()
    page.keyboard.press("u")  # and back
    assert suggestion and page.locator("#name").input_value() == ""
    page.locator(".row.typical .pick input").first.check()
    rejected = page.evaluate("[...selection.values()][0].id")
    page.get_by_role("button", name="Reject", exact=True).click()

    page.reload()  # nothing is lost
    page.wait_for_selector("#main h1")
    path = download(page, tmp_path)
    assert page.locator("#unsaved").is_hidden()
    text = path.read_bytes().decode("utf-8")
    assert text.startswith("head,cluster,id,name,into,rejected\r\n") and text.endswith("\r\n")
    expected = [
        ["0", "1", "", name, "", ""],
        *[["0", "1", clip, "", "8", ""] for clip in moved],
        ["0", "2", "", "", "1", ""],
        ["0", "3", "", "", "", "1"],
        ["0", "4", rejected, "", "", "1"],
        ["0", "8", "", "puppies", "", ""],
    ]
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == expected
    names = read_names(path)
    assert (names.name(0, 1), names.name(0, 8), names.of(0).final(2), names.of(0).final(3)) == (name, "puppies", 1, -1)

    other = visit(gallery, "#/names")  # a browser that knows nothing of it
    other.locator("#import").set_input_files(path)
    other.wait_for_selector("tbody tr")
    assert other.locator("tbody tr").count() == len(expected)
    assert download(other, tmp_path).read_bytes() == text.encode()


@pytest.mark.parametrize(
    "content",
    [
        "head;cluster;name;rejected\r\n0;1;a, b;\r\n0;3;;TRUE\r\n".encode("utf-8-sig"),
        "head\tcluster\tname\trejected\r\n0\t1\ta, b\t\r\n0\t3\t\tTRUE\r\n".encode("utf-16"),
        b'sep=;\r\nhead;cluster;name;rejected;\r\n0;1;"a, b";;\r\n0;3;;1;\r\n;;;;\r\n;;;;\r\n',
        b'head,cluster,name,rejected\n0,1,"a, b",0\n0,3,,true\n,,,\n',
    ],
)
def test_names_that_a_spreadsheet_saved_are_read_as_the_tools_read_them(
    visit: Visit, gallery: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mine.csv").write_bytes(content)
    names = read_names(tmp_path / "mine.csv")
    assert (names.name(0, 1), names.of(0).final(3)) == ("a, b", -1)
    page = visit(gallery, "#/names")
    page.locator("#import").set_input_files(tmp_path / "mine.csv")
    page.wait_for_selector("tbody tr")
    saved = list(csv.reader(io.StringIO(download(page, tmp_path).read_text(encoding="utf-8"), newline="")))
    assert saved[1:] == [["0", "1", "", "a, b", "", ""], ["0", "3", "", "", "", "1"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster,name\n1,a\n", "line 1: expected the columns head"),
        ("head,cluster,name\n0,1\n", "line 2: expected 3 cells, found 2"),
        ("head,cluster,name\n0,one,a\n", "line 2, cluster: expected a number"),
        ('head,cluster,name\n0,1,"a\nb"\n0,1,c\n', "line 4: a second row"),
        ('head,cluster,name\n0,1,a"b"c,\n', "line 2"),
        ("head,cluster,into\n0,1,2\n0,2,1\n", "lead back"),
        ("head,cluster,name\n7,1,a\n", "head 7 is not in this gallery"),
    ],
)
def test_a_wrong_names_file_is_refused_with_its_line(
    visit: Visit, gallery: Path, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    page = visit(gallery, "#/names")
    page.locator("#import").set_input_files(tmp_path / "mine.csv")
    page.wait_for_selector(".names-view .fault-note")
    assert words in page.locator(".names-view .fault-note").inner_text()
    assert page.locator("tbody tr").count() == 0


def test_a_merge_cannot_go_in_a_circle(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    page.get_by_label("Merge into cluster").fill("2")
    page.keyboard.press("Enter")
    go_to(page, "#/cluster/2")
    page.get_by_label("Merge into cluster").fill("1")
    page.keyboard.press("Enter")
    assert "already part of 2" in page.locator("#toast").inner_text()
    assert page.locator("#unsaved").inner_text() == "1"


def test_edits_meet_a_gallery_that_was_written_anew(visit: Visit, gallery: Path, tmp_path: Path, watch: Any) -> None:
    """Names that came with the gallery stand; edits made in the browser and not downloaded lie over them."""
    again = tmp_path / "gallery"
    (again / "data").mkdir(parents=True)
    (again / "index.html").write_bytes((gallery / "index.html").read_bytes())
    index = (gallery / "data" / "index.js").read_text(encoding="ascii")

    def write(names: str) -> None:
        (again / "data" / "index.js").write_text(index.replace('"names":[]', f'"names":[{names}]'), encoding="ascii")

    def row(cluster: int, name: str) -> str:
        return f'{{"head":0,"cluster":{cluster},"id":null,"name":"{name}","into":null,"rejected":false}}'

    write(row(1, "old"))
    page = visit(again)
    page.evaluate(
        "edits.nameCluster(1, 'mine'); edits.nameCluster(2, 'saved'); names.saved = new Map(names.rows); names.keep()"
    )
    page.evaluate("edits.nameCluster(3, 'not saved')")
    write(",".join([row(1, "by hand"), row(2, "saved")]))
    page.reload()
    page.wait_for_selector("a.card")
    named = page.evaluate("[1, 2, 3].map((cluster) => names.overlay().nameOf(cluster))")
    assert named == ["by hand", "saved", "not saved"]
    assert page.locator("#unsaved").inner_text() == "1"
    watch.said.clear()  # Chromium itself logs the thumbnails that were not copied


def test_a_browser_that_keeps_nothing_is_told(visit: Visit, gallery: Path) -> None:
    refuse = (
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }});"
    )
    page = visit(gallery, "#/names", before=refuse)
    assert "keeps nothing" in page.locator(".fault-note").inner_text()
    go_to(page, "#/cluster/1")
    name_cluster(page, "dogs")
    assert page.locator("#unsaved").inner_text() == "1"
    page.evaluate("names.saved = new Map(names.rows)")  # or Chromium would ask before it leaves


# Safety


def test_hostile_names_are_text(visit: Visit, hostile: Path) -> None:
    page = visit(hostile, before="window.alert = () => { throw new Error('the page ran a name'); };")
    page.wait_for_selector("a.card")
    title = f"{HOSTILE[2]} synthetic"
    assert page.title() == title and page.locator("h1").text_content() == title
    labels = set(page.evaluate("app.head.clusters.flatMap((each) => each.labels.map(([label]) => label))"))
    ids = set()
    for cluster in range(16):
        go_to(page, f"#/cluster/{cluster}")
        page.wait_for_selector(".row.typical button.tile")
        shown = page.locator(".label-list bdi").evaluate_all("(all) => all.map((each) => each.textContent)")
        assert set(shown) <= labels and shown
        ids |= set(page.locator(".row .file").evaluate_all("(all) => all.map((each) => each.title)"))
    for text in HOSTILE:
        assert any(text.split("/")[-1] in each for each in ids), text
    assert page.locator("#main img[src=x], #main script").count() == 0

    for view in ("#/map", "#/labels", "#/names", "#/"):
        go_to(page, view)
        page.wait_for_timeout(300)
    page.fill("#search", "img src=x")
    page.wait_for_selector(".hits a")
    assert "onerror=alert(1)" in page.locator(".hits a").first.inner_text()
    page.locator(".hits a").first.click()
    page.wait_for_selector(".clip.sought")


def test_media_with_hostile_names_play(visit: Visit, hostile: Path) -> None:
    page = visit(hostile, "#/cluster/0")
    played = set()
    for cluster in range(16):
        go_to(page, f"#/cluster/{cluster}")
        wait(page, f"route.cluster === {cluster} && document.querySelectorAll('.row.typical button.tile').length > 0")
        for index in range(tiles(page).count()):
            clip = page.evaluate(f"shownTiles[{index}].clip.id")
            kind = next((number for number, text in enumerate(HOSTILE) if text in clip), None)
            if kind in played:
                continue
            tiles(page).nth(index).press("Enter")
            wait(page, "[...document.querySelectorAll('video')].some((v) => !v.muted && v.currentTime > 0.05)")
            played.add(kind)
    assert played >= set(range(len(HOSTILE)))


def test_a_hostile_name_given_in_the_page_is_text_and_survives(visit: Visit, hostile: Path, tmp_path: Path) -> None:
    page = visit(hostile, "#/cluster/3")
    given = []
    for cluster, text in enumerate(HOSTILE):
        go_to(page, f"#/cluster/{cluster}")
        wait(page, f"route.cluster === {cluster}")
        name = "".join(each for each in text if unicodedata.category(each) != "Cc").strip()[:200]
        page.locator("#name").fill(name)
        page.locator("#name").press("Enter")
        given.append(name)
        assert page.locator("#toast span").text_content() == f"Cluster {cluster} is named “{name}”."
    names = read_names(download(page, tmp_path))
    assert [names.name(0, cluster) for cluster in range(len(HOSTILE))] == given
