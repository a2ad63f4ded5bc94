"""What a person does to clusters in the gallery, and what the page shows of it."""

from pathlib import Path
from typing import Any

import pytest

from tests.browser.pages import Visit, arrived, go_to, name_cluster, wait

pytestmark = pytest.mark.browser


def heading(page: Any, row: str) -> str:
    return str(page.locator(f"#row-{row}").inner_text())


def merge(page: Any, into: str) -> None:
    page.get_by_label("Merge into cluster").fill(into)
    page.get_by_role("button", name="Merge", exact=True).click()


def size_of(page: Any, cluster: int) -> int:
    return int(page.evaluate(f"app.clusters.get({cluster}).size"))


def test_redo_does_again_what_undo_took_back_and_both_outlive_a_reload(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    for name in ("rain", "storm"):
        name_cluster(page, name)
        wait(page, f"document.querySelector('#name').value === '{name}'")
    page.keyboard.press("Control+z")
    wait(page, "document.querySelector('#name').value === 'rain'")
    page.keyboard.press("Control+Shift+z")
    wait(page, "document.querySelector('#name').value === 'storm'")
    page.keyboard.press("u")
    wait(page, "document.querySelector('#name').value === 'rain'")
    page.reload()
    page.wait_for_selector("#name")
    wait(page, "document.querySelector('#name').value === 'rain'")
    page.keyboard.press("U")
    wait(page, "document.querySelector('#name').value === 'storm'")
    page.keyboard.press("u")
    page.keyboard.press("u")
    wait(page, "document.querySelector('#name').value === ''")
    name_cluster(page, "hail")  # after an edit there is nothing to do again
    page.keyboard.press("Control+y")
    assert "Nothing to do again" in page.locator("#toast").inner_text()


def test_a_merged_cluster_shows_all_that_it_holds(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/2")
    one, two = size_of(page, 1), size_of(page, 2)
    merge(page, "1")
    go_to(page, "#/cluster/1")
    page.locator("#row-all").scroll_into_view_if_needed()
    assert heading(page, "all") == f"All {one + two} clips"
    assert page.locator(".facts dd").first.inner_text() == str(one + two)
    wait(page, f"document.querySelectorAll('.row.all .tile').length === {min(96, one + two)}")
    page.keyboard.press("u")
    wait(page, f"document.querySelector('#row-all').textContent === 'All {one} clips'")


def test_clips_are_at_home_in_the_cluster_that_was_split_off(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    page.wait_for_selector(".row.typical .tile")
    for tile in page.locator(".row.typical button.tile").all()[:2]:
        tile.focus()
        page.keyboard.press("x")
    page.evaluate("edits.split([...selection.values()])")
    assert page.locator(".row.typical .clip.gone").count() == 2
    go_to(page, "#/cluster/8")
    page.wait_for_selector(".row.arrived .tile")
    assert page.locator(".row.arrived .clip.gone").count() == 0
    assert page.locator(".row.arrived .fate").first.inner_text() == "from cluster 1"
    go_to(page, "#/")
    wait(page, "document.querySelectorAll('[data-cluster=\"8\"] .cover img').length === 2")
    assert page.locator('[data-cluster="8"] .blank').count() == 0


def test_digits_find_a_cluster_and_a_file(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    search = page.locator("#search")
    search.fill("0000007")
    page.wait_for_selector(".hits a")
    assert "0000007_" in page.locator(".hits a").first.inner_text()
    search.fill("7")
    wait(page, "document.querySelectorAll('a.card').length === 1")
    assert page.locator("a.card").get_attribute("data-cluster") == "7"
    search.fill("007")  # is no number of a cluster
    wait(page, "document.querySelectorAll('.hits a').length > 0")
    assert page.locator("a.card").count() == 0


def test_a_menu_that_was_used_with_the_mouse_gives_the_keys_back(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    menu = page.locator(".toolbar select").first
    menu.hover()
    page.mouse.down()
    page.mouse.up()
    page.keyboard.press("Escape")
    page.evaluate(
        "() => { const menu = document.querySelector('.toolbar select'); menu.focus();"
        " dispatchEvent(new PointerEvent('pointerdown')); menu.value = 'name';"
        " menu.dispatchEvent(new Event('change', {bubbles: true})); }"
    )
    page.keyboard.press("/")
    wait(page, "document.activeElement.id === 'search'")
    page.keyboard.press("Escape")
    menu.focus()
    page.keyboard.press("ArrowDown")  # who steps through it with the arrows stays in it
    assert page.evaluate("document.activeElement.matches('select')")


def test_on_a_phone_clips_are_on_the_first_screen(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.wait_for_selector(".row.typical .tile")
    box = page.locator(".row.typical .tile").first.bounding_box()
    assert box["y"] + box["height"] < 844 - 125, "the dock takes as much"
    facts = page.locator(".facts").bounding_box()
    assert facts["y"] > box["y"]


def test_on_a_phone_clusters_are_on_the_first_screen(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.wait_for_selector("a.card")
    box = page.locator("a.card").first.bounding_box()
    assert box["y"] + 150 < 844, "of a card's picture, most"


def test_the_index_says_what_to_do_first_and_next(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    assert page.locator(".guide").inner_text().startswith("Begin with cluster ")
    page.locator(".guide a").first.click()
    arrived(page, "address.includes('/cluster/')")
    name_cluster(page, "rain")
    go_to(page, "#/")
    assert page.locator(".guide").inner_text().startswith("Next: cluster ")


def test_a_small_cluster_shows_each_clip_once(visit: Visit, bare: Path) -> None:
    page = visit(bare)
    number = page.evaluate("app.head.clusters.reduce((a, b) => (b.size < a.size ? b : a)).cluster")
    go_to(page, f"#/cluster/{number}")
    page.wait_for_selector(".row.typical .tile")
    size = size_of(page, number)
    assert size <= 12, "as many as are typical"
    assert page.locator(".tile").count() == size and heading(page, "typical") == f"All {size} clips"


@pytest.mark.parametrize("route", ["#/", "#/cluster/1", "#/names"])
def test_nothing_is_null(visit: Visit, bare: Path, route: str) -> None:
    page = visit(bare, route)
    page.wait_for_timeout(300)
    assert not {"null", "undefined", "NaN"} & {*page.locator("body").inner_text().replace("\n", " ").split(" ")}


def test_a_clip_without_a_thumbnail_is_drawn_from_its_media(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    page.wait_for_selector(".row.typical .tile")
    page.evaluate("for (const tile of shownTiles.slice(0, 3)) { tile.clip.thumb = null; tile.blank(); }")
    wait(page, "document.querySelectorAll('.row.typical canvas.still').length === 3")
    drawn = "(canvas) => canvas.getContext('2d') && canvas.width === 320 && canvas.height > 0"
    assert all(page.locator("canvas.still").evaluate_all(f"(all) => all.map({drawn})"))
    assert page.locator(".row.typical .blank").count() == 0


def test_several_cards_are_merged_named_and_rejected_at_once(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    page.wait_for_selector("a.card")
    numbers = page.evaluate("[...document.querySelectorAll('a.card')].map((each) => Number(each.dataset.cluster))")
    page.locator("a.card").first.focus()
    for _ in range(2):
        page.keyboard.press("x")
        page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    assert "3 clusters selected" in page.locator(".picked-bar").inner_text()
    page.keyboard.press("g")
    assert page.evaluate(f"{numbers[1:3]}.map((each) => names.overlay().into(each))") == [numbers[0]] * 2
    assert page.locator(".picked-bar").is_hidden()
    page.locator(f'[data-cluster="{numbers[3]}"]').focus()
    page.keyboard.press("x")
    page.get_by_label("Name of the selected clusters").fill("rain")
    page.keyboard.press("Enter")
    assert page.evaluate(f"names.overlay().nameOf({numbers[3]})") == "rain"
    page.locator(f'[data-cluster="{numbers[4]}"]').focus()
    page.keyboard.press("x")
    page.keyboard.press("r")
    assert page.evaluate(f"names.overlay().rejected({numbers[4]})")
    page.keyboard.press("u")
    assert not page.evaluate(f"names.overlay().rejected({numbers[4]})")


def test_pairs_that_look_alike_are_merged_or_kept_apart(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    page.get_by_role("link", name="Compare clusters that look alike").click()
    arrived(page, "address === '#/pairs'")
    page.wait_for_selector(".sides .tile")
    assert page.locator(".sides section").count() == 2
    first = page.evaluate("pairsView.pair")
    left = page.evaluate("pairsView.waiting().length")
    page.keyboard.press("n")
    assert page.evaluate("pairsView.pair") != first
    page.keyboard.press("b")
    assert page.evaluate("pairsView.pair") == first
    page.keyboard.press("y")
    merged = page.evaluate(f"[{first[0]}, {first[1]}].map((each) => names.overlay().final(each))")
    assert merged[0] == merged[1]
    assert page.evaluate("pairsView.waiting().length") < left
    page.keyboard.press("u")
    assert page.evaluate("pairsView.pair") == first
    page.keyboard.press("n")
    page.reload()  # what was kept apart stays so
    page.wait_for_selector(".sides .tile")
    assert page.evaluate("pairsView.pair") != first


def test_a_cluster_is_merged_with_its_nearest_by_one_key(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    page.wait_for_selector(".nearest a")
    near = page.evaluate("clusterView.entry.nearest[1][0]")
    page.keyboard.press("2")
    assert page.evaluate(f"names.overlay().final(1) === names.overlay().final({near})")


def test_small_cards_show_more_clusters(visit: Visit, large: Path) -> None:
    page = visit(large)
    page.wait_for_selector("a.card")
    area = "((box) => box.width * box.height)(document.querySelector('.cards li').getBoundingClientRect())"
    before = page.evaluate(area)
    page.get_by_role("button", name="Compact").click()
    assert page.evaluate(area) < before / 3
    page.reload()
    page.wait_for_selector("a.card")
    assert page.locator(".cards.compact").count() == 1


def test_ten_doubles_are_merged_by_the_keyboard_with_at_most_three_actions_each(visit: Visit, large: Path) -> None:
    """In a queue of pairs each takes one key; counted on 300 clusters."""
    page = visit(large, "#/pairs")
    page.wait_for_selector(".sides section")
    for _ in range(10):
        page.keyboard.press("y")
    assert page.evaluate("[...names.rows.values()].filter((row) => row.into !== null).length") == 10
