"""Re-encode a folder of media once, so that training reads it fast: as tar shards, or as small files."""

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selavi.cli import Command, Parser
from selavi.commands.copies import add_copy_to, copy_results, require_store
from selavi.commands.on_ray import check_on_ray, share_on_ray
from selavi.commands.sharing import add_task, describe_task
from selavi.errors import UsageError
from selavi.wording import command

if TYPE_CHECKING:
    import pyarrow as pa

    from datamodules.stores.prepare import PrepareSettings, PrepareSummary

LEAST_PIECE_S, LONGEST_SHOT_S = 1.0, 10.0
"""The last piece of a recording is left out where it is shorter: data.clip_s as it usually is."""


@dataclass(frozen=True)
class PrepareArguments:
    """Which media, and what becomes of them."""

    root: Path
    out: Path
    format: Literal["shards", "files"] = "shards"
    size: int = 128
    aspect: float = 0.0
    fps: float = 0.0
    sample_rate: int = 24_000
    quality: int = 90
    shard_mb: int = 256
    list: str = ""
    source: str = "auto"
    layout: str = "auto"
    cut_s: float = 0.0
    stride_s: float = 0.0
    shots: bool = False
    pictures: bool = False
    workers: int = 0
    timeout_s: float = 600.0
    cache_dir: Path = Path(".selavi-cache")
    task: str | None = None
    on: str = ""
    ray_tasks: int = 0
    copy_to: str = ""


@dataclass(frozen=True)
class PrepareResult:
    """How much was prepared, and how."""

    out: Path
    settings: "PrepareSettings"
    summary: "PrepareSummary | None"
    """None: other tasks are not done."""
    task: tuple[int, int] = (0, 1)
    """Which this was, of how many."""
    num_missing: int = 0
    """Tasks that are not done."""
    num_encoded: int = 0
    """Clips that this task has encoded, where there are several."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_note(
        "Many processes can share the shards, with --task i/n, in a SLURM array, under torchrun or on Ray; they need "
        "one --cache-dir. See docs/prepared.md."
    )
    words = ("/data/vggsound", "/data/vggsound-shards", "--size", "144", "--workers", "16")
    parser.add_example(command("prepare", *words))
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of media files; nothing in it is changed")
    about = "folder to write: empty, or left by an interrupted run, which then continues"
    parser.add_argument("out", type=Path, metavar="OUT", help=about)
    about = "shards (default): tar files of JPEG frames and int16 sound; files: small .mp4 files"
    parser.add_argument("--format", metavar="FORMAT", help=about)
    parser.add_argument("--size", type=int, metavar="PIXELS", help="short side of the frames in pixels (default: 128)")
    about = "longest side to keep, as a multiple of the short one (default: 0, all of it)"
    parser.add_argument("--aspect", type=float, metavar="RATIO", help=about)
    parser.add_argument("--fps", type=float, metavar="N", help="most frames a second to keep (default: 0, all of them)")
    parser.add_argument("--sample-rate", type=int, metavar="HZ", help="samples of sound a second (default: 24000)")
    parser.add_argument("--quality", type=int, metavar="N", help="JPEG quality of the frames, 1 to 100 (default: 90)")
    parser.add_argument(
        "--shard-mb", type=int, metavar="MB", help="approximate size of a shard in megabytes (default: 256)"
    )
    about = "official list or table: only the clips that it names, with its splits and labels"
    parser.add_argument("--list", type="path", metavar="FILE", help=about)
    parser.add_argument("--source", metavar="FORMAT", help="format of the list (default: recognised by its content)")
    about = "what the folders below ROOT mean (data.layout; default: recognised by their names)"
    parser.add_argument("--layout", choices=("auto", "classes", "splits", "flat"), help=about)
    about = "cut recordings that are longer into pieces of so many seconds (default: 0, each stays whole)"
    parser.add_argument("--cut-s", type=float, metavar="SECONDS", help=about)
    about = "seconds from the beginning of a piece to that of the next (default: those of --cut-s)"
    parser.add_argument("--stride-s", type=float, metavar="SECONDS", help=about)
    about = (
        "cut where the picture is cut, or the sound becomes another; longer shots into parts of at most --cut-s (10)"
    )
    parser.add_argument("--shots", action="store_true", help=about)
    about = "look for still pictures, not for recordings (default: where there are no recordings)"
    parser.add_argument("--pictures", action="store_true", help=about)
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes (default: 0, one for each core)")
    parser.add_argument(
        "--timeout-s", type=float, metavar="SECONDS", help="processor seconds that a clip may take (default: 600)"
    )
    about = "folder where results are kept between scans (default: .selavi-cache)"
    parser.add_argument("--cache-dir", type=Path, metavar="FOLDER", help=about)
    add_task(parser)
    add_copy_to(parser)


def prepare(arguments: PrepareArguments) -> PrepareResult:
    """Re-encode all clips, or a task's share of them; copy the set where it is whole."""
    result = _prepare(arguments)
    if arguments.copy_to and result.summary:
        from datamodules.stores.shards import MARK

        copy_results(arguments.out, arguments.copy_to, MARK)
    return result


def _prepare(arguments: PrepareArguments) -> PrepareResult:
    """Scan, join the list, re-encode."""
    from datamodules.index.scan import LOCK
    from datamodules.stores.prepare import PrepareSettings, prepare_share
    from datamodules.stores.prepare import prepare as re_encode
    from selavi.atomic import locked
    from selavi.runs.launch import task_of

    settings = PrepareSettings(
        arguments.format,
        arguments.size,
        arguments.aspect,
        arguments.fps,
        arguments.sample_rate,
        arguments.quality,
        arguments.shard_mb,
    )
    _check(arguments)
    if arguments.on:
        return _prepare_on_ray(arguments)
    task, workers = task_of(arguments.task, os.environ), arguments.workers
    if task[1] == 1:
        manifest = _list(arguments)
        summary = re_encode(manifest, arguments.out, settings, workers=workers, deadline_s=arguments.timeout_s)
        return PrepareResult(arguments.out, settings, summary)
    with locked(arguments.cache_dir / LOCK):  # the first task looks into what no scan has seen, for all of them
        manifest = _list(arguments)
    limit_s = arguments.timeout_s
    of_share, num_missing, num_encoded = prepare_share(
        manifest, arguments.out, settings, task, workers=workers, deadline_s=limit_s
    )
    return PrepareResult(arguments.out, settings, of_share, task, num_missing, num_encoded)


def _prepare_on_ray(arguments: PrepareArguments) -> PrepareResult:
    """Let a Ray cluster re-encode; the summary is of all tasks."""
    began = time.monotonic()
    folders = [arguments.cache_dir, arguments.out]
    own = replace(arguments, copy_to="")
    results = share_on_ray("prepare", own, folders, cpus=arguments.workers or None)
    num_encoded = sum(result.num_encoded for result in results)
    whole: PrepareResult = results[-1]
    assert whole.summary is not None
    summary = replace(whole.summary, num_encoded=num_encoded, seconds=time.monotonic() - began)
    return replace(whole, summary=summary, num_encoded=num_encoded)


def _list(arguments: PrepareArguments) -> "pa.Table":
    """The clips that are to be prepared; says what they are."""
    from datamodules.index.cut import cut_evenly, cut_into_shots
    from datamodules.index.layout import describe_layout
    from datamodules.index.scan import holds_pictures_alone, other_suffixes, scan
    from datamodules.index.sources import apply_list
    from datamodules.index.suffixes import suffixes_of

    pictures = arguments.pictures or holds_pictures_alone(arguments.root)
    cache_dir, workers = arguments.cache_dir, arguments.workers
    manifest = scan(arguments.root, cache_dir, workers, layout=arguments.layout, pictures=pictures)
    about_list = ""
    if arguments.list:
        manifest, about_list = apply_list(manifest, arguments.list, arguments.source)
    about_cut = ""
    if arguments.shots:
        longest_s = arguments.cut_s or LONGEST_SHOT_S
        least_s = min(longest_s, LEAST_PIECE_S)
        manifest, about_cut = cut_into_shots(
            manifest, cache_dir, by_picture=True, longest_s=longest_s, least_s=least_s, workers=workers
        )
    elif cut_s := arguments.cut_s:
        manifest, about_cut = cut_evenly(manifest, cut_s, arguments.stride_s or cut_s, min(cut_s, LEAST_PIECE_S))
    lines = (*describe_layout(manifest), other_suffixes(manifest, suffixes_of(pictures)), about_list, about_cut)
    print(*filter(None, lines), sep="\n", file=sys.stderr)
    return manifest


def _check(arguments: PrepareArguments) -> None:
    """Refuse what cannot be done, beside the settings."""
    from datamodules.stores.prepare import require_place
    from selavi.commands.checks import above_zero, at_least, list_file, output_folder

    above_zero(arguments, "timeout_s")
    check_on_ray(arguments)
    if arguments.on and arguments.format != "shards":
        raise UsageError("--on is for --format shards: small files are made by one process")
    if arguments.copy_to:
        require_store(arguments.copy_to)
        if arguments.format != "shards":
            raise UsageError("--copy-to is for --format shards: small files are read in a local folder alone")
    if arguments.stride_s and not arguments.cut_s:
        raise UsageError(f"--stride-s {arguments.stride_s:g} needs --cut-s: the length of a piece")
    if arguments.stride_s and arguments.shots:
        raise UsageError("--stride-s and --shots cut in two ways: leave one of them out")
    for name, value in (("cut-s", arguments.cut_s), ("stride-s", arguments.stride_s)):
        if value and not 0.04 <= value <= 3600:
            raise UsageError(f"--{name} must be 0, or 0.04 to 3600, got {value:g}")
    at_least(arguments, workers=0)
    require_place(arguments.root, arguments.out)
    output_folder("OUT", arguments.out)
    list_file(arguments.list, arguments.source)


def show(result: PrepareResult) -> None:
    """Say what came out."""
    from datamodules.stores.prepare import describe_summary

    if result.summary is None:
        missing = f"{result.num_missing} of {result.task[1]} tasks are still to end"
        print(describe_task(result.task, missing, f"finishes {result.out}"), file=sys.stderr)
        return
    print(describe_summary(result.summary, result.out, result.settings), file=sys.stderr)


COMMAND = Command("prepare", __doc__, PrepareArguments, add_arguments, prepare, show)
