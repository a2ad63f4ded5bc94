"""Write docs/configuration.md from the dataclasses of selavi/config/sections.py: python docs/make_configuration.py."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # so that a checkout works uninstalled

from selavi.config import SETTINGS, Config  # noqa: E402
from selavi.config.settings import Need, Setting  # noqa: E402

SOURCE, PAGE = ROOT / "selavi" / "config" / "sections.py", ROOT / "docs" / "configuration.md"

HEAD = """\
# Settings

Every setting, its default and its meaning. The defaults are the published VGG-Sound recipe but for three settings that
give better labels (`configs/published.yaml` goes back in all three); a file in `configs/` holds only what differs from
the defaults, and `section.key=value` on the command line overrides both:

```
python tools/train.py --config configs/small.yaml data.root=/my/videos heads.num_clusters=20 'modalities=[video]'
```

An unknown setting is refused with the nearest name, a value out of its limits with the limits. What a run used is in
its folder, and that file is a configuration like any other: `--config RUN/config.resolved.yaml run_dir=runs/again`.

Paths, names and words are taken as they are written, from the first `=` on: `data.root=/data/my #1 set`, `run_dir=1e3`
and `data.root=/a${b}` are what they say. Quotes belong to the shell; one that arrives belongs to the name, so that
`data.list=''` in a script without a shell is a file called `''`, and `data.list=` is none. Numbers, lists and mappings
are YAML. In a file, too, `root: 007` is the folder 007, but YAML's own signs need quotes there (`root: "/my #1 set"`),
and `${section.key}` in it refers to another setting. Nothing in a file refers to the outside: `${oc.env:HOME}` is
refused, as a file may come from anybody and what it says is kept in the run.

A setting that is given and has no effect in a run is named in one warning, with what it needs: `labelling.tol needs
labelling.method=transport`. Defaults are not, nor are settings of a file that lose their effect by the command line:
`--config small 'modalities=[audio]'` needs none of that file's settings of frames.

The column *may change* says where a setting may differ from the run's first start: *on resume*, when the run goes on
(the others are refused then), or *always*, as it says where things are and how fast they go, not what is computed.

This page is made from `selavi/config/sections.py` by `python docs/make_configuration.py`.
"""


def make_page() -> str:
    """Return the page for the settings of selavi.config."""
    classes = {
        node.name: node for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
    }
    parts = [HEAD, *_section("", "Config", (), classes)]
    for field in fields(Config):
        if is_dataclass(field.type):
            parts += _section(field.name, field.type.__name__, field.metadata["about"].needs, classes)
    return "\n".join(parts)


def _section(name: str, class_name: str, needs: tuple[Need, ...], classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """A section's heading, what all of its settings need, and a row for each."""
    meanings = dict(_meanings(classes[class_name]))
    shared = f" All of these settings need {' and '.join(need.text for need in needs)}." if needs else ""
    yield f"## {name or 'At the top'}\n\n{ast.get_docstring(classes[class_name])}{shared}\n"
    yield "| setting | default | limits | may change | meaning |\n|---|---|---|---|---|"
    for entry in SETTINGS.values():
        if entry.section == name:
            may_change = {"resume": "on resume", "told": "with --change"}.get(entry.about.free, entry.about.free)
            limits = str(entry.about.limits)
            meaning = _meaning(entry, meanings[entry.field.name], needs)
            cells = [f"`{entry.key}`", f"`{_default(entry.default)}`", limits, may_change, meaning]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _meanings(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Name of each field and the string that follows it, empty where there is none."""
    for field, after in zip(section.body, [*section.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield field.target.id, " ".join(str(after.value.value).split()) if is_text else ""


def _meaning(entry: Setting, meaning: str, shared: tuple[Need, ...]) -> str:
    """The field's docstring, its choices where it does not name them all, and what it needs beyond its section."""
    parts = [meaning]
    if get_origin(entry.field.type) is Literal:
        choices = [str(choice) for choice in get_args(entry.field.type)]
        if not all(choice in meaning for choice in choices):
            parts.append(f"One of {', '.join(choices)}.")
    own = [need.text for need in entry.about.needs if need not in shared]
    if own:
        parts.append(f"Needs {' and '.join(own)}.")
    return " ".join(filter(None, parts)) if meaning else ""


def _default(value: Any) -> str:
    """As it would stand in a YAML file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list | dict):
        return str(list(value) if isinstance(value, tuple) else value).replace("'", "")
    return "null" if value is None else str(value) or "''"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
