"""Many clusters at once: pairs in three orders, two clusters or two heads side by side, the map's colours, filters."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selavi.results.gallery.build import AboutRun, MediaSource, write_gallery
from selavi.results.gallery.columns import Columns
from tests.browser.pages import NARROW, Visit, arrived, go_to, require_fits, require_nothing_serious, wait
from tests.selavi.results.gallery.synthetic_gallery import synthetic_clips

pytestmark = pytest.mark.browser

VIEWS = {
    "pairs": "#/pairs",
    "compare": "#/compare/1/3",
    "heads": "#/heads/0/1",
    "filter": "#/cluster/1?confidence=0.5-0.9",
    "map": "#/map",
}
EXTREMES = (np.nanargmax, np.nanargmin)
FROM_MIDDLE = """(i) => {
  const [x, y] = [(i * 7.3) % 97, (i * 3.1) % 89];
  const [column, row] = hexagonAt(x, y);
  return Math.hypot(x - (column + (row & 1) / 2) * HEXAGON * Math.sqrt(3), y - row * 1.5 * HEXAGON);
}"""


@pytest.fixture(scope="module")
def tabled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 clips in 6 clusters of three heads, with a table: a loudness, and a place of which there are ten."""
    out = tmp_path_factory.mktemp("tabled") / "gallery"
    clips, heads, features = synthetic_clips(300, 6, 3)
    loudness = [None if i % 10 == 0 else f"{-60 + i / 10:.1f}" for i in range(300)]
    places = [f"place {min(i % 12, 9)}" for i in range(300)]
    texts = pa.table({"loudness": pa.array(loudness, pa.large_string()), "place": pa.array(places, pa.large_string())})
    length = clips.column_names.index("duration_s")
    clips = clips.set_column(length, "duration_s", pa.array(np.linspace(1, 9, 300)))
    about = AboutRun("tabled", "runs/tabled", "train", 0)
    source = MediaSource(out / "no-media", read=None)
    write_gallery(out, clips, heads, about, source, features=features, columns=Columns(["loudness", "place"], texts))
    return out


def choose(page: Any, label: str, value: str) -> None:
    page.get_by_label(label, exact=label == "Label").select_option(value)


# Pairs


def test_pairs_come_in_the_order_of_the_tree_and_of_the_heads(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/pairs")
    page.wait_for_selector(".pair-order select")
    choose(page, "In the order of", "tree")
    tree = page.evaluate("alike.pairs().tree.map((at) => [alike.pairs().one[at], alike.pairs().other[at]])")
    asked = "pairsView.waiting().map(([one, other]) => [one, other])"
    assert len(tree) == 7 and page.evaluate(asked) == tree
    assert "The merge tree joins their groups at a mean of" in page.locator(".pair-figures").inner_text()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("y")  # the other merges are asked of what the clusters are now
    left = page.evaluate(asked)
    assert len(left) == 6
    gone = page.evaluate("[...names.rows.values()].find((row) => row.into !== null).cluster")
    assert all(gone not in pair for pair in left)

    choose(page, "In the order of", "heads")
    order = page.evaluate("pairsView.waiting().map(([, , figure]) => figure)")
    assert order == sorted(order, reverse=True) and 0 < order[0] <= 1
    page.reload()
    page.wait_for_selector(".pair-order select")
    assert page.get_by_label("In the order of").input_value() == "heads"


def test_both_figures_of_a_pair_are_those_of_the_clips(visit: Visit, gallery: Path) -> None:
    _, heads, _ = synthetic_clips(240, 8)
    page = visit(gallery, "#/pairs")
    wait(page, "document.querySelectorAll('.pair-figures p').length === 3")
    one, other = page.evaluate("pairsView.pair.slice(0, 2)")
    mine, yours = (heads[1].cluster[heads[0].cluster == each] for each in (one, other))
    share = float((mine[:, None] == yours).mean())
    figures = page.evaluate(f"alike.figures({one}, {other})")
    assert figures["together"] == pytest.approx(share, abs=6e-4)
    assert figures["within"][0] == pytest.approx(float((mine[:, None] == mine).mean()), abs=6e-4)
    near = page.evaluate(f"app.clusters.get({one}).nearest.find(([each]) => each === {other})[1]")
    assert figures["alike"] == pytest.approx(near, abs=2e-3)
    assert f"of two clips of {one} it is" in page.locator(".pair-figures").inner_text()


def test_a_run_of_one_head_without_features_has_no_pairs(visit: Visit, bare: Path) -> None:
    page = visit(bare, "#/pairs")
    assert page.locator("a.card").count() == 5
    assert page.get_by_role("link", name="Compare heads").count() == 0
    go_to(page, "#/compare/1/3")
    page.wait_for_selector(".compared .tile")
    assert re.findall(r"null|undefined|NaN", page.locator("body").inner_text()) == []


# Two clusters, two heads


def test_two_clusters_side_by_side_are_merged_or_kept_apart(visit: Visit, gallery: Path) -> None:
    page = visit(gallery, "#/cluster/1")
    page.wait_for_selector(".nearest .beside")
    page.locator(".nearest .beside").first.click()
    arrived(page, "address.startsWith('#/compare/1/')")
    page.wait_for_selector(".compared .tile")
    assert page.locator(".sides > section").count() == 2
    wait(page, "document.querySelectorAll('.differences h2').length === 3")
    words = page.locator(".differences").inner_text()
    assert "Figures" in words and "Labels" in words and "Words that differ" in words
    pair = page.evaluate("compareView.pair")
    sizes = [page.evaluate(f"app.clusters.get({each}).size") for each in pair]
    row = page.locator(".differences tr", has_text="Clips").first
    assert row.locator("td").all_inner_texts() == [str(size) for size in sizes]

    page.keyboard.press("n")
    assert "You keep them apart" in page.locator(".state").inner_text()
    assert page.evaluate(f"apart.has({pair[0]}, {pair[1]})")
    page.get_by_role("button", name="Ask again").click()
    assert not page.evaluate(f"apart.has({pair[0]}, {pair[1]})")
    assert page.evaluate("document.activeElement.id") == "title"
    page.keyboard.press("y")
    assert "They are one cluster" in page.locator(".state").inner_text()
    assert page.evaluate(f"names.overlay().final({pair[0]}) === names.overlay().final({pair[1]})")
    page.keyboard.press("u")
    assert page.locator(".state").inner_text() == ""
    page.locator(".compared button.tile").first.focus()
    page.keyboard.press("x")
    assert page.locator("#selected-count").inner_text() == "1 clip selected"


def test_labels_side_by_side_are_shares_of_the_labelled_clips(visit: Visit, gallery: Path) -> None:
    clips, heads, _ = synthetic_clips(240, 8)
    page = visit(gallery, "#/compare/1/3")
    page.wait_for_selector("#differences-labels")
    labels = np.array([label or "" for label in clips["label"].to_pylist()])
    table = page.locator("section", has=page.locator("#differences-labels"))
    first = table.locator("tbody tr").first
    name = first.locator("th").inner_text()
    for cell, cluster in zip(first.locator("td").all_inner_texts(), (1, 3), strict=True):
        own = labels[(heads[0].cluster == cluster) & (labels != "")]
        share = 100 * float((own == name).mean())
        assert cell.strip() == "–" if share == 0 else abs(int(cell.split()[0]) - share) <= 0.5


def test_two_selected_cards_are_compared_by_a_key(visit: Visit, gallery: Path) -> None:
    page = visit(gallery)
    page.wait_for_selector("a.card")
    page.locator("a.card").first.focus()
    page.keyboard.press("x")
    page.keyboard.press("c")  # one alone is not compared
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    assert page.get_by_role("link", name="Compare them").is_visible()
    page.keyboard.press("c")
    arrived(page, "address.startsWith('#/compare/')")
    go_to(page, "#/compare/1/99")
    page.wait_for_selector("a.card")
    assert "no cluster 99" in page.locator("#toast").inner_text()


def test_two_heads_side_by_side(visit: Visit, tabled: Path) -> None:
    _, heads, _ = synthetic_clips(300, 6, 3)
    page = visit(tabled)
    page.get_by_role("link", name="Compare heads").click()
    arrived(page, "address === '#/heads/0/1'")
    page.wait_for_selector(".heads-view tbody tr")
    choose(page, "Sort by", "number")
    row = page.locator(".heads-view tbody tr").nth(2)
    inside = heads[1].cluster[heads[0].cluster == 2]
    counts = np.bincount(inside, minlength=6)
    best = int(counts.argmax())
    back = counts[best] / (heads[1].cluster == best).sum()
    expected = f"{round(100 * counts[best] / len(inside))} % in {best}"
    text = row.locator(".holder").first.inner_text()
    assert text.startswith(expected) and f"{round(100 * back)} % of it" in text
    assert row.locator(".holder a").first.get_attribute("href") == f"#/h1/cluster/{best}"
    nmi = float(re.search(r"NMI (0\.\d+)", page.locator(".lede").inner_text())[1])  # type: ignore[index]
    page.get_by_role("button", name="Swap").click()
    arrived(page, "address === '#/heads/1/0'")
    page.wait_for_selector(".heads-view tbody tr")
    assert f"NMI {nmi:.3f}" in page.locator(".lede").inner_text()
    choose(page, "beside head", "2")
    arrived(page, "address === '#/heads/1/2'")
    page.locator("#head").select_option("2")
    arrived(page, "address === '#/heads/2/1'")


# The map


def colours(page: Any, by: str) -> None:
    page.wait_for_selector(".map-clusters a")
    choose(page, "Colour by", by)
    wait(page, f"(colouring.painted?.key ?? ' cluster').endsWith({by!r})")


def test_the_map_is_coloured_by_labels_figures_and_columns(visit: Visit, tabled: Path) -> None:
    clips, heads, _ = synthetic_clips(300, 6, 3)
    page = visit(tabled, "#/map")
    colours(page, "label")
    entries = page.locator(".legend-entry").all_inner_texts()
    labels = clips["label"].to_pylist()
    counts = {entry.split("\n")[0]: int(entry.split("\n")[-1]) for entry in entries}
    assert counts.pop("without a label") == labels.count(None)
    assert counts == {name: labels.count(name) for name in set(labels) - {None}}

    colours(page, "column 1")
    page.wait_for_selector("text=3 others")
    entries = page.locator(".legend-entry").all_inner_texts()
    assert len(entries) == 8 and entries[0].split("\n")[0] == "place 9"  # three in twelve, the others one each
    page.locator(".legend-entry").first.click()
    assert page.locator(".legend-entry").first.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.textContent").startswith("place 9")

    colours(page, "column 0")
    page.wait_for_selector(".legend-scale")
    scale = page.locator(".legend-scale").inner_text()
    assert "-59.9" in scale and "-30.1" in scale and "30 clips not known, in grey" in scale

    for by, values in (("confidence", heads[0].confidence), ("agreement", heads[0].agreement)):
        colours(page, by)
        place = int(np.flatnonzero(np.isfinite(values))[5])
        assert float(page.evaluate(f"colouring.painted.said({place})")) == pytest.approx(values[place], abs=3e-3)
    colours(page, "heads")
    own = heads[0].cluster == heads[0].cluster[7]
    kept = np.mean([(head.cluster[own] == head.cluster[7]).mean() for head in heads[1:]])
    assert float(page.evaluate("colouring.painted.said(7)")) == pytest.approx(kept, abs=3e-3)
    page.reload()
    page.wait_for_selector(".legend-scale")
    assert page.get_by_label("Colour by").input_value() == "heads"


def test_names_on_the_map_neither_repeat_nor_overlap(visit: Visit, large: Path) -> None:
    page = visit(large, "#/map")
    page.wait_for_selector(".map-clusters a")
    page.evaluate("for (const cluster of [0, 1, 2, 3]) edits.nameCluster(cluster, cluster % 2 ? 'Rain' : 'rain')")
    written = page.evaluate("[...mapView.written]")
    boxes = page.evaluate("mapView.taken")
    assert written.count("rain") == 1 and len(written) == len(boxes) > 5
    for i, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            assert right <= other[0] or left >= other[1] or bottom <= other[2] or top >= other[3]


def test_hexagons_say_how_many_clips_lie_on_each_other(visit: Visit, large: Path) -> None:
    page = visit(large, "#/map")
    page.wait_for_selector(".map-clusters a")
    button = page.get_by_role("button", name="Density")
    assert button.get_attribute("aria-pressed") == "true"  # 50,000 points
    found = "density.bins(mapView.colourGroups(false), mapView.place(), (i, at) => mapView.toScreen(i, at))"
    seen, summed, most = page.evaluate(
        f"((found) => [found.seen, found.bins.reduce((sum, bin) => sum + bin.count, 0),"
        f" Math.max(...found.bins.map((bin) => bin.count))])({found})"
    )
    assert seen == summed == page.evaluate("mapView.data.shown") > 49_000
    assert f"The fullest hexagon holds {most:,} clips" in page.locator(".crowd").inner_text()
    near = f"{found}.bins.every(({{x, y}}) => Number.isFinite(x) && Number.isFinite(y))"
    assert page.evaluate(near)
    far = page.evaluate(f"Math.max(...[...Array(500).keys()].map({FROM_MIDDLE}))")
    assert far <= 6  # no point is farther from its hexagon's middle than a corner
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and page.locator(".crowd").inner_text() == ""
    took = page.evaluate("[performance.now(), mapView.setDensity(true), performance.now()]")
    print(f"hexagons of 50,000 points: {took[2] - took[0]:.0f} ms")


# Filters


def test_a_filter_shows_what_passes_and_outlives_a_reload(visit: Visit, gallery: Path) -> None:
    _, heads, _ = synthetic_clips(240, 8)
    own = heads[0].confidence[heads[0].cluster == 1]
    expected = int(((own >= 0.7) & (own <= 0.9)).sum())
    assert 0 < expected < len(own)
    page = visit(gallery, "#/cluster/1")
    page.wait_for_selector(".row.odd .tile")
    page.get_by_text("Filter the clips").click()
    page.get_by_label("Confidence from").fill("0.7")
    page.get_by_label("Confidence to").fill("0.9")
    page.keyboard.press("Enter")
    said = f"{expected} of {len(own)} clips shown."
    wait(page, f"document.querySelector('.filter-words').innerText === '{said}'")
    page.wait_for_selector(".row.all .tile")
    assert page.locator(".row.all .tile").count() == expected
    assert not page.locator(".row.typical").is_visible()
    assert page.evaluate("location.hash") == "#/cluster/1?confidence=0.7-0.9"

    page.reload()
    wait(page, f"document.querySelector('.filter-words')?.innerText === '{said}'")
    assert page.get_by_label("Confidence from").input_value() == "0.7"
    page.get_by_role("button", name="Select them all").click()
    assert page.locator("#selected-count").inner_text() == f"{expected} clips selected"
    page.wait_for_selector(".row.all .clip.chosen")
    assert page.locator(".row.all .clip.chosen").count() == expected
    page.get_by_role("button", name="Show all clips again").click()
    wait(page, "document.querySelector('.filter-words').innerText === ''")
    assert page.locator(".row.typical").is_visible() and page.evaluate("location.hash") == "#/cluster/1"
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert page.locator("#row-all").inner_text() == f"All {len(own)} clips"


def test_labels_lengths_and_agreements_filter_too(visit: Visit, tabled: Path) -> None:
    clips, heads, _ = synthetic_clips(300, 6, 3)
    own = heads[0].cluster == 2
    lengths, labels = np.linspace(1, 9, 300)[own], np.array([label or "" for label in clips["label"].to_pylist()])[own]
    page = visit(tabled, "#/cluster/2?length=-5")
    shown = "document.querySelector('.filter-words')?.innerText.split(' ')[0] ?? ''"
    wait(page, f"{shown} === '{int((lengths <= 5).sum())}'")
    usual = max(set(labels) - {""}, key=list(labels).count)
    wait(page, f"[...document.querySelectorAll('.filter option')].length > {1 + len(set(labels) - {''})}")
    choose(page, "Label", f"is:{usual}")
    wait(page, f"{shown} === '{int(((lengths <= 5) & (labels == usual)).sum())}'")
    choose(page, "Label", "none")
    wait(page, f"{shown} === '{int(((lengths <= 5) & (labels == '')).sum())}'")
    agreement = heads[0].agreement[own]
    page.evaluate("location.hash = '#/cluster/2?agreement=0.5-'")
    wait(page, f"{shown} === '{int((np.round(agreement.astype(float), 3) >= 0.5).sum())}'")
    page.evaluate("location.hash = '#/cluster/2?heads=0.99-1'")
    wait(page, "document.querySelector('.row.all .nothing')?.innerText === 'No clip passes.'")


def test_pages_of_what_passes(visit: Visit, large: Path) -> None:
    page = visit(large)
    cluster = page.evaluate("app.head.clusters.find((each) => each.size > 2000).cluster")
    go_to(page, f"#/cluster/{cluster}?confidence=0.4-0.8")
    page.wait_for_selector(".row.all .tile")
    total = int(page.locator(".filter-words").inner_text().split()[0].replace(",", ""))
    assert total > 192
    first = page.locator(".row.all .file").first.get_attribute("title")
    page.get_by_role("button", name="Next page").click()
    wait(page, f"document.querySelector('.pager [role=status]').innerText === '97–192 of {total:,}'")
    assert page.locator(".row.all .file").first.get_attribute("title") != first
    scores = [float(text) for text in page.locator(".row.all .score").all_inner_texts()]
    assert len(scores) == 96 and all(0.39 < score < 0.81 for score in scores)


def test_a_filter_reaches_clips_of_clusters_that_were_merged(visit: Visit, gallery: Path) -> None:
    _, heads, _ = synthetic_clips(240, 8)
    page = visit(gallery, "#/cluster/1?confidence=0.8-")
    page.wait_for_selector(".row.all .tile")
    page.evaluate("edits.merge(2, 1)")
    inside = np.isin(heads[0].cluster, (1, 2))
    number = int((np.round(heads[0].confidence[inside].astype(float), 3) >= 0.8).sum())
    wait(page, f"document.querySelector('.filter-words').innerText === '{number} of {int(inside.sum())} clips shown.'")
    wait(page, f"document.querySelectorAll('.row.all .tile').length === {min(96, number)}")


def test_clips_that_were_moved_here_are_filtered_too(visit: Visit, gallery: Path) -> None:
    clips, heads, _ = synthetic_clips(240, 8)
    sure, unsure = (int(find(np.where(heads[0].cluster == 2, heads[0].confidence, np.nan))) for find in EXTREMES)
    page = visit(gallery, "#/cluster/1")
    page.wait_for_selector(".row.all")
    for row in (sure, unsure):
        page.evaluate("(id) => edits.moveClips([{cluster: 2, id}], 1)", clips["id"][row].as_py())
    wait(page, "document.querySelectorAll('.row.arrived .tile').length === 2")
    between = (float(heads[0].confidence[sure]) + float(heads[0].confidence[unsure])) / 2
    page.evaluate(f"location.hash = '#/cluster/1?confidence={between:.2f}-'")
    wait(page, "document.querySelectorAll('.row.arrived .tile').length === 1")
    assert page.locator(".row.arrived .file").get_attribute("title") == clips["id"][sure].as_py()
    assert page.locator(".row.arrived").is_visible()


# All of it


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(visit: Visit, tabled: Path, view: str, scheme: str) -> None:
    page = visit(tabled, VIEWS[view], color_scheme=scheme)
    if view == "map":
        colours(page, "label")
    page.wait_for_timeout(600)
    require_nothing_serious(page)


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_overflows_a_narrow_screen(visit: Visit, gallery: Path, hostile: Path, view: str) -> None:
    for folder in (gallery, hostile):
        page = visit(folder, VIEWS[view], **NARROW)
        require_fits(page)
