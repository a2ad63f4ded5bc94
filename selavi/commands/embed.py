"""Write vectors of clips, from crafted features, a run, or any encoder of yours, for the modality kind `features`."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selavi.cli import Command, Parser
from selavi.commands.copies import add_copy_to, copy_results, require_store
from selavi.commands.on_ray import encode_on_ray
from selavi.commands.sharing import MOVED, add_paths, add_sharing, check_sharing
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.config import Config

CRAFTED, TORCHVISION = "crafted", "torchvision:"


@dataclass(frozen=True)
class EmbedArguments:
    """Which clips, and what makes their vectors."""

    encoder: str
    paths: Sequence[str] = ()
    out: Path = Path("embedded")
    weights: str = ""
    modalities: Sequence[str] | None = None
    config: Path | None = None
    views: int = 1
    random: bool = False
    dtype: str = "float32"
    shard_clips: int = 1000
    task: str | None = None
    on: str = ""
    ray_tasks: int = 0
    workers: int | None = None
    max_bad_fraction: float | None = None
    allow_links: bool = False
    layout: str = "auto"
    settings: Sequence[str] = ()
    copy_to: str = ""
    root: str = ""


@dataclass(frozen=True)
class EmbedResult:
    """What came out; the files are there once all tasks are done."""

    out: Path
    task: tuple[int, int]
    num_shards: int
    num_missing: int
    """Shards that other tasks still have to make."""
    counts: Counter[str]
    """Clips by their status: `ok` and why others have no vector."""
    shapes: dict[str, tuple[int, ...]]
    """(rows, numbers a row) of each modality's file, OUT/NAME.npy; empty until all shards are done."""
    views: int


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_note(
        "Writes OUT/NAME.npy for each modality, and OUT/ids.csv with the id of each row; docs/features.md says how to "
        "train on them. If it is stopped or killed, the same command continues where it stopped; many processes can "
        "share the work, with --task i/n, in a SLURM array, under torchrun or on Ray."
    )
    parser.add_example(
        command("embed", "/my/videos", "--with", "crafted", "--out", "vectors"),
        command("embed", "/my/videos", "--with", "runs/mine", "--views", "3", "--out", "vectors"),
        command("embed", "/my/videos", "--with", "mine:encoder", "video.num_frames=8", "--out", "vectors"),
    )
    add_paths(parser)
    about = "crafted: colours, edges, bands and rhythms, which need no weights; a run folder: its encoders; "
    about += "torchvision:NAME, with --weights; or MODULE:FUNCTION, which returns an encoder of yours"
    parser.add_argument("--with", dest="encoder", required=True, metavar="ENCODER", help=about)
    about = "file with the weights of torchvision:NAME, as torch.save wrote them"
    parser.add_argument("--weights", type="path", metavar="FILE", help=about)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the results (default: embedded)")
    about = "which inputs are encoded (default: video and audio, those of the run, or video for an encoder of yours)"
    parser.add_argument("--modalities", nargs="+", metavar="NAME", help=about)
    about = "YAML file, or the name of one of selavi's recipes, for size, length and pace of the clips"
    parser.add_argument("--config", type=Path, metavar="NAME", help=about)
    about = "number of evenly spaced views of each clip, a row each (default: 1)"
    parser.add_argument("--views", type=int, metavar="N", help=about)
    about = "views as random as in training: windows, crops, colours, pitch (seed=N for others)"
    parser.add_argument("--random", action="store_true", help=about)
    about = "type of the numbers (default: float32)"
    parser.add_argument("--dtype", choices=("float32", "float16"), help=about)
    add_sharing(parser, shard="clips that are kept at a time", limit="data.max_bad_fraction")
    parser.add_note("Settings such as data.clip_s=2 or video.size=224 may stand anywhere, unless a run has its own.")
    add_copy_to(parser)
    parser.take_scattered_settings("--with")
    parser.take_root(MOVED)


def embed(arguments: EmbedArguments) -> EmbedResult:
    """Encode this task's shards, those that are not there yet; put them together where all are there."""
    config = _check(arguments)
    if arguments.on:
        result: EmbedResult = encode_on_ray("embed", arguments, arguments.out, config)
    else:
        from selavi.commands.embed_shards import embed_shards

        result = embed_shards(arguments, config)
    if arguments.copy_to and result.shapes:
        copy_results(result.out, arguments.copy_to, "ids.csv")
    return result


def _check(arguments: EmbedArguments) -> "Config":
    """Refuse what cannot be done; returns the settings of the clips.  Imports no torch."""
    from selavi.commands.checks import output_folder, require
    from selavi.modalities import files_of

    check_sharing(arguments)
    if arguments.copy_to:
        require_store(arguments.copy_to)
    require(arguments.paths, "expected files or folders of clips")
    config = _settings_of(arguments)
    require(not files_of(config), f"--with {arguments.encoder}: vectors are made of media, not of other vectors")
    is_torchvision = arguments.encoder.startswith(TORCHVISION)
    need = "has no weights of its own: name a file with them" if is_torchvision else "takes no file of weights"
    require(bool(arguments.weights) == is_torchvision, f"--weights: {arguments.encoder} {need}")
    require(not arguments.weights or os.path.isfile(arguments.weights), f"--weights {arguments.weights}: no such file")
    for path in arguments.paths if not arguments.root else ():
        require("://" in path or os.path.lexists(path), f"{path}: no such file or folder")
    output_folder("--out", arguments.out)
    return config


def _settings_of(arguments: EmbedArguments) -> "Config":
    """Settings of the clips: the run's own, or those that are given."""
    from selavi.commands.checks import require
    from selavi.commands.recipes import find_recipe
    from selavi.config import Config, load_config, load_run_config

    encoder, names = arguments.encoder, arguments.modalities
    if encoder != CRAFTED and ":" not in encoder:
        is_run = os.path.isdir(encoder)
        require(is_run, f"--with {encoder}: expected crafted, a run folder, torchvision:NAME or MODULE:FUNCTION")
        given = [*arguments.settings, *([f"--config {arguments.config}"] if arguments.config else [])]
        require(not given, f"{' '.join(given)}: the clips are cut as {encoder} was trained")
        config = load_run_config(Path(encoder))
        for name in names or ():
            about = f"--modalities {name}: the run was trained on {' and '.join(config.kinds)} alone"
            require(name in config.kinds, about)
        return config
    chosen = list(names or Config().kinds)[: None if names or encoder == CRAFTED else 1]
    about = f"--with {encoder}: one encoder is for one modality, got {' '.join(chosen)}: say the command for each"
    require(encoder == CRAFTED or len(chosen) == 1, about)
    recipe = find_recipe(arguments.config) if arguments.config else None
    return load_config(recipe, [*arguments.settings, f"modalities=[{','.join(chosen)}]"])


def show(result: EmbedResult) -> None:
    """Say what came out, where it is and what to run next."""
    number, count = result.task
    if not result.shapes:
        missing = f"{result.num_missing} of {result.num_shards} shards in {result.out} are still to come"
        print(f"task {number}/{count} is done: {missing}; the task that ends last puts them together", file=sys.stderr)
        return
    left_out = ", ".join(f"{count} {status}" for status, count in sorted(result.counts.items()) if status != "ok")
    bad = f"; left out: {left_out} (see {result.out / 'bad.csv'})" if left_out else ""
    views = f" of {result.views} views each" if result.views > 1 else ""
    print(f"{result.counts['ok']} clips have vectors{views}{bad}", file=sys.stderr)
    for name, (rows, width) in result.shapes.items():
        print(f"file:  {result.out / name}.npy  ({rows} x {width})", file=sys.stderr)
    print(f"ids:   {result.out / 'ids.csv'}", file=sys.stderr)
    files = [f"features.ids={result.out / 'ids.csv'}", *(["features.views=true"] if result.views > 1 else [])]
    files += [f"{name}_vectors.file={result.out / name}.npy" for name in result.shapes]
    kinds = ", ".join(f"{name}_vectors: features" for name in result.shapes)
    words = ("--config", "features", f"modalities={{{kinds}}}", *files, "run_dir=runs/vectors")
    print(f"Next: train    {command('train', *words)}", file=sys.stderr)


COMMAND = Command("embed", __doc__, EmbedArguments, add_arguments, embed, show)
