"""Write docs/commands.md from the parsers of selavi/commands: python docs/make_commands.py."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import Parser
from selavi.commands.main import GROUPS, find_command
from selavi.wording import called_as, tool_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "commands.md"
HEAD = """\
# Commands

One command, `selavi`, with a subcommand for each job. `selavi --help` lists them, `selavi COMMAND --help` explains one,
`selavi --version` prints the version. `python -m selavi COMMAND` does the same. So does the file in `tools/` that is
named with each command; it works in a checkout that is not installed. Next steps are printed in the form in which
selavi was called.

Settings (`section.key=value`) are listed in [configuration.md](configuration.md). Exit codes: 0 done; 1 crash; 2 wrong
argument, setting or input; 3 more bad files than `data.max_bad_fraction` allows; 4 a number that is not finite; 75
stopped, can be resumed; 130 stopped by the keyboard.

For completion in the shell: `pip install 'selavi[completion]'`, then `eval "$(register-python-argcomplete selavi)"` in
`~/.bashrc`.

This page is made from the commands themselves by `python docs/make_commands.py`.
"""


def make_page() -> str:
    """Return the page."""
    with called_as("selavi", "{name}"):
        return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for title, group in GROUPS.items():
        yield f"## {title.capitalize()}\n"
        for name in group:
            parser = find_command(name).parser()
            yield f"### selavi {name}\n"
            yield f"{_sentences(parser)}\n"
            yield f"```\n{_usage(parser)}\n```\n"
            if (ROOT / "tools" / f"{tool_name(name)}.py").exists():
                yield f"Also: `python tools/{tool_name(name)}.py`.\n"
            yield "| argument | meaning |\n|---|---|"
            yield from map(_row, _arguments(parser))
            yield ""
            yield from _below(parser)


def _sentences(parser: Parser) -> str:
    """The description, its lines joined."""
    return "\n\n".join(" ".join(part.split()) for part in (parser.description or "").split("\n\n"))


def _usage(parser: Parser) -> str:
    """One line, the options left to the table."""
    places = [_name(action) for action in _arguments(parser) if not action.option_strings]
    return " ".join([parser.prog, "[OPTIONS]", *places])


def _arguments(parser: Parser) -> list[argparse.Action]:
    places = [action for action in parser._actions if not action.option_strings]
    options = [action for action in parser._actions if action.option_strings]
    return places + [action for action in options if action.dest not in ("help", "version")]


def _row(action: argparse.Action) -> str:
    meaning = (action.help or "").replace("%%", "%")
    return f"| `{_name(action)}` | {meaning} |".replace("||", "\\|\\|")


def _name(action: argparse.Action) -> str:
    """An argument as it is written: `--views VIEWS`, `RUN ...`."""
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    if action.nargs in ("+", "*"):
        metavar += " ..."
    if not action.option_strings:
        return metavar
    return action.option_strings[-1] if action.nargs == 0 else f"{action.option_strings[-1]} {metavar}"


def _below(parser: Parser) -> Iterator[str]:
    """The notes as paragraphs, and the examples."""
    parser.format_help()
    notes, _, examples = (parser.epilog or "").rpartition("example")
    if notes.strip():
        yield f"{notes.strip()}\n"
    lines = [line.strip() for line in examples.splitlines()[1:]]
    yield "\n".join(["```", *lines, "```\n"])


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
