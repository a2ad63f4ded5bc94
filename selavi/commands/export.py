"""Write the clusters of a run as tables (Parquet, CSV) and as a gallery: a page to see, hear and name them, offline."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selavi.cli import Command, Parser
from selavi.commands.copies import add_copy_to, copy_results, require_store
from selavi.wording import command


@dataclass(frozen=True)
class ExportArguments:
    """Which clusters, and what the tables and the page hold."""

    run: Path
    split: str | None = None
    head: str = "chosen"
    clips: str = "24"
    media: Literal["link", "copy", "transcode", "none"] = "link"
    map: Literal["pca", "umap", "tsne", "none"] = "pca"
    evidence: int = 4
    maps: Literal["contrast", "evidence"] = "contrast"
    names: Path | None = None
    spreadsheet_safe: bool = False
    to: Sequence[str] = ()
    table: Path | None = None
    columns: Sequence[str] = ()
    picture: str = ""
    root: str = ""
    copy_to: str = ""


@dataclass(frozen=True)
class ExportResult:
    """What was written."""

    run: Path
    tables: tuple[Path, Path]
    """Parquet and CSV."""
    page: Path
    notes: Sequence[str]
    """What to know of the page: clips without a thumbnail, media that browsers do not play ..."""
    handover: Path | None
    """README.txt of what is for other tools."""
    asked: ExportArguments


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    words = ("runs/demo", "--split", "test", "--media", "copy", "--map", "tsne")
    parser.add_example(command("export", *words))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo")
    measured = command("evaluate", "RUN", "--split", "SPLIT")
    about = f"clips to export (default: those trained on); another split needs {measured} first"
    parser.add_argument("--split", help=about)
    about = (
        "number of a head; `chosen` (default): the one that `evaluate` chooses without labels; or `all`: a table of "
        "every head. The page has all heads and opens with this one"
    )
    parser.add_argument("--head", help=about)
    about = (
        "how many clips of each cluster are shown first (default: 24: half of them typical, a quarter borderline, a "
    )
    about += "quarter odd), or `all`; of more than 2,000 clips only these have a thumbnail; with --media copy or "
    about += "transcode, the media of these are written"
    parser.add_argument("--clips", metavar="N", help=about)
    about = "how the page plays clips: `link` (default) to the files where they are, `copy` them into the gallery's "
    about += "folder, or `transcode` them to small .mp4 files that every browser plays; `none`: the media are gone, so "
    about += "the page shows words alone"
    parser.add_argument("--media", choices=("link", "copy", "transcode", "none"), help=about)
    about = (
        "how the map is drawn (default: pca); umap needs pip install 'selavi[map]'; with `none` no clip is encoded, "
    )
    about += "so that there are no nearest clusters either"
    parser.add_argument("--map", choices=("pca", "umap", "tsne", "none"), help=about)
    about = "how many clips of each cluster show where their thing is and when the sound speaks for the cluster "
    about += "(default: 4; 0: none)"
    parser.add_argument("--evidence", type=int, metavar="N", help=about)
    about = "what glows in their pictures: contrast (default), what stands out of the picture, whatever the "
    about += "cluster; or evidence, what the model goes by for it. In the sound it is the evidence"
    parser.add_argument("--maps", choices=("contrast", "evidence"), help=about)
    about = "a names.csv saved from the page: it becomes RUN/names.csv, which tables and page then follow"
    parser.add_argument("--names", type=Path, metavar="FILE", help=about)
    about = "put a ' before CSV cells that a spreadsheet might run as formulas; this changes ids that begin with - or ="
    parser.add_argument("--spreadsheet-safe", action="store_true", help=about)
    about = "also write RUN/handover/FORMAT for other tools: fiftyone, videofolder, cvat, labelstudio, spotlight, "
    about += "embedding-atlas, features"
    parser.add_argument("--to", nargs="+", metavar="FORMAT", help=about)
    about = "a CSV or Parquet file with a column id, whose --columns the page shows: captions, addresses, anything"
    parser.add_argument("--table", type=Path, metavar="FILE", help=about)
    about = "columns of --table that the page shows as text beside each clip, and searches"
    parser.add_argument("--columns", nargs="+", metavar="NAME", help=about)
    about = "column of --table with files of pictures, from the table's folder, that stand for clips without media"
    parser.add_argument("--picture", metavar="NAME", help=about)
    add_copy_to(parser)
    parser.take_root()


def export(arguments: ExportArguments) -> ExportResult:
    """Join labels, manifest and names, write the tables, then the gallery."""
    _check(arguments)
    from selavi.commands.export_run import export_run

    result = export_run(arguments)
    if arguments.copy_to:
        copy_results(result.page.parent, arguments.copy_to, result.page.name)
    return result


def _check(arguments: ExportArguments) -> None:
    """Refuse what cannot be done; imports no torch."""
    from selavi.commands.checks import at_least, require, run_clips, run_folder_to_write
    from selavi.modalities import reads_media
    from selavi.results.gallery.layout import require_method
    from selavi.results.handover import FORMATS
    from selavi.results.naming import read_names
    from selavi.runs.folder import RunFolder

    clips, head = arguments.clips, arguments.head
    fits = clips == "all" or (clips.isdecimal() and int(clips) > 0)
    require(fits, f"--clips must be at least 1, or `all`, got {clips}")
    at_least(arguments, evidence=0)
    fits = head in ("chosen", "all") or head.isdecimal()
    require(fits, f"--head must be `chosen`, `all` or a number, got {head!r}")
    for name in arguments.to:
        require(name in FORMATS, f"--to {name}: expected some of {', '.join(FORMATS)}")
    require_method(arguments.map)
    is_shown = bool(arguments.columns or arguments.picture)
    require(bool(arguments.table) == is_shown, "--table FILE and --columns NAME (or --picture NAME) belong together")
    config, _ = run_clips(arguments.run, arguments.split)
    if arguments.copy_to:
        require_store(arguments.copy_to)
        links = reads_media(config) and arguments.media == "link"
        require(not links, "--copy-to: the page would link to files of this machine: say --media copy or transcode")
    if not reads_media(config):
        _require_no_media(arguments, f"{arguments.run} was trained on vectors alone, so it has no recordings")
    elif arguments.media == "none":
        _require_no_media(arguments, "--media none leaves out the recordings")
    heads = list(range(config.num_label_heads))
    require(not head.isdecimal() or int(head) in heads, f"expected one of the heads {heads}, got {head}")
    run_folder_to_write(arguments.run)
    kept = RunFolder(arguments.run).names
    if arguments.names or kept.exists():
        read_names(arguments.names or kept)


def _require_no_media(arguments: ExportArguments, why: str) -> None:
    """Refuse what needs recordings, where there are none."""
    from selavi.commands.checks import require
    from selavi.results.handover import FORMATS, WITHOUT_MEDIA

    require(arguments.media in ("link", "none"), f"--media {arguments.media}: {why}: leave it out")
    for name in arguments.to:
        others = ", ".join(other for other in FORMATS if other in WITHOUT_MEDIA)
        require(name in WITHOUT_MEDIA, f"--to {name}: {why}, which that tool opens; without any, there are {others}")


def show(result: ExportResult) -> None:
    """Say where tables and page are, and how names come into them."""
    print("\n".join(result.notes), file=sys.stderr)
    parquet, csv = result.tables
    print(f"table: {parquet}\n       {csv}\npage:  {result.page}  (open it in a browser)", file=sys.stderr)
    if result.handover:
        print(f"for {', '.join(result.asked.to)}: see {result.handover}", file=sys.stderr)
    if not result.asked.names:
        split = ("--split", result.asked.split) if result.asked.split else ()
        again = command("export", result.run, *split, "--names", "names.csv")
        print(f"Next: name clusters in the page, save names.csv, then {again}", file=sys.stderr)


COMMAND = Command("export", __doc__, ExportArguments, add_arguments, export, show)
