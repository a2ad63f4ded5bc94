"""What every command line shares: how it is read, and how a command ends: with a message and an exit code."""

import argparse
import io
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from selavi import __version__
from selavi.errors import DataError, Interrupted, NumericError, UsageError
from selavi.filesystem import expand, explain, user_path
from selavi.memory import explain_memory
from selavi.signals import Terminated, stopping_signals
from selavi.wording import program

_MOVABLE = "If the media of RUN have moved, say where they are now with data.root=NEW; clips keep their ids."
_OWN = {"selavi", "datamodules", "tools"}
Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Command(Generic[Arguments, Result]):
    """One job of selavi, from its command line to what it prints.

    Args:
        name: as in `selavi NAME`.
        arguments: a dataclass, whose fields are the names of the options and whose defaults are theirs.
        add_arguments: describes the options to a parser.
        run: does the job; raises UsageError and the other errors of selavi.errors.
        show: prints what came out.
    """

    name: str
    about: str | None
    arguments: type[Arguments]
    add_arguments: "Callable[[Parser], None]"
    run: Callable[[Arguments], Result]
    show: Callable[[Result], None]

    def parser(self) -> "Parser":
        """Its command line, with the defaults of its arguments."""
        parser = Parser(self.name, self.about)
        self.add_arguments(parser)
        parser.set_defaults(**{f.name: f.default for f in fields(self.arguments) if f.default is not MISSING})  # type: ignore[arg-type]
        return parser

    def arguments_of(self, words: Sequence[str]) -> Arguments:
        """Read a command line."""
        return self.arguments(**vars(self.parser().read(words)))

    def main(self, words: Sequence[str]) -> int:
        """Read a command line, do the job, print what came out; returns the exit code."""
        arguments = self.arguments_of(words)
        return run_tool(lambda: self.show(self.run(arguments)))


class _HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs; lines that begin with blanks, such as examples, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in paragraphs)


class _Add(argparse.Action):
    """Adds the words to those that the option was given before, as a tuple."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: object = None) -> None:
        assert isinstance(values, list)
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *values))


class Parser(argparse.ArgumentParser):
    """The command line of a command: with `--version`, and hints where a setting was written as an option.

    The action "add" takes the words of an option that may be there several times.

    Arguments of the type Path, and of "path", which may be URLs and stay text, know ~ and ~name as home folders.

    Args:
        name: of the command, such as `train`.
        about: what it does.
    """

    def __init__(self, name: str, about: str | None = None) -> None:
        super().__init__(program(name), description=about, formatter_class=_HelpFormatter)
        self._notes: list[str] = []
        self._examples: list[str] = []
        self.register("type", Path, user_path)  # a shell leaves the ~ of --out=~/x and of "~/x" alone
        self.register("type", "path", expand)
        self.register("action", "add", _Add)
        self.add_argument("--version", action="version", version=f"selavi {__version__}")
        self._read: Callable[[Sequence[str]], argparse.Namespace] = self.parse_args

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the words of a command line."""
        return self._read(words)

    def take_settings(self, about: str, metavar: str = "section.key=value") -> None:
        """Take settings between the options, as `overrides`."""
        self.add_argument("overrides", nargs="*", metavar=metavar, help=about)
        self._read = self.parse_intermixed_args

    def add_note(self, text: str) -> None:
        """Show a paragraph below the options."""
        self._notes.append(text)

    def add_example(self, *commands: str) -> None:
        """Show commands below everything else, each on a line of its own, so that it can be pasted."""
        self._examples += commands

    def format_help(self) -> str:
        """Put notes and examples together."""
        title = "examples:" if len(self._examples) > 1 else "example:"
        examples = ["\n".join([title, *(f"  {line}" for line in self._examples)])] if self._examples else []
        self.epilog = "\n\n".join([*self._notes, *examples])
        return super().format_help()

    def take_root(self, note: str = _MOVABLE) -> None:
        """Take data.root=NEW, where media have moved, as `root`; without it, ""."""
        self.add_note(note)
        before = self._read

        def read(words: Sequence[str]) -> argparse.Namespace:
            roots = [word.removeprefix("data.root=") for word in words if word.startswith("data.root=")]
            namespace = before([word for word in words if not word.startswith("data.root=")])
            namespace.root = expand(roots[-1]) if roots else ""
            return namespace

        self._read = read

    def take_scattered_settings(self, *options: str) -> None:
        """Take section.key=value anywhere, also behind a list of words, as `settings`; with some options alone."""
        before = self._read

        def read(words: Sequence[str]) -> argparse.Namespace:
            is_taken = any(option in words for option in options)
            settings = [word for word in words if is_taken and re.match(r"[a-z_]+(\.[a-z_]+)*=", word)]
            namespace = before([word for word in words if word not in settings])
            namespace.settings = settings
            return namespace

        self._read = read

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, and with how a setting is written where one was meant."""
        takes_settings = any(action.metavar == "section.key=value" for action in self._actions)
        unknown = re.findall(r"(?:\s)--([\w.-]+)", message) if "unrecognized arguments" in message else []
        if takes_settings and unknown:
            example = f"{unknown[0]}=VALUE" if "." in unknown[0] else "trainer.max_epochs=100"
            message += f"; a setting is written without dashes, such as {example}: docs/configuration.md lists them all"
        super().error(message)


def run_tool(action: Callable[[], None]) -> int:
    """Run the action of a command and return the exit code of docs/ARCHITECTURE.md: 0, 2, 3, 4, 75 or 130.

    A crash stays a crash.  What the system refuses (memory, a full disk, a folder without permission, a name that is
    too long) is for the user to mend.  What it prints on its two streams keeps its order, also where both go into one
    file.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    received = list[str]()
    try:
        with stopping_signals() as received, _threads_in_words():
            action()
    except (UsageError, DataError, NumericError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"stopped by {received[-1] if received else 'the keyboard'}", file=sys.stderr)
        return Terminated.exit_code if received else 130
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
    except (MemoryError, RuntimeError) as error:
        words = explain_memory(error)
        if words is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        return UsageError.exit_code
    return 0


@contextmanager
def _threads_in_words() -> Iterator[None]:
    """What the system refuses a thread, such as TensorBoard's that writes its log, is said in a line, too."""
    before = threading.excepthook

    def say(fault: threading.ExceptHookArgs) -> None:
        words = explain(fault.exc_value) if isinstance(fault.exc_value, OSError) else None
        if words is None:
            before(fault)
        else:
            print(f"warning: {words}", file=sys.stderr)

    threading.excepthook = say
    try:
        yield
    finally:
        threading.excepthook = before
