import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selavi import __version__
from selavi.cli import Parser, run_tool
from selavi.commands.main import NAMES, find_command
from selavi.config import load_config
from selavi.errors import Interrupted, UsageError

TOOLS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "tools").glob("[!_]*.py"))


def settings_parser() -> Parser:
    parser = Parser("train", "Train.")
    parser.add_argument("--config")
    parser.take_settings("settings")
    return parser


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--data.root", "/videos"], "without dashes, such as data.root=VALUE"),
        (["--epochs", "10"], "without dashes, such as trainer.max_epochs=100"),
        (["--optim.lr=0.1"], "without dashes, such as optim.lr=VALUE"),
    ],
)
def test_a_setting_written_as_an_option_is_explained(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        settings_parser().parse_args(words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "unrecognized arguments" in error and hint in error and "docs/configuration.md" in error


def test_a_tool_without_settings_gives_no_such_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Parser("scan", "Scan.").parse_args(["--data.root", "x"])
    assert "without dashes" not in capsys.readouterr().err


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_knows_its_version(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = __import__(f"tools.{tool}", fromlist=["main"])
    with pytest.raises(SystemExit) as end:
        module.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"selavi {__version__}\n"


ARGUMENTS = {
    "train": ["--config", "small", "data.root=/nowhere"],
    "scan": ["/nowhere"],
    "prepare": ["/nowhere", "out"],
    "cluster_eval": ["runs/none"],
    "export_clusters": ["runs/none"],
    "compare": ["--runs", "runs/none"],
    "degrade": ["runs/none"],
    "refine": ["runs/none"],
    "refit": ["runs/none"],
    "probe": ["runs/none"],
    "finetune": ["runs/none", "--config", "finetune_small"],
    "convert": ["runs/none"],
    "assign": ["runs/none", "/nowhere"],
    "doctor": [],
}


@pytest.mark.parametrize("tool", sorted(ARGUMENTS))
def test_without_the_packages_a_tool_says_what_to_activate(tool: str, repository: Path, tmp_path: Path) -> None:
    """An interpreter without any installed package: -S leaves site-packages out."""
    command = [sys.executable, "-I", "-S", str(repository / "tools" / f"{tool}.py"), *ARGUMENTS[tool]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "selavi's packages are not installed for" in done.stderr and ".venv/bin/activate" in done.stderr


def test_a_module_of_our_own_that_is_missing_is_a_crash() -> None:
    def action() -> None:
        raise ModuleNotFoundError("No module named 'selavi.gone'", name="selavi.gone")

    with pytest.raises(ModuleNotFoundError):
        run_tool(action)


def test_both_streams_keep_their_order_in_one_file(repository: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom selavi.cli import run_tool\n"
        "def action():\n    print('table')\n    print('Next: ...', file=sys.stderr)\n    print('more')\n"
        "run_tool(action)\n"
    )
    log = tmp_path / "log"
    with log.open("w") as file:
        subprocess.run([sys.executable, "-c", script], cwd=repository, stdout=file, stderr=file, check=True)
    assert log.read_text() == "table\nNext: ...\nmore\n"


def test_an_interruption_says_only_what_it_was_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def action() -> None:
        raise Interrupted("stopped by a signal; nothing is kept")

    monkeypatch.setattr(sys, "stdout", io.StringIO())  # a stream that cannot be reconfigured
    assert run_tool(action) == 75
    assert capsys.readouterr().err == "stopped by a signal; nothing is kept\n"


def test_an_error_ends_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        raise UsageError("no such folder")

    assert run_tool(action) == 2
    assert capsys.readouterr().err == "error: no such folder\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_path_argument_of_every_command_knows_the_home_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    parser = find_command(name).parser()
    for action in parser._actions:
        is_path = action.type in (Path, "path") or action.dest in ("root", "out", "paths", "list", "cache_dir", "run")
        if is_path and action.nargs != 0:
            assert action.type in (Path, "path"), action
            assert str(parser._get_value(action, "~/a b")) == "/home/me/a b"


def test_settings_that_are_paths_know_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    names = ("data.root", "data.list", "data.cache_dir", "run_dir", "encoders.init")
    config = load_config(None, [f"{name}=~/a b/{name}" for name in names])
    assert config.data.root == "/home/me/a b/data.root" and config.data.list == "/home/me/a b/data.list"
    assert config.data.cache_dir == "/home/me/a b/data.cache_dir"
    assert (config.run_dir, config.encoders.init) == ("/home/me/a b/run_dir", "/home/me/a b/encoders.init")
    for url in ("s3://bucket/~me/set", "https://x.org/a//b?c=~", "file:///mnt/slow/set"):
        assert load_config(None, [f"data.root={url}"]).data.root == url


def test_words_of_an_option_that_is_there_several_times_are_added() -> None:
    parser = Parser("assign")
    parser.add_argument("--file", nargs="+", action="add")
    parser.set_defaults(file=())
    assert parser.read(["--file", "a", "b", "--file", "c"]).file == ("a", "b", "c")
    assert parser.read([]).file == ()


def test_a_signal_is_told_apart_from_the_keyboard_also_where_a_library_makes_one_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ray raises a plain KeyboardInterrupt for whatever ends its waiting."""

    def wait() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    def press() -> None:
        raise KeyboardInterrupt

    assert run_tool(wait) == 75
    assert capsys.readouterr().err == "stopped by SIGTERM\n"
    assert run_tool(press) == 130
    assert capsys.readouterr().err == "stopped by the keyboard\n"
