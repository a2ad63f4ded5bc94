"""What all tools share: how a command line is read, and how a tool ends: a message and an exit code."""

import argparse
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from selavi import __version__
from selavi.errors import DataError, Interrupted, NumericError, UsageError
from selavi.filesystem import expand, explain, user_path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""Selavi's own recipes."""
_MOVABLE = "data.root=NEW, anywhere: the media of RUN are there now; clips keep their ids."
_OWN = {"selavi", "datamodules", "tools"}


class Parser(argparse.ArgumentParser):
    """The command line of a tool: with `--version`, and hints where a setting was written as an option.

    Arguments of the type Path, and of "path", which may be URLs and stay text, know ~ and ~name as home folders.

    Args:
        tool: its name, such as `train`.
        about: what it does.
        epilog: examples, below the list of options.
        verbatim: keep the lines of the epilog as they are.
        movable: it reads media of runs, and is told of a new place with data.root=NEW; see parse_with_root.
    """

    def __init__(
        self, tool: str, about: str | None, epilog: str | None = None, verbatim: bool = False, movable: bool = False
    ) -> None:
        if movable:
            epilog = f"{_MOVABLE}{chr(10) if verbatim else ' '}{epilog or ''}"
        shape = argparse.RawDescriptionHelpFormatter if verbatim else argparse.HelpFormatter
        super().__init__(f"selavi-{tool}", description=about, epilog=epilog, formatter_class=shape)
        self.register("type", Path, user_path)  # a shell leaves the ~ of --out=~/x and of "~/x" alone
        self.register("type", "path", expand)
        self.add_argument("--version", action="version", version=f"selavi {__version__}")

    def parse_with_root(
        self, argv: list[str] | None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Read a command line that may say data.root=NEW, where a run's media have moved: `root`, or ""."""
        words = sys.argv[1:] if argv is None else argv
        roots = [word.removeprefix("data.root=") for word in words if word.startswith("data.root=")]
        args = self.parse_args([word for word in words if not word.startswith("data.root=")], namespace)
        args.root = expand(roots[-1]) if roots else ""
        return args

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, and with how a setting is written where one was meant."""
        takes_settings = any(action.metavar == "section.key=value" for action in self._actions)
        unknown = re.findall(r"(?:\s)--([\w.-]+)", message) if "unrecognized arguments" in message else []
        if takes_settings and unknown:
            example = f"{unknown[0]}=VALUE" if "." in unknown[0] else "trainer.max_epochs=100"
            message += f"; a setting is written without dashes, such as {example}: docs/configuration.md lists them all"
        super().error(message)


def run_tool(action: Callable[[], None]) -> int:
    """Run a tool's action and return the exit code of docs/ARCHITECTURE.md: 0, 2, 3, 4, 75 or 130.

    A crash stays a crash.  What the system refuses (a full disk, a folder without permission, a name that is too long)
    is for the user to mend.  What the tool prints on its two streams keeps its order, also where both go into one file.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        action()
    except (UsageError, DataError, NumericError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in _OWN:
            raise
        print(
            f"error: selavi's packages are not installed for {sys.executable} (it has no {error.name}): activate the "
            "environment that has them (. .venv/bin/activate), or install them there: "
            "python -m pip install --editable .",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        words = explain(error)
        if words is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        return UsageError.exit_code
    return 0
