"""Every command that a tool prints is made by selavi.wording.command, which quotes what a shell would split."""

import ast
import re
from pathlib import Path

import pytest

from selavi.commands.main import NAMES

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(path for package in ("selavi", "datamodules", "tools") for path in (ROOT / package).rglob("*.py"))


def unquoted(source: str) -> list[int]:
    """Lines of f-strings that name a tool and put a value into its arguments."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            words = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
            if re.search(rf"(tools/\w+\.py|selavi ({'|'.join(NAMES)})) [^\n;]*\{{\}}", "".join(words)):
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_command_is_put_together_by_hand(path: Path) -> None:
    assert unquoted(path.read_text(encoding="utf-8")) == []


def test_the_walk_sees_an_unquoted_folder() -> None:
    assert unquoted("f'Next: python tools/scan.py {root}'") == [1]
    assert unquoted("f'Next: selavi scan {root}'") == [1]
    assert unquoted("f'{count} files; python tools/scan.py names them'") == []
