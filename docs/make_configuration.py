"""Write docs/configuration.md from the dataclasses of selavi/config/sections.py: python docs/make_configuration.py."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, PAGE = ROOT / "selavi" / "config" / "sections.py", ROOT / "docs" / "configuration.md"

HEAD = """\
# Settings

Every setting, its default and its meaning. The defaults are the published VGG-Sound recipe; a file in `configs/` holds
only what differs from them, and `section.key=value` on the command line overrides both:

```
python tools/train.py --config configs/small.yaml data.root=/my/videos heads.num_clusters=20 'modalities=[video]'
```

An unknown setting is refused with the nearest name, a value out of its limits with the limits. What a run used is in
its folder, and that file is a configuration like any other: `--config RUN/config.resolved.yaml run_dir=runs/again`.

Paths, names and words are taken as they are written, from the first `=` on: `data.root=/data/my #1 set`, `run_dir=1e3`
and `data.root=/a${b}` are what they say. Quotes belong to the shell; one that arrives belongs to the name, so that
`data.list=''` in a script without a shell is a file called `''`, and `data.list=` is none. Numbers, lists and mappings
are YAML. In a file, too, `root: 007` is the folder 007, but YAML's own signs need quotes there (`root: "/my #1 set"`),
and `${section.key}` in it refers to another setting.

This page is made from `selavi/config/sections.py` by `python docs/make_configuration.py`.
"""


def make_page(source: str) -> str:
    """Return the page for the source text of selavi/config/sections.py."""
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    sections = {field.target.id: ast.unparse(field.annotation) for field, _ in _fields(classes["Config"])}
    parts = [HEAD, *_section("", classes["Config"], classes)]
    for name, kind in sections.items():
        if kind in classes:
            parts += _section(name, classes[kind], classes)
    return "\n".join(parts)


def _section(name: str, section: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    yield f"## {name or 'At the top'}\n\n{ast.get_docstring(section)}\n"
    yield "| setting | default | meaning |\n|---|---|---|"
    for field, meaning in _fields(section):
        if ast.unparse(field.annotation) not in classes:
            key = f"{name}.{field.target.id}".lstrip(".")
            cells = [f"`{key}`", f"`{_default(field.value)}`", _meaning(field.annotation, meaning)]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _fields(section: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Each field and the string that follows it, empty where there is none."""
    for field, after in zip(section.body, [*section.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield field, " ".join(str(after.value.value).split()) if told else ""


def _meaning(annotation: ast.expr, meaning: str) -> str:
    """The field's docstring, and its choices where it does not name them all."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        choices = [str(choice) for choice in ast.literal_eval(annotation.slice)]
        if not all(choice in meaning for choice in choices):
            return f"{meaning} One of {', '.join(choices)}.".strip()
    return meaning


def _default(value: ast.expr | None) -> str:
    """As it would stand in a YAML file."""
    if isinstance(value, ast.Call):  # field(default_factory=...)
        factory = value.keywords[0].value
        assert isinstance(factory, ast.Lambda)
        text = ast.unparse(factory.body)
        return {"list(MODALITIES)": "[video, audio]"}.get(text, text).replace("'", "")
    assert value is not None
    default = ast.literal_eval(value)
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return str(list(default))
    return {None: "null", "": "''"}.get(default, str(default))


if __name__ == "__main__":
    PAGE.write_text(make_page(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
