"""Label new clips with the clusters of a run: files, folders, a manifest, shards, or files of vectors."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selavi.cli import Command, Parser
from selavi.commands.copies import add_copy_to, copy_results, require_store
from selavi.commands.on_ray import encode_on_ray
from selavi.commands.sharing import MOVED, add_paths, add_sharing, check_sharing
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.config import Config


@dataclass(frozen=True)
class AssignArguments:
    """Which clips, and how they are judged."""

    run: Path
    paths: Sequence[str] = ()
    out: Path | None = None
    rule: str = "balanced"
    head: str = "chosen"
    views: int = 3
    nearest: int = 3
    modalities: Sequence[str] | None = None
    features: bool = False
    shard_clips: int = 1000
    task: str | None = None
    on: str = ""
    ray_tasks: int = 0
    workers: int | None = None
    max_bad_fraction: float | None = None
    allow_links: bool = False
    layout: str = "auto"
    spreadsheet_safe: bool = False
    merge_only: bool = False
    timeline: bool = False
    timeline_media: Literal["link", "transcode"] = "link"
    piece_s: float = 0.0
    stride_s: float = 0.0
    file: Sequence[str] = ()
    ids: Sequence[str] = ()
    copy_to: str = ""
    root: str = ""


@dataclass(frozen=True)
class Timelines:
    """The segments of all recordings."""

    table: Path
    folder: Path
    """With the files of each recording."""
    page: Path | None
    """To begin with; None where no piece of a recording could be labelled."""

    def describe(self) -> str:
        """Where they are."""
        lines = [f"segments  {self.table}", f"          {self.folder}: .html .vtt .txt .rttm of each recording"]
        return "\n".join([*lines, f"look at   {self.page}"] if self.page else lines)


@dataclass(frozen=True)
class AssignResult:
    """What came out; the tables are there once all tasks are done."""

    run: Path
    out: Path
    task: tuple[int, int]
    num_shards: int
    num_missing: int
    """Shards that other tasks still have to label."""
    counts: Counter[str]
    """Clips by their status: `ok` and why others have no label."""
    tables: tuple[Path, Path] | None
    """Parquet and CSV."""
    named: bool
    """Whether RUN/names.csv gave the clusters names."""
    timeline: Timelines | None = None
    """None: not asked for, or not all is done."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_note(
        "If it is stopped or killed, the same command continues where it stopped. Many processes can share the work, "
        "with --task i/n, in a SLURM array, under torchrun or on Ray; see docs/assign.md."
    )
    parser.add_example(command("assign", "runs/mine", "/my/new/videos"))
    files = ("--file", "one=new.npy", "--ids", "one=ids.txt")
    parser.add_example(command("assign", "runs/vectors", *files))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo")
    add_paths(parser)
    about = "folder for the results (default: RUN/assigned/NAME, after the first PATH)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    about = f"balanced (default): by the plan, with the potentials from training, as {command('evaluate')} does; "
    about += "likeliest: by the largest probability"
    parser.add_argument("--rule", choices=("balanced", "likeliest"), help=about)
    about = "number of a head; `chosen` (default): the one that `evaluate` chooses without labels; or `all`"
    parser.add_argument("--head", help=about)
    about = "number of evenly spaced views of each clip; their log-probabilities are averaged (default: 3)"
    parser.add_argument("--views", type=int, metavar="N", help=about)
    parser.add_argument("--nearest", type=int, metavar="N", help="number of next best clusters to list (default: 3)")
    about = (
        "judge by these modalities alone, such as `--modalities audio` (default: all that the run and the clip have)"
    )
    parser.add_argument("--modalities", nargs="+", metavar="NAME", help=about)
    about = "also write the features: OUT/features/SHARD.safetensors"
    parser.add_argument("--features", action="store_true", help=about)
    add_sharing(parser, shard="clips in each output file", limit="data.max_bad_fraction of the run")
    about = "put a ' before CSV cells that a spreadsheet might run as formulas; this changes ids that begin with - or ="
    parser.add_argument("--spreadsheet-safe", action="store_true", help=about)
    about = "new vectors of a modality that a run has from a file; their ids are those of the clips, and where a run "
    about += "reads vectors alone, the clips"
    parser.add_argument("--file", nargs="+", action="add", metavar="NAME=FILE", help=about)
    about = "file with the ids of the rows of a --file (default: those in it, else the numbers of its rows)"
    parser.add_argument("--ids", nargs="+", action="add", metavar="NAME=FILE", help=about)
    about = "also find the segments of each recording: cut it into overlapping pieces, smooth their labels and merge "
    about += (
        "equal neighbours, into OUT/timeline.csv and, for each recording, a page to look at and listen to, WebVTT, "
    )
    about += "Audacity's labels and RTTM"
    parser.add_argument("--timeline", action="store_true", help=about)
    about = "with --timeline: length of a piece (default: data.cut_s of a run that cuts, else twice data.clip_s)"
    parser.add_argument("--piece-s", type=float, metavar="SECONDS", help=about)
    about = "with --timeline: from the beginning of a piece to that of the next (default: a quarter of a piece)"
    parser.add_argument("--stride-s", type=float, metavar="SECONDS", help=about)
    about = (
        "with --timeline: the pages play recordings where they lie (`link`, the default), or those that browsers do "
    )
    about += "not play as small .mp4 files beside the pages (`transcode`)"
    parser.add_argument("--timeline-media", choices=("link", "transcode"), help=about)
    about = "label nothing; merge the labels that are there, with the names of RUN/names.csv"
    parser.add_argument("--merge-only", action="store_true", help=about)
    add_copy_to(parser)
    parser.take_root(MOVED)


def assign(arguments: AssignArguments) -> AssignResult:
    """Label this task's shards, those that are not there yet; merge where all are there."""
    config = _check(arguments)
    if arguments.on:
        result: AssignResult = encode_on_ray("assign", arguments, output_of(arguments, config), config)
    else:
        from selavi.commands.assign_shards import assign_shards

        result = assign_shards(arguments)
    if arguments.copy_to and result.tables:
        copy_results(result.out, arguments.copy_to, result.tables[0].name)
    return result


def output_of(arguments: AssignArguments, config: "Config") -> Path:
    """The folder for the results."""
    from datamodules.index.new_clips import default_out
    from datamodules.stores.new_vectors import by_name
    from selavi.modalities import files_of

    files = by_name(arguments.file, "file", files_of(config))
    return arguments.out or default_out(arguments.run, [*arguments.paths, *files.values()])


def _check(arguments: AssignArguments) -> "Config":
    """Refuse what cannot be done; which heads judge is checked with the run's labels.  Imports no torch.

    Returns:
        The settings of the run.
    """
    from selavi.commands.checks import at_least, output_folder, require
    from selavi.config import load_run_config
    from selavi.modalities import reads_media
    from selavi.results.naming import read_names
    from selavi.runs.folder import RunFolder

    check_sharing(arguments)
    if arguments.copy_to:
        require_store(arguments.copy_to)
    at_least(arguments, nearest=0)
    config = load_run_config(arguments.run)
    by_media = reads_media(config)
    has_work = (arguments.paths if by_media else arguments.file) or (arguments.merge_only and arguments.out)
    expected = "files or folders to label" if by_media else "--file NAME=FILE with vectors to label"
    require(has_work, f"expected {expected}, or --merge-only with --out")
    _check_vectors(arguments, config)
    _check_timeline(arguments, config)
    for name in arguments.modalities or ():
        about = f"--modalities {name}: the run was trained on {' and '.join(config.kinds)} alone"
        require(name in config.kinds, about)
    head = arguments.head
    fits = head in ("chosen", "all") or (head.isdecimal() and int(head) < config.num_label_heads)
    require(fits, f"--head must be `chosen`, `all` or one of 0 to {config.num_label_heads - 1}, got {head!r}")
    for path in arguments.paths if not arguments.root else ():
        require("://" in path or os.path.lexists(path), f"{path}: no such file or folder")
    output_folder("--out", arguments.out or RunFolder(arguments.run).assigned_sets)
    require(not (arguments.on and arguments.merge_only), "--merge-only labels nothing: leave out --on")
    if RunFolder(arguments.run).names.exists():
        read_names(RunFolder(arguments.run).names)
    return config


def _check_timeline(arguments: AssignArguments, config: Any) -> None:
    """Refuse what has no timeline, and times that make none."""
    from selavi.commands.checks import require
    from selavi.modalities import clip_seconds

    times = {"piece-s": arguments.piece_s, "stride-s": arguments.stride_s}
    for name, value in times.items():
        require(arguments.timeline or not value, f"--{name} {value:g} needs --timeline")
        require(0 <= value <= 3600, f"--{name} must be 0 to 3600, got {value:g}")
    if arguments.timeline:
        clip_s = clip_seconds(config)
        require(clip_s > 0, f"--timeline: {arguments.run} reads no recordings")
        require(arguments.head != "all", "--timeline is of one head: give its number, or leave out --head")
        is_long = not arguments.piece_s or arguments.piece_s >= clip_s
        require(is_long, f"--piece-s must be at least data.clip_s={clip_s:g} of the run, got {arguments.piece_s:g}")
        is_apart = not arguments.stride_s or arguments.stride_s >= 0.01
        require(is_apart, f"--stride-s must be at least 0.01, got {arguments.stride_s:g}")


def _check_vectors(arguments: AssignArguments, config: Any) -> None:
    """Refuse files of vectors that do not fit a run's modalities."""
    from datamodules.stores.new_vectors import by_name, require_files
    from selavi.commands.checks import require
    from selavi.modalities import files_of, reads_media

    is_idle = arguments.merge_only or reads_media(config) or not arguments.paths
    require(is_idle, f"{arguments.run} reads vectors alone: give --file NAME=FILE, and no {arguments.paths[:1]}")
    files = by_name(arguments.file, "file", files_of(config))
    without = set(by_name(arguments.ids, "ids", files_of(config))) - set(files)
    require(not without, f"--ids: there is no --file of {', '.join(sorted(without))}")
    if not arguments.merge_only:
        require_files(config, arguments.modalities or config.kinds, files)


def show(result: AssignResult) -> None:
    """Say what came out, where it is and what to run next."""
    from selavi.inference.assigned import describe

    number, count = result.task
    if result.tables is None:
        missing = f"{result.num_missing} of {result.num_shards} shards in {result.out} are still to come"
        print(f"task {number}/{count} is done: {missing}; the task that ends last merges them", file=sys.stderr)
    else:
        print(describe(result.counts, result.tables, result.run, result.named), file=sys.stderr)
    if result.timeline is not None:
        print(result.timeline.describe(), file=sys.stderr)


COMMAND = Command("assign", __doc__, AssignArguments, add_arguments, assign, show)
