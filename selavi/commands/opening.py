"""Runs whose media may have moved."""

from dataclasses import replace
from pathlib import Path

from datamodules.index.moved import at_root
from datamodules.loading.views import ClipLoaders
from datamodules.stores.opening import open_media
from selavi.filesystem import user_path
from selavi.runs.record import Run, load_run


def open_run(folder: Path, root: str = "") -> Run:
    """Read a run whose media are in `root` now; "": where they were.

    Raises:
        UsageError: the folder is no run, or none of its clips is in `root`.
    """
    return relocate(load_run(user_path(str(folder))), root)


def relocate(run: Run, root: str) -> Run:
    """The run with its media in `root`; "": where they were.

    Raises:
        UsageError: none of its clips is in `root`.
    """
    config, manifest = at_root(run.config, run.manifest, root)
    return replace(run, config=config, manifest=manifest) if root else run


def open_clips(folder: Path, root: str = "") -> tuple[Run, ClipLoaders]:
    """Read a run as open_run does, and the loaders of its clips.

    Raises:
        UsageError: as open_run; also where the media are not there any more.
    """
    run = open_run(folder, root)
    return run, ClipLoaders(run.config, run.manifest, open_media(run.config, run.manifest))
