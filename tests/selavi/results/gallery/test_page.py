import hashlib
import re
from base64 import b64encode
from html import unescape
from pathlib import Path

import jinja2

from selavi.results.gallery.page import write_page

TITLE = '</title><script>alert(1)</script>"{{ 7 * 7 }}'


def test_the_page_allows_itself_its_own_script_and_files_beside_it(tmp_path: Path) -> None:
    page = write_page(tmp_path / "index.html", TITLE).read_text(encoding="utf-8")
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])  # type: ignore[index]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for kind, source in (("style-src", style), ("script-src", script)):
        digest = b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert directives[kind].split()[0] == f"'sha256-{digest}'"
        assert "unsafe" not in directives[kind]
    assert directives["default-src"] == "'none'" and directives["base-uri"] == "'none'"
    assert set(" ".join(directives.values()).split()) <= {"'none'", "'self'", "file:"} | {
        word for word in policy.replace(";", " ").split() if word.startswith("'sha256-")
    }


def test_the_title_is_text(tmp_path: Path) -> None:
    page = write_page(tmp_path / "index.html", TITLE).read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert unescape(re.search(r"<title>(.*?)</title>", page, re.DOTALL)[1]) == TITLE  # type: ignore[index]


def test_all_scripts_are_in_the_page_in_the_order_of_their_names(tmp_path: Path) -> None:
    loader = jinja2.PackageLoader("selavi.results.gallery")
    names = [name for name in loader.list_templates() if name.endswith(".js")]
    page = write_page(tmp_path / "index.html", "t").read_text(encoding="utf-8")
    sources = [loader.get_source(jinja2.Environment(), name)[0] for name in names]
    places = [page.index(source) for source in sources]
    assert names == sorted(names) and places == sorted(places) and len(names) >= 1


def test_children_that_may_be_missing_go_through_the_functions_that_leave_them_out() -> None:
    """The DOM's own append and replaceChildren write the word "null" for a child that is not there."""
    loader = jinja2.PackageLoader("selavi.results.gallery")
    for name in loader.list_templates():
        if name.endswith(".js") and name != "10-dom.js":
            source = loader.get_source(jinja2.Environment(), name)[0]
            assert re.findall(r"\.(?:append|replaceChildren)\((?!\))", source) == [], name


def test_no_two_scripts_declare_the_same_name() -> None:
    """They are joined into one, which a browser refuses as a whole then."""
    loader = jinja2.PackageLoader("selavi.results.gallery")
    names = [name for name in loader.list_templates() if name.endswith(".js")]
    sources = "\n".join(loader.get_source(jinja2.Environment(), name)[0] for name in names)
    declared = re.findall(r"^(?:const|let|class|function|async function) (\w+)", sources, re.MULTILINE)
    assert len(declared) > 100
    assert [name for name in set(declared) if declared.count(name) > 1] == []
