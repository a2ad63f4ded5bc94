"""Look into every media file of a folder; write a manifest, and a report of the files that cannot be used, and why."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavi.cli import Command, Parser
from selavi.commands.on_ray import check_on_ray, share_on_ray
from selavi.commands.sharing import add_task, describe_task
from selavi.errors import UsageError
from selavi.wording import command

if TYPE_CHECKING:
    import pyarrow as pa

    from selavi.config import DataConfig


@dataclass(frozen=True)
class ScanArguments:
    """Which folder, and what its clips have to be fit for."""

    root: str
    list: str = ""
    source: str = "auto"
    layout: str = "auto"
    pictures: bool = False
    clip_s: float = 1.0
    audio_policy: str = "mask"
    workers: int = 0
    timeout_s: float = 30.0
    allow_links: bool = False
    retry: bool = False
    near_doubles: bool = False
    cache_dir: str = ".selavi-cache"
    out: Path = Path("manifest.parquet")
    task: str | None = None
    on: str = ""
    ray_tasks: int = 0


@dataclass(frozen=True)
class ScanResult:
    """What was written, and the report as text; nothing yet where other tasks still have files to look into."""

    manifest: Path
    report: Path
    doubles: Path | None
    """Table of the files that are the same recording; None where there is none."""
    text: str
    settings: tuple[str, ...]
    """Settings with which training reads the same clips."""
    root: str
    recipe: str
    """Configuration file to begin with."""
    task: tuple[int, int] = (0, 1)
    """Which this was, of how many."""
    num_missing: int = 0
    """Files that other tasks have to look into."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_note(
        "Nothing is written into ROOT. An interrupted scan continues where it stopped when you start it again, and "
        "training with the same --cache-dir does not look into any file twice. Many processes can share the files, "
        "with --task i/n, in a SLURM array, under torchrun or on Ray; they need one --cache-dir. See docs/data.md."
    )
    parser.add_example(command("scan", "/my/videos"))
    parser.add_argument("root", type="path", metavar="ROOT", help="folder of media files")
    about = "official list of the data set: only the clips that it names count (data.list)"
    parser.add_argument("--list", type="path", metavar="FILE", help=about)
    parser.add_argument(
        "--source", metavar="FORMAT", help="format of the list (data.source; default: recognised by its content)"
    )
    about = "what the folders below ROOT mean (data.layout; default: recognised by their names)"
    parser.add_argument("--layout", choices=("auto", "classes", "splits", "flat"), help=about)
    about = "look for still pictures, not for recordings (default: where there are no recordings)"
    parser.add_argument("--pictures", action="store_true", help=about)
    parser.add_argument("--clip-s", type=float, metavar="SECONDS", help="length of a clip in seconds (default: 1)")
    about = "what becomes of clips without sound: require, mask or zeros (data.audio_policy; default: mask)"
    parser.add_argument("--audio-policy", metavar="POLICY", help=about)
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes (default: 0, one for each core)")
    parser.add_argument(
        "--timeout-s", type=float, metavar="SECONDS", help="processor seconds that a file may take (default: 30)"
    )
    parser.add_argument("--allow-links", action="store_true", help="follow links that lead out of ROOT")
    about = "look again into the files that could not be used last time"
    parser.add_argument("--retry", action="store_true", help=about)
    about = "find near-equal files as well: encoded anew, smaller or shortened; each file is decoded once for it"
    parser.add_argument("--near-doubles", action="store_true", help=about)
    about = "folder where results are kept between scans (default: .selavi-cache)"
    parser.add_argument("--cache-dir", type="path", metavar="FOLDER", help=about)
    about = (
        "manifest to write, with triage.md, and doubles.csv where there are some, beside it (default: manifest.parquet)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=about)
    add_task(parser)


def scan(arguments: ScanArguments) -> ScanResult:
    """Look into the files, or into a task's share of them; write the manifest and the report where all are done."""
    from datamodules.index.scan import LOCK, holds_pictures_alone, require_media, scan_share
    from datamodules.index.scan import scan as scan_files
    from selavi.atomic import locked
    from selavi.runs.launch import task_of

    data = _checked_settings(arguments)
    task = task_of(arguments.task, os.environ)
    if arguments.near_doubles and (task[1] > 1 or arguments.on):
        raise UsageError(
            "--near-doubles decodes every file, and is not shared: scan in tasks first, then once more with "
            "--near-doubles --task 0/1"
        )
    if arguments.on:
        folders = [Path(arguments.cache_dir), arguments.out.parent]
        result: ScanResult = share_on_ray("scan", arguments, folders, cpus=arguments.workers or None)[-1]
        return result
    root = Path(data.root)
    cache_dir = Path(data.cache_dir)
    pictures = arguments.pictures or holds_pictures_alone(root, arguments.allow_links)
    require_media(root, arguments.allow_links, pictures)
    how: dict[str, Any] = {
        "deadline_s": arguments.timeout_s,
        "allow_links": arguments.allow_links,
        "retry": arguments.retry,
        "layout": arguments.layout,
        "pictures": pictures,
    }
    if task[1] == 1:
        with locked(cache_dir / LOCK):
            manifest = scan_files(root, cache_dir, arguments.workers, **how)
        return _write(manifest, arguments, pictures)
    manifest, num_missing = scan_share(root, cache_dir, task, arguments.workers, **how)
    if manifest is None:
        return ScanResult(arguments.out, arguments.out, None, "", (), arguments.root, "", task, num_missing)
    with locked(cache_dir / LOCK):  # two tasks may end at once
        return _write(manifest, arguments, pictures)


def _write(manifest: "pa.Table", arguments: ScanArguments, pictures: bool) -> ScanResult:
    """Judge the files, write the manifest and the report."""
    from datamodules.index.doubles import describe_doubles, doubles_table, find_doubles
    from datamodules.index.layout import describe_layout
    from datamodules.index.manifest import judge, write_manifest
    from datamodules.index.scan import other_suffixes
    from datamodules.index.sources import apply_list, describe_list
    from datamodules.index.suffixes import suffixes_of
    from datamodules.index.triage import triage
    from selavi.atomic import write_text
    from selavi.modalities import MODALITIES
    from selavi.results.cluster_table import write_table

    cache_dir = Path(arguments.cache_dir)
    manifest, about_list = apply_list(manifest, arguments.list, arguments.source)
    clip_s = 0.0 if pictures else arguments.clip_s
    policy = arguments.audio_policy
    manifest = judge(manifest, clip_s=clip_s, audio_policy=policy, modalities=MODALITIES)
    doubles = find_doubles(manifest, cache_dir, near=arguments.near_doubles, workers=arguments.workers)
    lines = (
        *describe_layout(manifest),
        other_suffixes(manifest, suffixes_of(pictures)),
        about_list,
        describe_list(manifest),
        describe_doubles(manifest, doubles),
    )
    text = triage(manifest, clip_s=clip_s, audio_policy=policy, sentences=lines)
    report = arguments.out.with_name("triage.md")
    write_manifest(manifest, arguments.out)
    write_text(report, text)
    table, place = doubles_table(manifest, doubles), arguments.out.with_name("doubles.csv")
    if len(table):
        write_table(table, place)
    settings = {"root": arguments.root, "list": arguments.list, "layout": arguments.layout.replace("auto", "")}
    words = tuple(f"data.{name}={value}" for name, value in settings.items() if value)
    return ScanResult(
        arguments.out,
        report,
        place if len(table) else None,
        text,
        words,
        arguments.root,
        "images" if pictures else "small",
    )


def _checked_settings(arguments: ScanArguments) -> "DataConfig":
    """Refuse what cannot be done; returns the options as settings."""
    from selavi.commands.checks import at_least, list_file, output_folder, require
    from selavi.config import load_config

    data = load_config(None, []).data
    for name in ("root", "list", "source", "clip_s", "audio_policy", "timeout_s", "cache_dir"):
        setattr(data, name, getattr(arguments, name))
    try:
        data.__post_init__()
    except ValueError as error:
        raise UsageError(str(error)) from error
    policy = arguments.audio_policy
    fits = policy in ("require", "mask", "zeros")
    require(fits, f"--audio-policy must be require, mask or zeros, got {policy!r}")
    at_least(arguments, workers=0)
    check_on_ray(arguments)
    require(not arguments.out.is_dir(), f"--out {arguments.out} is a folder; name the file to write")
    output_folder("--out", arguments.out.parent)
    list_file(arguments.list, arguments.source)
    return data


def show(result: ScanResult) -> None:
    """Print the report, where it is, and what to do next."""
    if result.num_missing:
        missing = f"{result.num_missing:,} files in {result.root} are still to be looked into"
        print(describe_task(result.task, missing, f"writes {result.manifest}"), file=sys.stderr)
        return
    print(result.text)
    print(f"manifest: {result.manifest}\nreport: {result.report}", file=sys.stderr)
    if result.doubles:
        print(f"doubles: {result.doubles}", file=sys.stderr)
    print(f"Next: train   {command('train', '--config', result.recipe, *result.settings)}", file=sys.stderr)
    print(f"      or re-encode for speed first   {command('prepare', result.root, 'OUT')}", file=sys.stderr)


COMMAND = Command("scan", __doc__, ScanArguments, add_arguments, scan, show)
