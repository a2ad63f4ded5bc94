"""Take the pictures of docs/images from a gallery, and some of one whose run has no labels.

PYTHONPATH=. python tests/browser/screenshots.py runs/demo/gallery docs/images --unlabelled runs/mine/gallery
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from selavi.atomic import write_atomically
from tests.browser.conftest import find_chromium

DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
MOST_BYTES = 300_000


def name_some(page: Any) -> None:
    """Name three clusters in four, as somebody who is on the way."""
    page.evaluate(
        "app.head.clusters.filter((each) => each.cluster % 4 !== 3 && each.suggestion)"
        ".forEach((each) => edits.nameCluster(each.cluster, each.suggestion.replaceAll('_', ' ')))"
    )
    page.evaluate("names.saved = new Map(names.rows); hush(); refreshHeader()")


def listen(page: Any) -> None:
    """Play the second clip and look at it."""
    page.locator("button.tile").nth(1).click()
    page.wait_for_timeout(900)


def glow(page: Any) -> None:
    """Show where and when."""
    page.keyboard.press("e")
    page.wait_for_timeout(900)


def nothing(page: Any) -> None:
    """Leave the page as it opens."""


Shots = dict[str, tuple[str, dict[str, Any], Callable[[Any], None]]]

SHOTS: Shots = {
    "gallery.png": ("#/", DESKTOP, nothing),
    "gallery-cluster.png": ("#/cluster/1", DESKTOP, listen),
    "gallery-where.png": ("#/cluster/7", DESKTOP, glow),
    "gallery-map.png": ("#/map", DESKTOP, nothing),
    "gallery-phone.png": ("#/", PHONE, nothing),
    "gallery-phone-cluster.png": ("#/cluster/1", PHONE, listen),
    "gallery-dark.png": ("#/cluster/2", {**DESKTOP, "color_scheme": "dark"}, listen),
}
UNLABELLED: Shots = {"gallery-unlabelled.png": ("#/", DESKTOP, nothing)}


def shrink(png: bytes) -> bytes:
    """A PNG of 256 colours, and no larger than MOST_BYTES."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    while True:
        out = io.BytesIO()
        palette = image.quantize(256)  # which does not dither unless the palette is given
        image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(out, format="PNG", optimize=True)
        if out.tell() <= MOST_BYTES:
            return out.getvalue()
        image = image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.LANCZOS)


def take(browser: Any, gallery: Path, shots: Shots, out: Path) -> None:
    """Open a gallery's views one by one."""
    for name, (route, settings, act) in shots.items():
        page = browser.new_context(**settings).new_page()
        page.goto((gallery / "index.html").resolve().as_uri())
        page.wait_for_selector("a.card")
        name_some(page)
        page.goto(page.url.split("#")[0] + route)
        page.wait_for_timeout(1200)
        act(page)
        with write_atomically(out / name) as temporary:
            temporary.write_bytes(shrink(page.screenshot()))
        page.context.close()


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--unlabelled", type=Path, help="gallery of a run without labels (default: no picture of one)")
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        take(browser, args.gallery, SHOTS, args.out)
        if args.unlabelled:
            take(browser, args.unlabelled, UNLABELLED, args.out)
        browser.close()


if __name__ == "__main__":
    main()
