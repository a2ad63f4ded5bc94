"""The gallery of trained runs, from train.py to the browser: the demo's clips, and AV-digits where it is there."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.browser.pages import Visit, download, go_to, name_cluster, tiles, wait
from tools import export_clusters, train

pytestmark = [pytest.mark.browser, pytest.mark.end_to_end]


def look_and_listen(page: Any, num_clusters: int) -> None:
    """Every cluster has a card with a picture; a clip of the first plays with sound; why, map and labels open."""
    cards = page.locator("a[href^='#/cluster/']")
    assert cards.count() >= num_clusters
    wait(page, "[...document.images].some((each) => each.complete && each.naturalWidth > 0)")
    cards.first.click()
    page.wait_for_selector(".row.typical button.tile")
    tiles(page).first.click()
    wait(page, "[...document.querySelectorAll('video')].some((v) => !v.muted && v.currentTime > 0.2)")
    assert page.evaluate("document.querySelector('video').webkitAudioDecodedByteCount") > 0
    page.locator("#evidence").click()
    wait(page, "[...document.images].some((each) => each.src.includes('/evidence/') && each.naturalWidth > 0)")
    for route, wanted in (("#/map", "canvas"), ("#/labels", "table")):
        go_to(page, route)
        page.wait_for_selector(wanted)


def test_the_demo_from_the_run_to_names_and_back(visit: Visit, finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert export_clusters.main([str(run)]) == 0
    table = pq.read_table(run / "clusters.parquet")
    used = sorted(set(table["cluster"].to_pylist()))
    page = visit(run / "gallery")
    look_and_listen(page, len(used))
    page = visit(run / "gallery", f"#/cluster/{used[0]}")
    name_cluster(page, 'rain, "heavy"')
    names = download(page, tmp_path)
    assert export_clusters.main([str(run), "--names", str(names), "--map", "none", "--evidence", "0"]) == 0
    with (run / "clusters.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows if int(row["cluster"]) == used[0]} == {'rain, "heavy"'}
    assert {row["name"] for row in rows if int(row["cluster"]) != used[0]} <= {""}
    page = visit(run / "gallery")
    wait(page, "document.body.textContent.includes('rain, \"heavy\"')")


def test_av_digits(visit: Visit, shared: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    digits = shared / "data" / "avdigits" / "train"
    if not digits.is_dir():
        pytest.skip(f"AV-digits is not distributed, and not in {shared}; SELAVI_TESTDATA names another place")
    for folder in sorted(path for path in digits.iterdir() if path.is_dir()):
        target = tmp_path / "media" / "train" / folder.name
        target.mkdir(parents=True)
        for file in sorted(folder.iterdir())[:12]:
            shutil.copy(file, target)
    run = tmp_path / "run"
    settings = [f"data.root={tmp_path / 'media'}", f"data.cache_dir={tmp_path / 'cache'}", f"run_dir={run}"]
    assert train.main(["--config", str(tiny_yaml), *settings, "heads.num_clusters=10"]) == 0
    assert export_clusters.main([str(run)]) == 0
    used = set(pq.read_table(run / "clusters.parquet")["cluster"].to_pylist())
    look_and_listen(visit(run / "gallery"), len(used))
