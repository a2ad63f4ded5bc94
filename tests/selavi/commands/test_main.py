"""`selavi`: its commands, its help, and how each is called."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selavi import __version__
from selavi.commands import main as front
from selavi.wording import tool_name

HEAVY = {"torch", "pytorch_lightning", "torchvision", "torchaudio", "av", "pyarrow", "scipy", "sklearn", "omegaconf"}


def imported_by(words: list[str], repository: Path) -> tuple[str, set[str]]:
    """What a command line prints, and the modules that it imports."""
    script = (
        "import sys\nfrom selavi.commands.main import main\n"
        f"try:\n    code = main({words!r})\nexcept SystemExit as end:\n    code = end.code\n"
        "print('code', code)\nprint('imported', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    text, imported = done.stdout.split("imported ")
    assert "code 0" in text
    return text, set(imported.split())


def test_the_help_names_every_command_and_imports_none(repository: Path) -> None:
    text, modules = imported_by(["--help"], repository)
    for name in front.NAMES:
        assert f"\n  {name} " in text
    assert HEAVY.isdisjoint(modules)
    assert not modules & {f"selavi.commands.{name}" for name in front.NAMES}


@pytest.mark.parametrize("name", front.NAMES)
def test_the_help_of_a_command_imports_nothing_heavy(name: str, repository: Path) -> None:
    text, modules = imported_by([name, "--help"], repository)
    assert text.startswith(f"usage: selavi {name} ")
    assert HEAVY.isdisjoint(modules)


@pytest.mark.parametrize("name", front.NAMES)
def test_a_command_is_called_by_its_name_and_says_what_it_does(name: str) -> None:
    found = front.find_command(name)
    assert found.name == name
    assert found.about and found.about.strip().endswith(".")


@pytest.mark.parametrize("name", front.NAMES)
def test_no_argument_of_a_command_is_forgotten(name: str) -> None:
    """Every field has an option or a place on the command line, and every option a field."""
    found = front.find_command(name)
    options = {action.dest for action in found.parser()._actions} - {"help", "version"}
    read_elsewhere = {"root"} if "root" not in options else set()
    if name in ("compare", "embed"):
        read_elsewhere |= {"settings"}
    fields = set(found.arguments.__dataclass_fields__)
    assert options <= fields
    assert fields - options <= read_elsewhere


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main([]) == 0
    assert "look:\n  evaluate" in capsys.readouterr().out


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        front.main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"selavi {__version__}\n")


@pytest.mark.parametrize(("word", "hint"), [("tran", "did you mean train?"), ("x", "selavi --help lists them all")])
def test_an_unknown_command_is_a_usage_error(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        front.main([word, "--out", "x"])
    assert end.value.code == 2
    assert f"no command '{word}'; {hint}" in capsys.readouterr().err


@pytest.mark.parametrize("name", front.NAMES)
def test_a_script_is_known_by_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = f"selavi-{tool_name(name).replace('_', '-')}"
    monkeypatch.setattr(sys, "argv", [f"/some/bin/{script}", "--help"])
    with pytest.raises(SystemExit):
        front.script()
    assert capsys.readouterr().out.startswith(f"usage: {script} ")


@pytest.mark.parametrize(
    ("name", "words", "given"),
    [
        ("label", ["videos"], {"folder": "videos"}),
        ("doctor", [], {}),
        ("scan", ["videos"], {"root": "videos"}),
        ("embed", ["--with", "crafted"], {"encoder": "crafted", "settings": []}),
        ("prepare", ["videos", "out"], {"root": Path("videos"), "out": Path("out")}),
        ("config", ["small"], {"recipe": Path("small")}),
        ("train", [], {}),
        ("refine", ["run"], {"run": Path("run")}),
        ("refit", ["run"], {"run": Path("run")}),
        ("finetune", ["run", "--config", "small"], {"run": Path("run"), "config": Path("small")}),
        ("evaluate", [], {}),
        ("export", ["run"], {"run": Path("run")}),
        ("assign", ["run"], {"run": Path("run")}),
        ("probe", ["run"], {"run": Path("run")}),
        ("compare", ["--runs", "run"], {"runs": [Path("run")], "settings": []}),
        ("degrade", ["run"], {"runs": ["run"]}),
        ("localise", ["run", "--annotations", "a.csv"], {"run": Path("run"), "annotations": Path("a.csv")}),
        ("convert", ["run"], {"weights": Path("run")}),
    ],
)
def test_the_command_line_and_python_have_the_same_defaults(name: str, words: list[str], given: dict[str, Any]) -> None:
    command = front.find_command(name)
    assert command.arguments_of(words) == command.arguments(**given)


def test_every_command_is_in_the_test_of_defaults() -> None:
    marks = test_the_command_line_and_python_have_the_same_defaults.pytestmark
    assert [case[0] for case in marks[0].args[1]] == front.NAMES


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, front.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
    ids=["nothing", "spins", "policy"],
)
def test_threads_rest_soon_where_the_user_has_said_nothing(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    front.find_command("config")
    assert os.environ.get("GOMP_SPINCOUNT") == expected
