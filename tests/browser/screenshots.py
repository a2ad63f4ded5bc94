"""Take the pictures of docs/images from a gallery.

PYTHONPATH=. python tests/browser/screenshots.py runs/demo/gallery docs/images
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


def nothing(page: Any) -> None:
    """Leave the page as it opens."""


SHOTS: dict[str, tuple[str, dict[str, Any], Callable[[Any], None]]] = {
    "gallery.png": ("#/", DESKTOP, nothing),
    "gallery-cluster.png": ("#/cluster/1", DESKTOP, listen),
    "gallery-map.png": ("#/map", DESKTOP, nothing),
    "gallery-phone.png": ("#/", PHONE, nothing),
    "gallery-phone-cluster.png": ("#/cluster/1", PHONE, listen),
    "gallery-dark.png": ("#/cluster/2", {**DESKTOP, "color_scheme": "dark"}, listen),
}


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


def main() -> None:
    """Open the gallery's views one by one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gallery", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        for name, (route, settings, act) in SHOTS.items():
            page = browser.new_context(**settings).new_page()
            page.goto((args.gallery / "index.html").resolve().as_uri())
            page.wait_for_selector("a.card")
            name_some(page)
            page.goto(page.url.split("#")[0] + route)
            page.wait_for_timeout(1200)
            act(page)
            with write_atomically(args.out / name) as temporary:
                temporary.write_bytes(shrink(page.screenshot()))
            page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
