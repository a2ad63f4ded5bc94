"""index.html: one page with its style and script inside, which opens from disk and forbids itself the network."""

import hashlib
from base64 import b64encode
from pathlib import Path

import jinja2
from markupsafe import Markup

from selavi.atomic import write_text


def write_page(path: Path, title: str) -> Path:
    """Write the page: templates/index.html.j2 with gallery.css and the templates' scripts, by name, in one."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selavi.results.gallery"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = environment.list_templates(extensions=["js"])
    style = _source(environment, "gallery.css")
    script = "\n".join(_source(environment, name) for name in scripts)
    text = environment.get_template("index.html.j2").render(
        lang="en",
        title=title,
        style=Markup(style),  # our own files, none of the user's text
        script=Markup(script),
        policy=policy(style, script),
    )
    write_text(path, text)
    return path


def policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: its own style and script by their hashes, files beside it, nothing else.

    Tried from file:// in Chromium 156: `'self'` alone and `file:` alone both let scripts and pictures beside the page
    load, and the hash of the inline script keeps working beside them.  Both are named: `'self'` is what counts where
    the folder is served over http, and a browser that takes each file for an origin of its own needs `file:`.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(script)} 'self' file:",
            f"style-src {_digest(style)}",
            "img-src 'self' file:",
            "media-src 'self' file:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
