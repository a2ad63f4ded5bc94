import importlib.util
import re
from pathlib import Path

from selavi.commands.main import NAMES, find_command

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_commands", ROOT / "docs" / "make_commands.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.make_page() == PAGE, "run python docs/make_commands.py"


def test_every_option_of_every_command_is_on_it_with_its_meaning() -> None:
    sections = dict(zip(NAMES, re.split(r"^### selavi \w+$", PAGE, flags=re.MULTILINE)[1:], strict=True))
    for name, text in sections.items():
        for action in find_command(name).parser()._actions:
            if action.dest not in ("help", "version"):
                option = action.option_strings[-1] if action.option_strings else ""
                assert re.search(rf"^\| `{re.escape(option)}[^`]*` \| \w", text, re.MULTILINE), (name, action.dest)
