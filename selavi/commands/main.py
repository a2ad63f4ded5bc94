"""The front door: `selavi NAME`, `python -m selavi NAME`, the scripts selavi-NAME and the files of tools/."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from selavi import __version__
from selavi.cli import Command
from selavi.wording import called_as, tool_name

GROUPS: dict[str, dict[str, str]] = {
    "start": {
        "label": "from a folder of videos to clusters and a page to look through, in one command",
    },
    "get ready": {
        "doctor": "check whether this machine can train, and what would slow it down",
        "scan": "look into every file of a folder: which can be used, and why others cannot",
        "embed": "write vectors of clips from any encoder, to train on or to use elsewhere",
        "prepare": "re-encode a folder once, so that training reads it fast",
        "config": "print the settings of a run, and where each came from",
    },
    "learn": {
        "train": "learn encoders and label every clip",
        "refine": "learn the names that were given to clusters, and give them to all clips",
        "refit": "fit new heads to a finished run, also for another number of clusters",
        "finetune": "train a finished run's encoder on labels",
    },
    "look": {
        "evaluate": "measure the clusters: NMI, ARI, accuracy and others",
        "export": "write the clusters as tables and as a page to look through",
        "assign": "label new clips with the clusters of a run",
        "probe": "measure what the features are worth with frozen encoders",
        "compare": "compare recipes, runs or arrays of features over several seeds",
        "degrade": "measure how well clusters hold when picture or sound is degraded",
        "localise": "put boxes around evidence, or measure it beside boxes that people drew",
    },
    "weights": {
        "convert": "write weights for other programs: safetensors, torch.export, ONNX",
    },
}
"""The commands, as `selavi --help` groups them; each is a module of this folder with its COMMAND."""
NAMES = [name for group in GROUPS.values() for name in group]


SPINS = "1000"
"""Turns that a thread of GNU OpenMP, which torch has on Linux, waits for the others before it sleeps.  Its own choice,
300,000, stalls everything where other work needs the cores (docs/results/waiting_threads.md)."""


def find_command(name: str) -> Command[Any, Any]:
    """Import a command: the others stay unread; before torch is, which reads how its threads shall wait only once."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    command: Command[Any, Any] = import_module(f"selavi.commands.{name}").COMMAND
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """`selavi NAME ...`; returns the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could be typed next
        from selavi.commands.completion import complete

        complete(NAMES)
    is_module = argv is None and Path(sys.argv[0]).name == "__main__.py"
    with called_as(*(["python", "-m", "selavi"] if is_module else ["selavi"]), "{name}"):
        return _dispatch(sys.argv[1:] if argv is None else argv)


def script() -> int:
    """The scripts selavi-NAME, each by the name that it was called by; returns the exit code."""
    called = Path(sys.argv[0]).stem.removeprefix("selavi-").replace("-", "_")
    name = next(name for name in NAMES if tool_name(name) == called)
    with called_as("selavi-{script}"):
        return find_command(name).main(sys.argv[1:])


def tool(name: str, file: str) -> Callable[..., int]:
    """The main function of a file in tools/: words of its command line -> exit code."""

    def run(argv: Sequence[str] | None = None) -> int:
        typed = Path(sys.argv[0])
        folder = typed.parent if typed.name == Path(file).name else Path("tools")
        with called_as("python", f"{folder}/{{tool}}.py"):
            return find_command(name).main(sys.argv[1:] if argv is None else argv)

    return run


def _dispatch(words: Sequence[str]) -> int:
    if words and words[0] in NAMES:
        return find_command(words[0]).main(words[1:])
    parser = argparse.ArgumentParser(
        "selavi",
        usage="selavi COMMAND ...",
        description="Sort videos with sound into clusters, without human labels, and look through the clusters.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"selavi {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    unknown = parser.parse_args(words[:1]).command
    if unknown is None:
        parser.print_help()
        return 0
    near = get_close_matches(unknown, NAMES, 1)
    parser.error(f"no command {unknown!r}; {f'did you mean {near[0]}?' if near else 'selavi --help lists them all'}")


def _overview() -> str:
    lines = []
    for title, group in GROUPS.items():
        lines.append(f"{title}:")
        lines += [f"  {name:10} {about}" for name, about in group.items()]
        lines.append("")
    return "\n".join([*lines, "selavi COMMAND --help explains a command."])
