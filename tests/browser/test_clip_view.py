"""The large view of a clip, the queue over all clusters, and clips as CSV: seen in Chromium, opened from disk."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser.pages import NARROW, Visit, arrived, download, go_to, require_fits, require_nothing_serious, wait

pytestmark = pytest.mark.browser

PLAYS = "clipView.video && !clipView.video.paused && clipView.video.currentTime > 0.1"
SHOWS = "clipView.isOpen() && clipView.clip !== null"


def first_tile(page: Any) -> Any:
    page.wait_for_selector(".row.typical button.tile")
    return page.locator(".row.typical button.tile").first


def open_first(page: Any) -> str:
    """Open the first typical clip by the space bar; its id."""
    first_tile(page).focus()
    page.keyboard.press(" ")
    wait(page, SHOWS)
    return str(page.evaluate("clipView.clip.id"))


def pause(page: Any) -> None:
    wait(page, "clipView.video.readyState >= 2")
    page.evaluate("clipView.video.pause()")
    page.evaluate("clipView.seek(2)")
    wait(page, "!clipView.video.seeking")


def time_of(page: Any) -> float:
    wait(page, "!clipView.video.seeking")
    return float(page.evaluate("clipView.video.currentTime"))


def queue_figures(page: Any, key: str) -> list[float]:
    return list(page.evaluate(f"shownTiles.map((tile) => tile.clip.{key})"))


# The large view


def test_space_double_click_and_the_dock_open_a_clip_large_and_escape_leads_back(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    ways = [
        lambda: page.keyboard.press(" "),
        lambda: first_tile(page).dblclick(position={"x": 40, "y": 40}),
        lambda: page.get_by_role("button", name="Large").click(),
    ]
    for way in ways:
        first_tile(page).focus()
        way()
        wait(page, SHOWS)
        clip = page.evaluate("clipView.clip.id")
        assert page.evaluate("location.hash").startswith("#/large/1/")
        assert page.locator("dialog.large h2").inner_text() == clip.split("/")[-1]
        wait(page, PLAYS)
        page.keyboard.press("Escape")
        wait(page, "!clipView.isOpen()")
        arrived(page, "address === '#/cluster/1'")
        focused = page.evaluate("tileOf(document.activeElement)?.clip.id")
        assert focused == clip
        assert page.locator("video.large-video").count() == 0


def test_frames_speed_loop_and_the_spectrogram(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    open_first(page)
    pause(page)
    wait(page, "clipView.rate === 12")
    assert "12 frames a second" in page.locator(".large-rate").inner_text()
    before = time_of(page)
    page.keyboard.press(".")
    assert time_of(page) == pytest.approx(before + 1.5 / 12, abs=0.01)  # from a frame's start to the next one's middle
    page.keyboard.press(",")
    assert time_of(page) == pytest.approx(before + 0.5 / 12, abs=0.01)

    box = page.locator(".large-wave").bounding_box()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 10)
    assert time_of(page) == pytest.approx(6, abs=0.1)
    head = page.locator(".large-head").bounding_box()
    assert head["x"] == pytest.approx(box["x"] + 0.6 * box["width"], abs=4)
    page.keyboard.press("Shift+ArrowRight")
    assert time_of(page) == pytest.approx(7, abs=0.1)

    page.get_by_label("Speed").select_option("2")
    assert page.evaluate("clipView.video.playbackRate") == 2
    page.evaluate("clipView.seek(9.7)")
    page.get_by_role("button", name="Play", exact=True).click()
    wait(page, "!clipView.video.paused && clipView.video.currentTime < 5")  # it began again
    page.get_by_role("button", name="Loop").click()
    page.evaluate("clipView.seek(9.7)")
    wait(page, "clipView.video.paused && clipView.video.currentTime > 9.5")
    assert page.get_by_role("button", name="Loop").get_attribute("aria-pressed") == "false"
    page.reload()  # speed and loop stay
    wait(page, SHOWS)
    assert page.evaluate("[clipView.settings.speed, clipView.settings.loop]") == [2, False]


def test_arrows_go_through_the_clips_of_the_view_below(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    open_first(page)
    ids = page.evaluate("clipView.tiles().map((tile) => tile.clip.id)")
    page.keyboard.press("ArrowRight")
    wait(page, f"clipView.clip?.id === {json.dumps(ids[1])}")
    page.keyboard.press("ArrowRight")
    wait(page, f"clipView.clip?.id === {json.dumps(ids[2])}")
    page.get_by_role("button", name="Previous clip").click()
    wait(page, f"clipView.clip?.id === {json.dumps(ids[1])}")
    assert page.locator(".large-place").inner_text().startswith("2 of ")
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    wait(page, "!clipView.isOpen()")
    assert page.evaluate("tileOf(document.activeElement).clip.id") == ids[1]
    assert page.evaluate("[...selection.values()].map((clip) => clip.id)") == [ids[1]]


def test_nearest_clips_are_those_of_the_features_and_open_in_turn(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    first = open_first(page)
    page.wait_for_selector(".large-nearest a")
    assert page.locator(".large-nearest a").count() == 10
    row = page.evaluate("clipView.clip.row")
    rows = page.evaluate(f"loadRow({row}).then((known) => known.near)")
    ids = page.evaluate("loadIds(0).then(({ id }) => id)")
    assert ids[row] == first and row not in rows
    shown = page.locator(".large-nearest .mono").all_inner_texts()
    assert shown == [ids[near].split("/")[-1] for near in rows]
    page.locator(".large-nearest a").first.click()
    wait(page, f"clipView.clip?.id === {json.dumps(ids[rows[0]])}")
    page.wait_for_selector(".large-nearest a")
    page.locator(".large-nearest a").nth(1).click()
    wait(page, f"![{json.dumps(first)}, {json.dumps(ids[rows[0]])}].includes(clipView.clip?.id)")
    page.go_back()
    wait(page, f"clipView.clip?.id === {json.dumps(ids[rows[0]])}")
    page.keyboard.press("Escape")
    wait(page, "!clipView.isOpen()")
    arrived(page, "address === '#/cluster/1'")


def test_every_head_says_its_cluster_and_confidence(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/h1/cluster/1")
    clip = open_first(page)
    page.wait_for_selector("dialog.large tbody tr")
    rows = page.locator("dialog.large tbody tr").all_inner_texts()
    assert len(rows) == 2 and rows[1].startswith("1 shown")
    confidence = page.evaluate("clipView.clip.confidence")
    assert rows[1].split()[-1] == f"{confidence:.2f}"
    link = page.locator("dialog.large tbody a").first
    address = link.get_attribute("href")
    assert address.startswith("#/cluster/")
    link.click()
    arrived(page, f"address === {json.dumps(address)}")
    page.wait_for_selector(".clip.sought")
    assert page.locator(".clip.sought .file").get_attribute("title") == clip
    assert not page.evaluate("clipView.isOpen()")


def test_an_address_of_a_clip_can_be_shared_and_reloaded(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    clip = open_first(page)
    address = page.evaluate("location.hash")
    page.reload()
    wait(page, SHOWS)
    assert page.evaluate("clipView.clip.id") == clip
    page.keyboard.press("Escape")
    wait(page, "!clipView.isOpen()")
    wait(page, "location.hash === '#/cluster/1'")

    other = visit(gallery, address)  # somebody else's browser
    wait(other, SHOWS)
    assert other.evaluate("clipView.clip.id") == clip
    other.wait_for_selector(".large-nearest a")
    other.locator(".large-nearest a").first.click()
    wait(other, f"clipView.clip?.id !== {json.dumps(clip)}")
    other.keyboard.press("Escape")
    wait(other, "!clipView.isOpen()")
    assert other.evaluate("location.hash").startswith("#/cluster/1/clip/")

    elsewhere = visit(gallery, address.replace("#/", "#/h1/"))
    wait(elsewhere, "clipView.isOpen() && app.head.head === 1")
    elsewhere.keyboard.press("Escape")
    wait(elsewhere, "!clipView.isOpen()")
    assert elsewhere.locator("#head").input_value() == "1"

    gone = visit(gallery, "#/large/1/no-such-clip")
    gone.wait_for_selector("dialog.large .fault-note")
    assert "holds no clip no-such-clip" in gone.locator("dialog.large .fault-note").inner_text()


def test_a_large_clip_without_media_features_or_labels_says_so(visit: Visit, bare: Path, large: Path) -> None:
    page = visit(bare, "#/cluster/1")
    open_first(page)
    assert "1/25 s" in page.locator(".large-rate").inner_text()
    wait(page, "document.querySelector('#large-near') !== null")
    assert "had no features" in page.locator("dialog.large .block").last.inner_text()
    words = page.locator("dialog.large").inner_text()
    assert not {"null", "undefined", "NaN"} & {*words.split()}

    page = visit(large, "#/cluster/0")
    open_first(page)
    assert "has no media file" in page.locator(".large-remark").inner_text()
    assert page.locator(".large-transport").is_hidden()
    page.wait_for_selector(".large-nearest a")  # it is among those shown
    page.keyboard.press("Escape")
    wait(page, "!clipView.isOpen()")
    row = page.evaluate(
        "(async () => { for (let row = 0; row < 5000; row += 1) if (!(await loadRow(row)).near) return row; })()"
    )
    page.evaluate(f"loadClipOfRow({row}).then((clip) => go(routeToLarge(clip)))")
    wait(page, f"clipView.clip?.row === {row}")
    wait(page, "document.querySelector('#large-near') !== null")
    assert "with all 180,000 clips" in page.locator("dialog.large .block").last.inner_text()


def test_the_evidence_lies_over_the_strip(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    first_tile(page)
    page.evaluate("shownTiles[0].clip.evidence = shownTiles[0].clip.thumb")
    open_first(page)
    assert page.locator(".large-strip").count() == 0
    page.keyboard.press("e")
    assert page.locator(".large-strip img").count() == 2
    page.get_by_role("button", name="Where and when").last.click()
    assert page.locator(".large-strip").count() == 0


def test_sound_alone_a_picture_and_words_have_what_they_need(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    first_tile(page)
    page.evaluate("shownTiles[0].clip.kind = 'audio'")
    open_first(page)
    assert page.locator(".large-frame").first.is_hidden() and page.locator(".large-rate").is_hidden()
    assert page.locator(".large-wave").bounding_box()["height"] > 180
    wait(page, PLAYS)
    page.keyboard.press(" ")
    wait(page, "clipView.video.paused")
    page.keyboard.press("Escape")
    wait(page, "!clipView.isOpen()")

    page.evaluate("Object.assign(shownTiles[0].clip, { kind: 'picture', media: shownTiles[0].clip.thumb })")
    open_first(page)
    assert page.locator("img.large-still").count() == 1 and page.locator(".large-transport").is_hidden()
    page.keyboard.press("Escape")
    wait(page, "!clipView.isOpen()")

    page.evaluate("Object.assign(app.index, { words: true, columns: ['title'] })")
    page.evaluate("shownTiles[0].clip.texts = ['A dog barks at a train']")
    open_first(page)
    assert page.locator(".large-texts").inner_text().split() == ["title", "A", "dog", "barks", "at", "a", "train"]
    assert page.locator(".large-wave").is_hidden()


def test_the_path_is_copied(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1", permissions=["clipboard-read", "clipboard-write"])
    open_first(page)
    page.keyboard.press("c")
    page.wait_for_selector("dialog.large #toast.shown")
    assert page.evaluate("navigator.clipboard.readText()") == page.evaluate("clipView.clip.path")


# Clips as CSV


def test_the_clips_selected_are_saved_as_csv(visit: Visit, gallery: Path, tmp_path: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    first_tile(page)
    page.evaluate("edits.nameCluster(1, 'dogs, \"loud\"'); edits.nameCluster(2, 'cats')")
    page.evaluate("edits.moveClips([shownTiles[1].clip], 2); edits.rejectClips([shownTiles[2].clip])")
    page.evaluate("shownTiles.slice(0, 3).forEach((tile) => toggleSelected(tile))")
    expected = page.evaluate("shownTiles.slice(0, 3).map((tile) => tile.clip)")
    with page.expect_download() as started:
        page.get_by_role("button", name="Save as CSV").click()
    path = tmp_path / "clips.csv"
    started.value.save_as(path)
    assert started.value.suggested_filename == "clips.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))
    assert [row["id"] for row in rows] == [clip["id"] for clip in expected]
    assert [row["name"] for row in rows] == ['dogs, "loud"', "cats", 'dogs, "loud"']
    assert [(row["cluster"], row["now_in"], row["rejected"]) for row in rows] == [
        ("1", "1", ""),
        ("1", "2", ""),
        ("1", "1", "1"),
    ]
    for row, clip in zip(rows, expected, strict=True):
        assert float(row["confidence"]) == clip["confidence"] and row["path"] == clip["path"]
        assert row["label"] == (clip["label"] or "") and row["head"] == "0"


# The queue


def test_the_queue_sorts_all_clips_over_all_clusters(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    page.wait_for_selector("a.card")
    page.keyboard.press("q")
    page.wait_for_selector(".queue-view button.tile")
    arrived(page, "address === '#/queue'")
    everything = page.evaluate(
        "(async () => (await Promise.all("
        "app.head.clusters.map((each) => loadClips(each.cluster, 0, each.size)))).flat())()"
    )
    assert len(everything) == 240
    shown = queue_figures(page, "confidence")
    least = sorted(clip["confidence"] for clip in everything)[:48]
    assert shown == pytest.approx(least, abs=1.1e-3)  # told to three decimals, sorted by four
    assert "Least sure: 240 clips" in page.locator(".queue-words").inner_text()

    page.get_by_role("button", name="Picture and sound disagree").click()
    known = sorted(clip["agreement"] for clip in everything if clip["agreement"] is not None)
    wait(page, f"shownTiles[0]?.clip.agreement === {known[0]}")
    assert queue_figures(page, "agreement") == pytest.approx(known[:48], abs=1.1e-3)
    assert f"{len(known)} clips" in page.locator(".queue-words").inner_text()

    page.get_by_role("button", name="Label differs").click()
    wait(page, "document.querySelector('.queue-words').textContent.startsWith('Label differs')")
    count = int(page.locator(".queue-words b").inner_text().split(": ")[1].split()[0])
    most = "Object.fromEntries(app.head.clusters.map((each) => [each.cluster, each.labels[0][0]]))"
    majority = page.evaluate(most)
    differing = [clip for clip in everything if clip["label"] not in (None, majority[str(clip["cluster"])])]
    assert count == len(differing) > 0
    sure = queue_figures(page, "confidence")
    assert sure == pytest.approx(sorted((clip["confidence"] for clip in differing), reverse=True)[:48], abs=1.1e-3)

    page.get_by_role("button", name="Odd for their cluster").click()
    wait(page, "document.querySelector('.queue-why')?.textContent.includes('usual distance')")
    odd = [float(text.split()[0]) for text in page.locator(".queue-why").all_inner_texts()]
    assert odd == sorted(odd, reverse=True) and odd[0] > 1.5


def test_pages_of_the_queue_have_addresses(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/queue")
    page.wait_for_selector(".queue-view button.tile")
    seen = set(queue_figures(page, "id"))
    for number in range(2, 6):
        page.keyboard.press("j")
        wait(page, f"location.hash === '#/queue/unsure/{number}' && shownTiles.length === 48")
        seen |= set(queue_figures(page, "id"))
    assert len(seen) == 240
    here = queue_figures(page, "id")
    page.reload()
    page.wait_for_selector(".queue-view button.tile")
    assert queue_figures(page, "id") == here
    page.locator("button.tile").nth(3).focus()
    page.keyboard.press(" ")
    wait(page, f"clipView.clip?.id === {json.dumps(here[3])}")
    page.keyboard.press("Escape")
    wait(page, "!clipView.isOpen()")
    assert page.evaluate("tileOf(document.activeElement).clip.id") == here[3]
    assert queue_figures(page, "id") == here


def test_clips_of_the_queue_are_moved_rejected_and_split_off(visit: Visit, gallery: Path, tmp_path: Path) -> None:
    page = visit(gallery, "#/queue")
    page.wait_for_selector(".queue-view button.tile")
    page.get_by_role("button", name="Leave out decided").click()
    clips = page.evaluate("shownTiles.map(({ clip }) => ({ cluster: clip.cluster, id: clip.id }))")
    place = page.locator("button.tile")

    def select(first: int, last: int) -> None:
        place.nth(first).focus()
        page.keyboard.press("x")
        place.nth(last).click(modifiers=["Shift"])
        assert page.locator("#selected-count").inner_text() == f"{last - first + 1} clips selected"

    select(0, 2)
    into = next(number for number in range(8) if number not in [clip["cluster"] for clip in clips[:3]])
    page.keyboard.press("i")
    page.keyboard.type(str(into))
    page.keyboard.press("Enter")
    select(4, 5)
    page.keyboard.press("r")
    select(7, 8)
    page.keyboard.press("s")
    assert page.locator(".clip.gone").count() == 7
    page.keyboard.press("u")
    assert page.locator(".clip.gone").count() == 5
    page.keyboard.press("U")
    assert page.locator(".clip.gone").count() == 7
    page.get_by_role("button", name="Leave out decided").click()
    left = "7 that you decided on are left out"
    wait(page, f"document.querySelector('.queue-words').textContent.includes('{left}')")
    assert queue_figures(page, "id")[:2] == [clips[3]["id"], clips[6]["id"]]
    page.reload()
    wait(page, f"document.querySelector('.queue-words')?.textContent.includes('{left}')")
    place.first.focus()
    page.keyboard.press("x")
    page.keyboard.press("r")  # the next clip takes its place, and has the keys
    wait(page, f"shownTiles[0]?.clip.id === {json.dumps(clips[6]['id'])}")
    assert page.evaluate("tileOf(document.activeElement)?.clip.id") == clips[6]["id"]
    page.keyboard.press("u")
    wait(page, f"shownTiles[0]?.clip.id === {json.dumps(clips[3]['id'])}")
    go_to(page, "#/names")
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(download(page, tmp_path).read_text("utf-8")))}
    fates = [(rows[clip["id"]]["into"], rows[clip["id"]]["rejected"]) for clip in clips[:9] if clip["id"] in rows]
    assert fates == [(str(into), "")] * 3 + [("", "1")] * 2 + [("8", "")] * 2


def test_clips_are_confirmed_where_they_are(visit: Visit, gallery: Path, tmp_path: Path) -> None:
    page = visit(gallery, "#/queue")
    page.wait_for_selector(".queue-view button.tile")
    clip = page.evaluate("shownTiles[0].clip")
    size = page.evaluate(f"names.overlay().sizeOf({clip['cluster']})")
    page.locator("button.tile").first.focus()
    page.keyboard.press("x")
    page.keyboard.press("y")
    wait(page, f"shownTiles[0]?.clip.id !== {json.dumps(clip['id'])}")
    assert page.evaluate(f"names.overlay().sizeOf({clip['cluster']})") == size
    page.get_by_role("button", name="Leave out decided").click()
    wait(page, f"shownTiles[0]?.clip.id === {json.dumps(clip['id'])}")
    assert page.locator(".clip.gone").count() == 0
    assert page.locator(".fate").first.inner_text() == "confirmed"
    go_to(page, "#/names")
    assert "confirmed" in page.locator("#main").inner_text()
    [row] = csv.DictReader(io.StringIO(download(page, tmp_path).read_text("utf-8")))
    assert (row["id"], row["cluster"], row["into"]) == (clip["id"], str(clip["cluster"]), str(clip["cluster"]))


def test_the_queue_of_180_000_clips_opens_and_turns_at_once(visit: Visit, large: Path) -> None:
    page = visit(large, "#/queue")
    page.wait_for_selector(".queue-view button.tile")
    assert page.locator("button.tile").count() == 48
    assert "180,000 clips" in page.locator(".queue-words").inner_text()
    last = 180_000 // 48
    went = page.evaluate(
        f"(async () => {{ const began = performance.now(); await queueView.turnTo({last - 1});"
        " return performance.now() - began; })()"
    )
    print(f"a page of the queue: {went:.0f} ms")
    assert went < 10_000  # ms: a bound on breakage
    least = queue_figures(page, "confidence")
    assert least == pytest.approx(sorted(least), abs=1.1e-3) and least[0] > 0.95


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["#/queue", "large"])
def test_axe_finds_nothing_serious_in_the_new_views(visit: Visit, gallery: Path, view: str, scheme: str) -> None:
    page = visit(gallery, "#/cluster/1" if view == "large" else view, color_scheme=scheme)
    if view == "large":
        open_first(page)
        page.wait_for_selector(".large-nearest a")
    else:
        page.wait_for_selector(".queue-view button.tile")
        page.locator("button.tile").first.focus()
        page.keyboard.press("x")
    page.wait_for_timeout(500)
    require_nothing_serious(page)


@pytest.mark.parametrize("view", ["#/queue", "large"])
def test_the_new_views_fit_a_narrow_screen(visit: Visit, gallery: Path, hostile: Path, view: str) -> None:
    for folder in (gallery, hostile):
        page = visit(folder, "#/cluster/1" if view == "large" else view, **NARROW)
        if view == "large":
            open_first(page)
            page.wait_for_selector(".large-nearest a")
            inner = page.evaluate("document.querySelector('.large-body').scrollWidth")
            assert inner <= 320
        else:
            page.wait_for_selector(".queue-view button.tile")
        require_fits(page, 0)


def test_the_keys_stay_inside_the_large_view_and_the_help_names_them(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    open_first(page)
    for _ in range(30):
        page.keyboard.press("Tab")
        inside = "document.activeElement === document.body || clipView.dialog.contains(document.activeElement)"
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    wait(page, "!clipView.isOpen()")
    page.keyboard.press("?")
    words = page.locator("#help").inner_text()
    assert "one frame back" in words and "the queue of clips" in words
