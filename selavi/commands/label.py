"""From a folder of videos or pictures to labels, tables and a page, in one command that chooses all settings.

Stopped, the same command goes on where it was; finished, --more trains longer.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selavi.cli import Command, Parser
from selavi.errors import UsageError
from selavi.wording import command, duration

MINUTES = 30.0
"""Minutes of training, where nothing else is asked for."""


@dataclass(frozen=True)
class LabelArguments:
    """Which folder, how many clusters, and how long it may take."""

    folder: str
    num_clusters: int | None = None
    minutes: float | None = None
    """None: MINUTES, or what the run was begun with."""
    out: Path | None = None
    more: float | None = None
    """Minutes that a finished run is trained longer; 0: as many as it was begun with."""
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class LabelResult:
    """Where everything is, and what it came to."""

    folder: str
    run: Path
    page: Path
    tables: tuple[Path, ...]
    verdict: str
    scores: str
    """What evaluation found, in lines."""
    by_hand: tuple[str, ...]
    """The commands that do the same."""
    other_splits: tuple[str, ...]
    """Clips that were not trained on."""
    seconds: float
    """Seconds that this call took; 0: everything existed before."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_note("What is chosen, and why, is said before it begins; docs/label.md explains it.")
    parser.add_example(command("label", "/my/videos"), command("label", "/my/videos", "-k", "20"))
    parser.add_argument(
        "folder", type="path", metavar="FOLDER", help="folder of videos, in any depth; never written to"
    )
    about = "how many clusters (default: suggested by the number of clips)"
    parser.add_argument("-k", "--clusters", type=int, dest="num_clusters", metavar="K", help=about)
    about = f"about how long to train at most; a small folder takes less (default: {MINUTES:g})"
    parser.add_argument("--minutes", type=float, metavar="M", help=about)
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: runs/NAME of the folder)")
    about = "train a finished run so many minutes longer (default: as long as --minutes), then measure and write again"
    parser.add_argument("--more", type=float, nargs="?", const=0.0, metavar="MINUTES", help=about)
    parser.take_settings("settings in place of the chosen ones")


def label(arguments: LabelArguments) -> LabelResult:
    """Look, plan, train, measure and export; whatever of it is not done yet."""
    _check(arguments)
    from selavi.commands.label_run import label_run

    return label_run(arguments)


def _check(arguments: LabelArguments) -> None:
    """Refuse what cannot be done; imports no torch."""
    from datamodules.index.scan import require_media
    from datamodules.stores.shards import is_prepared
    from selavi.commands.checks import above_zero, at_least, output_folder

    if arguments.minutes is not None:
        above_zero(arguments, "minutes")
    at_least(arguments, more=0)
    if "://" not in arguments.folder and not is_prepared(arguments.folder):
        require_media(Path(arguments.folder), allow_links=True, pictures=are_pictures(arguments))
    if arguments.num_clusters is not None and arguments.num_clusters < 2:
        raise UsageError(f"-k must be at least 2 (one cluster would hold every clip), got {arguments.num_clusters}")
    output_folder("--out", run_folder(arguments))


def are_pictures(arguments: LabelArguments) -> bool:
    """Whether still pictures are labelled: the settings say so, or a folder holds them and no recording."""
    from datamodules.index.scan import holds_pictures_alone
    from selavi.config import load_config
    from selavi.modalities import reads_stills

    if any(word.startswith("modalities=") for word in arguments.overrides):
        return reads_stills(load_config(None, arguments.overrides))
    return os.path.isdir(arguments.folder) and holds_pictures_alone(Path(arguments.folder), allow_links=True)


def run_folder(arguments: LabelArguments) -> Path:
    """Where everything goes."""
    return arguments.out or Path("runs") / (Path(arguments.folder).absolute().name or "videos")


def again(arguments: LabelArguments, *words: str) -> str:
    """The command that goes on with the same run."""
    out = ("--out", arguments.out) if arguments.out else ()
    return command("label", arguments.folder, *out, *words)


def show(result: LabelResult) -> None:
    """Say where page and table are, what they are worth, and what can be done next."""
    done = (
        f"done in {duration(result.seconds)}" if result.seconds else f"{result.run} is finished; nothing was left to do"
    )
    print(f"\n{done}\n", file=sys.stderr)
    print(result.scores)
    tables = "\n         ".join(map(str, reversed(result.tables)))
    print(f"\npage:    {result.page}  (open it in a browser)\ntable:   {tables}", file=sys.stderr)
    print(f"labels:  {result.verdict}", file=sys.stderr)
    steps = [
        (
            "look through the page, name clusters, save names.csv:",
            command("export", result.run, "--names", "names.csv"),
        ),
        ("label clips that were never seen:", command("assign", result.run, "/new/videos")),
        ("train longer:", command("label", result.folder, "--out", result.run, "--more")),
    ]
    steps += [
        (f"label the clips of split {split}, which took no part:", command("evaluate", result.run, "--split", split))
        for split in result.other_splits
    ]
    print("\nNext:", file=sys.stderr)
    for about, line in steps:
        print(f"  {about}\n    {line}", file=sys.stderr)
    print("The same by hand, to change any setting:", file=sys.stderr)
    for line in result.by_hand:
        print(f"    {line}", file=sys.stderr)


COMMAND = Command("label", __doc__, LabelArguments, add_arguments, label, show)
