import importlib.util
from dataclasses import fields, is_dataclass
from pathlib import Path

from selavi.config import Config

ROOT = Path(__file__).resolve().parents[2]


def _page() -> tuple[str, str]:
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_page(), module.PAGE.read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    made, found = _page()
    assert found == made, "run python docs/make_configuration.py"


def test_every_setting_has_a_row() -> None:
    rows = [line.split(" | ") for line in _page()[0].splitlines() if line.startswith("| `")]
    expected = set()
    for entry in fields(Config):
        section = getattr(Config(), entry.name)
        if is_dataclass(section):
            expected |= {f"{entry.name}.{inner.name}" for inner in fields(section)}
        elif entry.name != "own":  # no setting: sections of named modalities
            expected.add(entry.name)
    assert {row[0].strip("| `") for row in rows} == expected


def test_every_setting_is_explained() -> None:
    unexplained = [line for line in _page()[0].splitlines() if line.endswith("|  |")]
    assert not unexplained, f"settings without a meaning; give them a docstring: {unexplained}"
