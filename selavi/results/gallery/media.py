"""The recordings that the page plays: linked where they lie, copied, or transcoded beside it."""

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from selavi import media
from selavi.atomic import write_atomically
from selavi.errors import UsageError
from selavi.filesystem import Enclosure, fault_of
from selavi.media import MediaError
from selavi.runs.manifest import ANY_TIME, file_state

Mode = Literal["link", "copy", "transcode"]
MODES: tuple[str, ...] = get_args(Mode)

PRESENT, MISSING, OUTSIDE, CHANGED = 0, 1, 2, 3
"""State of a clip's file: OUTSIDE of the media root by a link, or CHANGED, so that it is not the file that the run has
read.  Nothing of these two is shown or copied: a run, its manifest and its media root may come from anybody."""
_STATES = {"": PRESENT, "changed": CHANGED, "missing": MISSING}


@dataclass(frozen=True)
class MediaJob:
    """A recording to look at, to copy or to transcode."""

    source: Path
    target: Path
    row: int
    """Number of the clip, for writers that have no file."""


Writer = Callable[[MediaJob], str]
"""Writes the target unless it is there; returns "made" or "kept"."""


def locate(clips: pa.Table, root: Path, allow_links: bool) -> np.ndarray:
    """Find out which files are present and inside of the media root.

    Links are followed as a scan follows them: to places outside of the root only where that is allowed, and there only
    to the very file that was scanned.  Linear in clips: one look at each file, and one at each folder.

    Args:
        clips: of select.arrange.
        root: the folder that paths start from.
        allow_links: data.allow_links of the run.

    Returns:
        (N,) PRESENT, MISSING, OUTSIDE or CHANGED.

    Raises:
        UsageError: a path leads out of the root by itself.
    """
    enclosure = Enclosure(root)
    states = np.full(len(clips), MISSING, np.uint8)
    facts = zip(*(clips[name].to_pylist() for name in ("path", "bytes", "mtime_ns")), strict=True)
    for row, (name, num_bytes, mtime_ns) in enumerate(facts):
        path = enclosure.path(name)
        if not enclosure.names(path):
            raise UsageError(
                f"the clip {clips['id'][row].as_py()!r} lies outside of the media root {enclosure.root}: expected a "
                f"path below it, got {name!r}"
            )
        may_lead_out = allow_links and mtime_ns != ANY_TIME
        is_outside = not may_lead_out and enclosure.leads_out(path)
        states[row] = OUTSIDE if is_outside else _STATES[file_state(path, num_bytes, mtime_ns)]
    return states


class Links:
    """What the page's data say of each clip's recording.

    Args:
        clips: of select.arrange.
        root: the folder that paths start from.
        out_dir: the gallery's folder.
        mode: link, copy or transcode.
        states: of locate.
        names: (N,) bytes, 24 hexadecimal digits of each clip's own file in out_dir/media, empty where there is none;
            used by copy and transcode.
        unplayable: why browsers cannot play a clip's file, of those that were looked at, by row.
    """

    def __init__(
        self,
        clips: pa.Table,
        root: Path,
        out_dir: Path,
        mode: Mode,
        states: np.ndarray,
        names: np.ndarray,
        unplayable: Mapping[int, str],
        looked_at: np.ndarray,
    ) -> None:
        self.paths = clips["path"].combine_chunks()
        self.mode, self.states, self.names = mode, states, names
        self.prefix = _url(Path(os.path.relpath(root, out_dir)).as_posix())
        self.sound_alone = _is_sound_alone(clips)
        self.cannot = np.zeros(len(clips), bool)
        if mode != "transcode":
            self.cannot[list(unplayable)] = True
            self._guess(looked_at)

    def __call__(self, rows: np.ndarray) -> tuple[list[str | None], list[bool], list[str]]:
        """URL as seen from index.html, whether browsers can play it, and its kind; see data.MediaOf."""
        paths = self.paths.take(pa.array(rows)).to_pylist()
        urls: list[str | None] = []
        for row, path in zip(rows.tolist(), paths, strict=True):
            if self.mode == "link":
                is_present = self.states[row] == PRESENT
                urls.append(f"{self.prefix}/{_url(os.path.normpath(path))}" if is_present else None)
            else:
                name = self.names[row].decode()
                urls.append(f"media/{media_file(name, path, self.mode)}" if name else None)
        playable = [
            url is not None and not cannot for url, cannot in zip(urls, self.cannot[rows].tolist(), strict=True)
        ]
        are_still = [media.is_still(Path(path)) for path in paths]
        kinds = np.where(are_still, "picture", np.where(self.sound_alone[rows], "audio", "video"))
        return urls, playable, kinds.tolist()

    def _guess(self, looked_at: np.ndarray) -> None:
        """Clips that were not looked at are as most of those with their suffix."""
        suffixes = np.array([suffix_of(path) for path in self.paths.to_pylist()])
        for suffix in np.unique(suffixes[self.cannot]):
            same = suffixes == suffix
            if self.cannot[same & looked_at].mean() > 0.5:
                self.cannot[same & ~looked_at] = True


def media_file(name: str, path: str, mode: Mode) -> str:
    """Name of a copy, with the original's suffix, or of a transcoded recording or picture."""
    if mode == "transcode":
        return name + (".jpg" if media.is_still(Path(path)) else ".mp4")
    return name + suffix_of(path)


def suffix_of(path: str) -> str:
    """Suffix in small letters, empty where it is nothing that a URL and a file system take as it is."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""


def look(job: MediaJob) -> str:
    """Why browsers cannot play a file; empty where they can."""
    return media.playable(job.source) or ""


def copy_file(job: MediaJob) -> str:
    """Copy a recording; see Writer.

    Raises:
        MediaError: it cannot be read, or is no recording.
    """
    if job.target.exists():
        return "kept"
    media.require_recording(job.source)  # a file that is no recording is not copied, whatever the manifest says
    try:
        with write_atomically(job.target) as temporary:
            shutil.copyfile(job.source, temporary)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # a fault of the copy, not of the recording
            raise
        raise MediaError(job.source, *fault_of(error)) from error
    return "made"


def transcode_file(job: MediaJob) -> str:
    """Transcode a recording; see Writer.

    Raises:
        MediaError: it cannot be decoded.
    """
    if job.target.exists():
        return "kept"
    media.transcode(job.source, job.target)
    return "made"


def describe(
    states: np.ndarray, unplayable: Mapping[int, str], num_looked_at: int, mode: Mode, num_missing_copies: int
) -> str | None:
    """One paragraph on what will not play and what to do about it; None where all will."""
    said = []
    missing, outside = int((states == MISSING).sum()), int((states == OUTSIDE).sum())
    if missing and mode == "link":
        said.append(
            f"{missing:,} of {len(states):,} files are no longer where they were scanned (moved? say data.root=NEW)."
        )
    changed = int((states == CHANGED).sum())
    if changed:
        said.append(
            f"{changed:,} files are not those that were scanned (written to since, or the run comes from elsewhere): "
            "nothing of them is shown or copied. If they are the clips, say data.root=FOLDER with the folder that they "
            "are in; if they are not, train on them."
        )
    if outside:
        said.append(f"{outside:,} files are links to places outside of the media folder and are not shown.")
    if unplayable and mode != "transcode":
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in Counter(unplayable.values()).most_common(3))
        said.append(
            f"{len(unplayable):,} of {num_looked_at:,} files that were looked at do not play in every browser "
            f"({reasons}). Export again with --media transcode to play them."
        )
    if num_missing_copies and mode != "link":
        said.append(
            f"{num_missing_copies:,} clips that are not in the rows of a cluster come without their media; "
            "export again with --clips all to have them all."
        )
    return " ".join(said) or None


def _is_sound_alone(clips: pa.Table) -> np.ndarray:
    width = clips["width"].to_numpy().astype(float)
    return ~(width > 0) & ~np.isnan(clips["duration_s"].to_numpy().astype(float))


def _url(path: str) -> str:
    """Percent-encode all but the slashes: no name is then taken for a query, a fragment or a scheme."""
    return quote(path, safe="/")
