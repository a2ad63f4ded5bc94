"""What commands refuse from what is on the disk, before media are decoded or models run; imports no torch.

Each function raises UsageError.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.manifest import select_split, usable
from datamodules.index.sources import SOURCES, read_list
from selavi.config import Config, load_run_config
from selavi.errors import UsageError
from selavi.filesystem import Enclosure, real_path
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import read_manifest
from selavi.wording import command


def require(condition: object, message: str) -> None:
    """Refuse with a message."""
    if not condition:
        raise UsageError(message)


def at_least(arguments: object, **limits: float) -> None:
    """Options that are numbers, or None, and the least that each may be."""
    for name, least in limits.items():
        value = getattr(arguments, name)
        fits = value is None or (math.isfinite(value) and value >= least)
        require(fits, f"--{name.replace('_', '-')} must be at least {least:g}, got {value}")


def above_zero(arguments: object, *names: str) -> None:
    """Options that are numbers above 0."""
    for name in names:
        value = getattr(arguments, name)
        fits = math.isfinite(value) and value > 0
        require(fits, f"--{name.replace('_', '-')} must be above 0, got {value}")


def output_folder(option: str, folder: Path) -> None:
    """A folder that results go into: it, or the first of those above it that is there, can be written."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    require(place.is_dir(), f"{option} {folder}: {place} is a file, so no folder can be there; name another one")
    require(os.access(place, os.W_OK), f"{option} {folder}: {place} cannot be written; name another folder")


def new_run_folder(folder: Path, otherwise: str) -> None:
    """The folder of a run that is made of another: nothing is in it; says what to do otherwise."""
    output_folder("--out", folder)
    is_free = not folder.exists() or not any(folder.iterdir())
    require(is_free, f"{folder} exists and is not empty; name another folder (--out FOLDER), or {otherwise}")


def run_folder_to_write(folder: Path) -> None:
    """The folder of a run that results go into can be written, where there is one."""
    can_write = not os.path.isdir(folder) or os.access(folder, os.W_OK)
    about = f"{folder} can only be read, and results go into it: copy the run to a place that can be written, and name "
    require(can_write, f"{about}the copy; its media may stay where they are")


def own_folders(folder: Path, places: Iterable[Path]) -> None:
    """Places in the folder of a run where files of earlier calls are removed: none is a link out of it."""
    enclosure = Enclosure(folder)
    for place in places:
        require(
            not enclosure.leads_out(os.path.abspath(place)),
            f"{place} is a link out of the run folder, to {real_path(place)}, where files would be removed: make it a "
            "folder, or move the whole run and link that",
        )


def run_clips(folder: Path, split: str | None, labelled: bool = False) -> tuple[Config, pa.Table]:
    """Settings of a run, and the rows of a split (None: the training split) that can be used; of these, the labelled.

    With `labelled`, a split without any label is refused.
    """
    config, manifest = load_run_config(folder), read_manifest(RunFolder(folder).manifest)
    rows = usable(select_split(manifest, split or config.data.train_split))
    require(len(rows), f"no clip of split {split!r} of {folder} can be used; {command('scan')} says why")
    if labelled:
        rows = rows.filter(pc.is_valid(rows["label"]))
        require(len(rows), f"no clip of split {split!r} of {folder} has a label to compare clusters with")
    return config, rows


def list_file(list_path: str, source: str) -> Any:
    """An official list, or none, and its format: read once before the scan, which may take hours."""
    require(source in ("auto", *SOURCES), f"no format of lists {source!r}; there are auto, {', '.join(SOURCES)}")
    if list_path:
        require(len(read_list(list_path, source)[2].rows), f"{list_path} names no clip; name another list")
