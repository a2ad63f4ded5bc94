import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "tools").glob("[!_]*.py"))
HEAVY = {"torch", "pytorch_lightning", "torchvision", "torchaudio", "av", "pyarrow", "scipy", "sklearn", "omegaconf"}


@pytest.mark.parametrize("tool", TOOLS)
def test_help_answers_before_anything_heavy_is_imported(tool: str, repository: Path) -> None:
    script = (
        "import sys\n"
        f"from tools import {tool}\n"
        "try:\n"
        f"    {tool}.main(['--help'])\n"
        "except SystemExit as end:\n"
        "    print('ended with', end.code)\n"
        "print('imported', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    text, imported = done.stdout.split("imported ")
    assert text.startswith("usage: selavi-")
    assert "ended with 0" in text
    assert HEAVY.isdisjoint(imported.split())


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_runs_as_a_file_from_any_folder(tool: str, repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(repository / "tools" / f"{tool}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: selavi-")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tool", TOOLS)
def test_an_unknown_option_is_a_usage_error(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = __import__(f"tools.{tool}", fromlist=["main"])
    with pytest.raises(SystemExit) as end:
        module.main(["--no-such-option"])
    assert end.value.code == 2
    assert "usage: selavi-" in capsys.readouterr().err
