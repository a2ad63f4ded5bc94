"""The files of tools/: each is a command of selavi, in a checkout that is not installed as well."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selavi.commands.main import NAMES
from selavi.wording import tool_name

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("[!_]*.py"))


def test_every_command_but_the_new_ones_has_a_file() -> None:
    assert set(TOOLS) == {tool_name(name) for name in NAMES} - {"config", "label"}
    assert [path.name for path in (ROOT / "tools").glob("_*.py")] == ["__init__.py"]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_holds_no_logic(tool: str) -> None:
    tree = ast.parse((ROOT / "tools" / f"{tool}.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(tree.body) <= 7


@pytest.mark.parametrize("tool", TOOLS)
def test_it_runs_from_any_folder_where_nothing_is_installed(tool: str, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "tools" / f"{tool}.py"), "--help"]
    wide = os.environ | {"COLUMNS": "1000"}  # argparse breaks the line behind a long path of this checkout
    done = subprocess.run(command, cwd=tmp_path, env=wide, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python {ROOT}/tools/{tool}.py ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tool", TOOLS)
def test_an_unknown_option_is_a_usage_error(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = __import__(f"tools.{tool}", fromlist=["main"])
    with pytest.raises(SystemExit) as end:
        module.main(["--no-such-option"])
    assert end.value.code == 2
    assert f"usage: python tools/{tool}.py" in capsys.readouterr().err
