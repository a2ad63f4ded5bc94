"""Say where in the picture the thing is: a box a clip and moment, as a table and for tools.

With --annotations: measure whether the maps point where people drew boxes, beside what needs no model.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selavi.cli import Command, Parser
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.scores.boxes import Localisation

OWN = "map"
"""The row of the run's own maps."""
MAPS = ("evidence", "windows", "contrast", "heard")
"""Kinds of maps: keys of selavi.localisation.maps.MAP_KINDS, which needs torch."""
FIRST_MAPS = "evidence"
"""What tables of boxes are of that do not say it."""


@dataclass(frozen=True)
class LocaliseArguments:
    """Whose maps, and what is made of them."""

    run: Path
    annotations: Path | None = None
    """What the maps are compared with; None: nothing is measured."""
    format: str = "table"
    split: str | None = None
    """None: the training split."""
    head: str = "chosen"
    root: str = ""
    clips: Sequence[str] = ()
    """Whose boxes are written; none: those of all."""
    to: Sequence[str] = ()
    """Tools that the boxes are handed over to."""
    maps: str = "contrast"
    """The kind of the maps."""
    segments: int = 0
    """Groups that the pictures are sorted into by what the maps show; 0: they are not."""

    @property
    def writes_boxes(self) -> bool:
        """Whether boxes are asked for, and not figures alone."""
        return self.annotations is None or bool(self.clips or self.to or self.segments)


@dataclass(frozen=True)
class Measured:
    """Figures of the maps and of each prior, and the file that holds them."""

    figures: "dict[str, Localisation]"
    notes: tuple[str, ...]
    """What was changed or left out of the annotations."""
    path: Path


@dataclass(frozen=True)
class WrittenBoxes:
    """The table of boxes, and what was handed over."""

    path: Path
    num_boxes: int
    num_clips: int
    handed: dict[str, Path]
    """By format, what to open."""
    notes: tuple[str, ...]
    """What was left out."""


@dataclass(frozen=True)
class LocaliseResult:
    """What was measured and written of a head's maps."""

    split: str
    head: int
    maps: str
    measured: Measured | None
    boxes: WrittenBoxes | None
    worth: str
    """What is known of how well the maps point, in words."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    measure = command("localise", "runs/mine", "--annotations", "boxes.csv", "--split", "test")
    parser.add_example(command("localise", "runs/mine", "--to", "coco", "cvat"), measure)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo")
    about = "clips whose boxes are written, by id, with or without suffix and folders (default: all of the split)"
    parser.add_argument("clips", nargs="*", metavar="CLIP", help=about)
    about = "also write RUN/localise/handover/FORMAT, with the pictures: coco, yolo, cvat, labelstudio, fiftyone"
    parser.add_argument("--to", nargs="+", metavar="FORMAT", help=about)
    about = "also sort the pictures into K groups, by K-means over features inside the maps: the column `segment`"
    parser.add_argument("--segments", type=int, metavar="K", help=about)
    about = "measure instead: boxes or masks that people drew, as a table with the columns id, time_s, x, y, w, h and "
    about += "perhaps label, or of --format; with clips, --to or --segments, do both"
    parser.add_argument("--annotations", type=Path, metavar="FILE", help=about)
    about = "table (default), vggss, flickr_soundnet, music, audioset_instrument, avsbench or coco"
    parser.add_argument("--format", metavar="NAME", help=f"how the annotations are written: {about}")
    about = "contrast (default): what stands out of the picture, whatever the cluster; evidence: what the "
    about += "model goes by for the clip's cluster; windows: which of 16 parts of the picture look like the cluster, "
    about += "better where several things are in one picture; or heard: which of them look like what is heard then, "
    about += "best where one of several things sounds"
    parser.add_argument("--maps", metavar="NAME", help=about)
    about = "clips to look at, which must have labels (default: the training split)"
    parser.add_argument("--split", metavar="NAME", help=about)
    about = "head whose clusters are explained (default: the one chosen without labels)"
    parser.add_argument("--head", metavar="N", help=about)
    parser.take_root()


def localise(arguments: LocaliseArguments) -> LocaliseResult:
    """Measure and write what is asked for; see selavi/commands/localise_run.py."""
    _check(arguments)
    from selavi.commands.localise_run import localise_run

    return localise_run(arguments)


def _check(arguments: LocaliseArguments) -> None:
    """Refuse what cannot be done; imports no torch."""
    from datamodules.index.annotations import FORMATS
    from selavi.commands.checks import require, run_clips, run_folder_to_write
    from selavi.results.handover.boxes import BOX_FORMATS

    for name in arguments.to:
        require(name in BOX_FORMATS, f"--to {name}: expected some of {', '.join(BOX_FORMATS)}")
    require(arguments.maps in MAPS, f"--maps {arguments.maps}: there is no such kind; there are {', '.join(MAPS)}")
    segments = arguments.segments
    require(segments == 0 or segments >= 2, f"--segments {segments}: expected 2 or more, or nothing")
    config, _ = run_clips(arguments.run, arguments.split)
    names = ", ".join(FORMATS)
    require(arguments.format in FORMATS, f"--format {arguments.format}: there is no such format; there are {names}")
    fits = arguments.head == "chosen" or arguments.head in map(str, range(config.num_label_heads))
    require(fits, f"--head {arguments.head}: the run has heads 0 to {config.num_label_heads - 1}")
    run_folder_to_write(arguments.run)


def show(result: LocaliseResult) -> None:
    """Print the table of figures, what it says, and what was written."""
    if measured := result.measured:
        _show_figures(measured, result)
    if boxes := result.boxes:
        for note in boxes.notes:
            print(note, file=sys.stderr)
        about = f"split {result.split}, head {result.head}, by {result.maps}"
        print(f"{boxes.num_boxes} boxes in {boxes.num_clips} clips of {about}")
        print(f"boxes: {boxes.path}", file=sys.stderr)
        for name, path in boxes.handed.items():
            print(f"{name}: {path}", file=sys.stderr)
        if boxes.handed:
            readme = next(iter(boxes.handed.values())).parents[1] / "README.txt"
            print(f"how to open them: {readme}", file=sys.stderr)
    print(f"\n{result.worth}")


def _show_figures(measured: Measured, result: LocaliseResult) -> None:
    for note in measured.notes:
        print(note, file=sys.stderr)
    own = measured.figures[OWN]
    print(f"{result.maps} of head {result.head} in {own.num_pictures} annotated pictures of split {result.split}\n")
    print(f"{'':20} {'pointing':>9} {'IoU':>6} {'success':>8} {'area':>6} {'pixels':>7}")
    for name, figures in measured.figures.items():
        values = (figures.pointing, figures.mean_iou, figures.success, figures.area, figures.pixel_precision)
        cells = (f"{value:{width}.2f}" for value, width in zip(values, (9, 6, 8, 6, 7), strict=True))
        print(f"{name:20} {' '.join(cells)}")
    print(f"figures: {measured.path}; what each is: docs/evidence.md", file=sys.stderr)


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
