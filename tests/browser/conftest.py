"""A Chromium, galleries by the real writers, and pages that hold each test to silence on console and network."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selavi.media import encode_clip
from tests.selavi.results.gallery.synthetic_gallery import synthetic_clips, write_synthetic_gallery

HOW = "install the extra `browser` and a Chromium (make test-browser), or name one in SELAVI_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARRIVED = """window.arrivedAt = location.hash;
addEventListener("hashchange", () => setTimeout(() => { window.arrivedAt = location.hash; }));"""  # later than the page
SECONDS = 10  # of the clips that synthetic_clips speaks of


def find_chromium() -> str | None:
    """The browser named in SELAVI_CHROMIUM, else one on the path."""
    named = os.environ.get("SELAVI_CHROMIUM")
    return named if named else next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason=f"playwright is not installed: {HOW}")
    chromium = find_chromium()
    if chromium is None:
        pytest.skip(f"no Chromium found: {HOW}")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield launched
        launched.close()


@dataclass
class Watch:
    """What a page said and asked for."""

    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def outside(self) -> list[str]:
        return [url for url in self.asked if not url.startswith(("file:", "blob:"))]


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def visit(browser: Any, watch: Watch) -> Iterator[Callable[..., Any]]:
    """`visit(gallery, "#/map", color_scheme="dark")` opens a page from disk in a browser profile of its own.

    When the test ends, nothing may have been logged as an error, and nothing but files asked for.
    """
    contexts = []

    def open_page(
        folder: Path, route: str = "", *, before: str | None = None, name: str = "index.html", **settings: Any
    ) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
        contexts.append(context)
        context.add_init_script(ARRIVED)
        if before:
            context.add_init_script(before)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and watch.said.append(message.text))
        page.on("pageerror", lambda error: watch.said.append(str(error)))
        page.on("dialog", lambda dialog: (watch.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: watch.asked.append(request.url))
        page.goto((folder / name).as_uri() + route)
        page.wait_for_selector("#main h1")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert watch.said == []
    assert watch.outside() == []


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of a moving square and a tone."""
    frames = np.full((12 * SECONDS, 48, 64, 3), 50, np.uint8)
    for index, frame in enumerate(frames):
        frame[10:30, index % 44 : index % 44 + 20] = (220, 130, 60)
    time_s = np.arange(16_000 * SECONDS) / 16_000
    path = tmp_path_factory.mktemp("recording") / "one.mp4"
    encode_clip(path, frames, (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32), fps=12, sample_rate=16_000)
    return path


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """240 clips in 8 clusters, each with its media."""
    return _write(tmp_path_factory.mktemp("gallery"), recording, 240, 8, hostile=False)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """Ids, labels, title and names that try to leave their strings; media under those names."""
    return _write(tmp_path_factory.mktemp("hostile"), recording, 96, 16, hostile=True)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """A run without labels, of one modality and one head, without map, features or figures; its media are there."""
    return _write(tmp_path_factory.mktemp("bare"), recording, 60, 5, hostile=False, bare=True)


def _write(
    root: Path, recording: Path, num_clips: int, num_clusters: int, *, hostile: bool, bare: bool = False
) -> Path:
    media = root / "media"
    for path in synthetic_clips(num_clips, num_clusters, hostile=hostile)[0]["path"].to_pylist():
        (media / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(recording, media / path)
    out = root / "gallery"
    heads = 1 if bare else 2
    write_synthetic_gallery(
        out, num_clips, num_clusters, hostile, num_heads=heads, thumbnails=True, media_root=media, bare=bare
    )
    return out


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG-Sound's size: 180,000 clips in 300 clusters."""
    out = tmp_path_factory.mktemp("large") / "gallery"
    write_synthetic_gallery(out, 180_000, 300)
    return out
