"""Measure whether the evidence for a clip's cluster lies where people drew boxes, beside what needs no model."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selavi.cli import Command, Parser
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.scores.boxes import Localisation

OWN = "map"
"""The row of the run's own maps."""


@dataclass(frozen=True)
class LocaliseArguments:
    """Whose maps, and what they are compared with."""

    run: Path
    annotations: Path
    format: str = "table"
    split: str | None = None
    """None: the training split."""
    head: str = "chosen"
    root: str = ""


@dataclass(frozen=True)
class LocaliseResult:
    """Figures of the maps and of each prior, and the file that holds them."""

    figures: "dict[str, Localisation]"
    split: str
    head: int
    notes: tuple[str, ...]
    """What was changed or left out of the annotations."""
    path: Path


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_example(command("localise", "runs/mine", "--annotations", "boxes.csv", "--split", "test"))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo")
    about = "boxes or masks that people drew: a table with the columns id, time_s, x, y, w, h and perhaps label"
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help=f"{about}, or of --format")
    about = "table (default), vggss, flickr_soundnet, music, audioset_instrument, avsbench or coco"
    parser.add_argument("--format", metavar="NAME", help=f"how the annotations are written: {about}")
    about = "clips to look at, which must have labels (default: the training split)"
    parser.add_argument("--split", metavar="NAME", help=about)
    about = "head whose clusters are explained (default: the one chosen without labels)"
    parser.add_argument("--head", metavar="N", help=about)
    parser.take_root()


def localise(arguments: LocaliseArguments) -> LocaliseResult:
    """Compare the maps of annotated clips with the boxes; see selavi/commands/localise_run.py."""
    _check(arguments)
    from selavi.commands.localise_run import localise_run

    return localise_run(arguments)


def _check(arguments: LocaliseArguments) -> None:
    """Refuse what cannot be done; imports no torch."""
    from datamodules.index.annotations import FORMATS
    from selavi.commands.checks import require, run_clips

    config, _ = run_clips(arguments.run, arguments.split)
    names = ", ".join(FORMATS)
    require(arguments.format in FORMATS, f"--format {arguments.format}: there is no such format; there are {names}")
    fits = arguments.head == "chosen" or arguments.head in map(str, range(config.num_label_heads))
    require(fits, f"--head {arguments.head}: the run has heads 0 to {config.num_label_heads - 1}")


def show(result: LocaliseResult) -> None:
    """Print the table, what it says, and where it is."""
    for note in result.notes:
        print(note, file=sys.stderr)
    own = result.figures[OWN]
    print(f"evidence of head {result.head} in {own.num_pictures} annotated pictures of split {result.split}\n")
    print(f"{'':20} {'pointing':>9} {'IoU':>6} {'success':>8} {'area':>6} {'pixels':>7}")
    for name, figures in result.figures.items():
        values = (figures.pointing, figures.mean_iou, figures.success, figures.area, figures.pixel_precision)
        cells = (f"{value:{width}.2f}" for value, width in zip(values, (9, 6, 8, 6, 7), strict=True))
        print(f"{name:20} {' '.join(cells)}")
    print(f"\n{verdict(result.figures)}")
    print(f"figures: {result.path}; what each is: docs/evidence.md", file=sys.stderr)


def verdict(figures: "dict[str, Localisation]") -> str:
    """What the table says of the maps: whether they point better than what needs no model."""
    own = figures[OWN]
    name, best = max(((name, row) for name, row in figures.items() if name != OWN), key=lambda pair: pair[1].pointing)
    noise = math.sqrt(sum(row.pointing * (1 - row.pointing) for row in (own, best)) / own.num_pictures)
    said = f"the maps point into a box in {own.pointing:.0%} of the pictures, {name} in {best.pointing:.0%}"
    if own.pointing > best.pointing + 2 * noise:
        return f"{said}: the maps say where it is better than anything here that needs no model"
    if own.pointing < best.pointing - 2 * noise:
        return f"{said}: to find things in these clips, do not use the maps; they show what the model looks at"
    return f"{said}: no difference beyond chance (two standard errors are {2 * noise:.0%})"


COMMAND = Command("localise", __doc__, LocaliseArguments, add_arguments, localise, show)
