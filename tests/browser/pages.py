"""What the tests of pages do again and again: wait, go somewhere, name a cluster, look for what is hard to use."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Visit = Callable[..., Any]
NARROW: dict[str, Any] = {"viewport": {"width": 320, "height": 640}}


def wait(page: Any, condition: str, seconds: float = 15) -> None:
    """Until the expression is true.  (Playwright's own wait_for_function needs eval, which the page forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"still not: {condition}"
        page.wait_for_timeout(30)


def arrived(page: Any, condition: str) -> None:
    """Until the page shows an address for which the expression of `address` is true.

    The address changes before the page does: `location.hash` says where it will be, `arrivedAt` (conftest) where it is.
    """
    wait(page, f"((address) => {condition})(window.arrivedAt)")


def go_to(page: Any, address: str) -> None:
    if page.evaluate("(address) => location.hash !== address && (location.hash = address)", address):
        arrived(page, f"address === {json.dumps(address)}")


def tiles(page: Any) -> Any:
    return page.locator(".row.typical button.tile")


def download(page: Any, tmp_path: Path) -> Path:
    go_to(page, "#/names")
    with page.expect_download() as started:
        page.get_by_role("button", name="Download names.csv").click()
    path = tmp_path / "names.csv"
    started.value.save_as(path)
    return path


def name_cluster(page: Any, name: str) -> None:
    page.keyboard.press("n")
    page.keyboard.type(name)
    page.keyboard.press("Enter")


def require_nothing_serious(page: Any) -> None:
    """Axe finds nothing serious or critical in the page as it is."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="install the extra `browser`")
    violations = axe.Axe().run(page).response["violations"]
    serious = [each for each in violations if each["impact"] in ("serious", "critical")]
    assert [(each["id"], [node["target"] for node in each["nodes"]][:4]) for each in serious] == []


def require_fits(page: Any, wait_ms: int = 400) -> None:
    """Nothing is wider than the screen of a small phone, which the page was opened with."""
    page.wait_for_timeout(wait_ms)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["viewport"]["width"]
