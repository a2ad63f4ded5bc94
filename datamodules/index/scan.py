"""From a folder of media to a manifest: every file is probed once, in parallel, and remembered between runs."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Set
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.layout import METADATA_KEY, metadata_of, read_layout, require_layout
from datamodules.index.notebook import Notebook, lasting, match
from datamodules.index.probing import probe_file
from datamodules.index.suffixes import FILM_SUFFIXES, MEDIA_SUFFIXES, PICTURE_SUFFIXES, SOUND_SUFFIXES, suffixes_of
from datamodules.index.walk import Walk
from selavi.atomic import locked
from selavi.errors import UsageError
from selavi.filesystem import look, real_path
from selavi.media import STILL_SUFFIXES
from selavi.runs.manifest import SCHEMA

_PROBE_VERSION = 2
"""Facts that were found by another version of the probe are found anew."""
PROBE_MEMORY = 2 << 30
"""Bytes that a worker may take to probe a file."""

_LISTED = ("id", "path", "split", "label", "start_s", "end_s", "bytes", "mtime_ns")
_FOUND = [name for name in SCHEMA.names if name not in _LISTED]
_OTHERS_KEY = b"other_suffixes"
LOCK = "lock"
"""In the folder of the results: who reads or replaces them."""

log = logging.getLogger("selavi")


def scan(
    root: Path,
    cache_dir: Path,
    workers: int = 0,
    *,
    deadline_s: float = 30.0,
    allow_links: bool = False,
    retry: bool = False,
    layout: str = "auto",
    pictures: bool = False,
) -> pa.Table:
    """Probe every media file below `root` and return the manifest, ordered by id: facts, not judged yet.

    Results are kept in `cache_dir` by path, size and time of change: a second scan probes only what is new, and
    an interrupted one goes on where it was.  A file that hangs or crashes its decoder costs one worker process.

    Args:
        root: folder of media.
        cache_dir: where results are kept.
        workers: processes; 0: one for each core.
        deadline_s: seconds that one file may take.
        allow_links: read what links to places outside of `root` lead to.
        retry: probe files again that could not be used; those that failed in passing are always.
        layout: what the folders mean; see datamodules.index.layout.read_layout.
        pictures: still pictures are looked for, not recordings.

    Raises:
        UsageError: the folder does not exist or holds no media file; there is no such layout.
    """
    root, listing = _listed(root, allow_links, layout, pictures)
    notebook = _notebook(root, cache_dir, pictures)
    notes = _read_notes(notebook)
    todo = _to_probe(listing, notes, retry)
    if len(todo):
        _probe(notebook, listing, todo, root, workers, deadline_s, pictures)
        notes = _read_notes(notebook)
    table = _join(listing, notes, root)
    notebook.settle(table)
    return table


def scan_share(
    root: Path,
    cache_dir: Path,
    task: tuple[int, int],
    workers: int = 0,
    *,
    deadline_s: float = 30.0,
    allow_links: bool = False,
    retry: bool = False,
    layout: str = "auto",
    pictures: bool = False,
) -> tuple[pa.Table | None, int]:
    """Probe one task's share of the files, every n-th of the list; tasks meet nowhere but in `cache_dir`.

    Args:
        root: see scan, as for the other arguments.
        cache_dir: one folder for all tasks, where each writes lines of its own.
        task: number from 0, of how many.
        workers: processes.
        deadline_s: seconds that one file may take.
        allow_links: read what links to places outside of `root` lead to.
        retry: probe files of the share again that could not be used.
        layout: what the folders mean.
        pictures: still pictures are looked for, not recordings.

    Returns:
        The manifest that `scan` would return, None while others have files to probe; how many files these are.

    Raises:
        UsageError: as scan.
    """
    root, listing = _listed(root, allow_links, layout, pictures)
    notebook = _notebook(root, cache_dir, pictures, task)
    with locked(cache_dir / LOCK):
        notes = _read_notes(notebook)
    number, count = task
    todo = _to_probe(listing, notes, retry)
    todo = todo[todo % count == number]
    if len(todo):
        _probe(notebook, listing, todo, root, workers, deadline_s, pictures)
    with locked(cache_dir / LOCK):
        notes = _read_notes(notebook)
    missing = int(_is_new(listing, notes).sum())
    return None if missing else _join(listing, notes, root), missing


def _listed(root: Path, allow_links: bool, layout: str, pictures: bool) -> tuple[Path, pa.Table]:
    """The folder without links in its path, and the media files that it holds."""
    require_media(root, allow_links, pictures)
    root = real_path(root)
    return root, list_media(root, allow_links, suffixes_of(pictures), layout)


def _to_probe(listing: pa.Table, notes: pa.Table, retry: bool) -> np.ndarray:
    """Rows of the files that are to be opened; says where some of them were before."""
    kept = notes.filter(pc.equal(notes["status"], "ok")) if retry else lasting(notes)
    todo = np.flatnonzero(_is_new(listing, kept))
    again = int((match(listing.take(pa.array(todo)), notes) >= 0).sum())
    if again and not retry:
        log.warning(
            f"{again:,} files that could not be read the last time, for a reason that may pass, are tried again"
        )
    return todo


def _probe(
    notebook: Notebook,
    listing: pa.Table,
    rows: np.ndarray,
    root: Path,
    workers: int,
    deadline_s: float,
    pictures: bool,
) -> None:
    """Open some files of a list, and write down what they are like."""
    notebook.learn(
        listing.select(["id", "bytes", "mtime_ns"]).take(pa.array(rows)),
        partial(probe_file, str(root), pictures=pictures),
        "scanning",
        workers=workers,
        deadline_s=deadline_s,
        memory_bytes=PROBE_MEMORY,
    )


def _is_new(listing: pa.Table, notes: pa.Table) -> np.ndarray:
    """(n,) whether a file would have to be opened: there are no notes of it, and a look did not give its status."""
    is_new: np.ndarray = (match(listing, notes) < 0) & pc.is_null(listing["status"]).to_numpy()
    return is_new


def recall(root: Path, listing: pa.Table, cache_dir: Path, pictures: bool = False) -> pa.Table | None:
    """The manifest that `scan` would return, from what earlier scans keep in `cache_dir`; nothing is written.

    Args:
        root: without links in its own path.
        listing: of list_media.
        cache_dir: where results are kept.
        pictures: still pictures were looked for, not recordings.

    Returns:
        None where a file is new or has changed.
    """
    notes = _read_notes(_notebook(root, cache_dir, pictures))
    return None if _is_new(listing, notes).any() else _join(listing, notes, root)


def holds_pictures_alone(root: Path, allow_links: bool = False) -> bool:
    """Whether there are still pictures somewhere in a folder, and no recording but perhaps a GIF."""
    walk = Walk(real_path(root), allow_links, MEDIA_SUFFIXES - PICTURE_SUFFIXES)
    return next(iter(walk), None) is None and not STILL_SUFFIXES.isdisjoint(walk.others)


def require_media(root: Path, allow_links: bool = False, pictures: bool = False) -> None:
    """Raise UsageError unless `root` is a folder with a recording, or a still picture, somewhere in it."""
    if url := re.match(r"([a-z][a-z0-9+]+):/", str(root)):
        raise UsageError(f"data.root is a URL ({url[1]}://...): files are scanned in a local folder")
    place = look(root)
    if place.kind == "nothing" and place.status != "vanished":
        raise UsageError(f"data.root={root} cannot be read: {place.reason}")
    if place.kind != "folder":
        what = "pictures" if pictures else "videos"
        raise UsageError(f"data.root={root}: {_what_instead(root, place.kind)}; point data.root at a folder of {what}")
    root = real_path(root)
    if not _is_utf8(str(root)):
        raise UsageError(f"data.root={str(root)!a}: the folder's name is not UTF-8; rename it")
    suffixes = suffixes_of(pictures)
    walk = Walk(root, allow_links, suffixes)
    if next(iter(walk), None) is None:
        looked_for = f"looked for {', '.join(sorted(suffixes))}"
        unread = f"{len(walk.faults)} folders or links cannot be read, such as {walk.faults[0]}" if walk.faults else ""
        why = "; ".join(filter(None, (looked_for, describe_suffixes(walk.others, suffixes), unread)))
        raise UsageError(f"data.root={root}: no {'picture' if pictures else 'media file'} in it ({why})")


def _what_instead(root: Path, kind: str) -> str:
    """What is in the place of a folder."""
    if kind != "nothing":
        return "that is a file, not a folder"
    if re.match(r"[A-Za-z]:[\\/]", str(root)):
        return "no such folder: that is a path of Windows (under WSL, C:\\Videos is /mnt/c/Videos)"
    return "no such folder"


def list_media(
    root: Path, allow_links: bool = False, suffixes: Set[str] = MEDIA_SUFFIXES, layout: str = "auto"
) -> pa.Table:
    """List every file below `root` with one of these suffixes, ordered by id; hidden ones are left out.

    No folder is read twice.  Links may lead anywhere below `root`; one that leads out of it is `refused` unless
    `allow_links`.  A warning tells of folders that cannot be read and of links to folders that are refused.

    Args:
        root: the folder, without links in its own path.
        allow_links: follow links that lead out of it.
        suffixes: of the files, in lower case.
        layout: what the folders mean; see datamodules.index.layout.read_layout.

    Returns:
        The manifest's columns id, path, split, label, bytes, mtime_ns, status, reason; a status only where the file
        need not be opened to know it.  Its metadata hold what describe_layout and other_suffixes say.

    Raises:
        UsageError: there is no such layout.
    """
    require_layout(layout)
    walk = Walk(root, allow_links, suffixes)
    paths: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    folders: list[int] = []
    faults: dict[int, tuple[str, str | None]] = {}
    folder_numbers: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for entry in walk:
        path = entry.folder + entry.name
        if entry.is_folder:
            log.warning(f"{root}/{path} is {entry.reason}")
        if entry.status is not None:
            faults[len(paths)] = (entry.status, entry.reason)
        if not path.isascii() and not _is_utf8(path):
            path = os.fsencode(path).decode("utf-8", "backslashreplace")
            faults[len(paths)] = ("refused", "the file's name is not UTF-8: rename it")
        paths.append(path)
        sizes.append(entry.size)
        times.append(entry.mtime_ns)
        folders.append(folder_numbers.setdefault(entry.folder, len(folder_numbers)))
        counts[entry.folder] += not entry.is_folder
    if walk.faults:
        log.warning(f"{len(walk.faults)} folders or links in {root} cannot be read, such as {walk.faults[0]}")
    rows = np.fromiter(faults, np.int64, len(faults))
    clean = {folder: os.fsencode(folder).decode("utf-8", "backslashreplace") for folder in folder_numbers}
    reading = read_layout({clean[folder]: counts[folder] for folder in clean}, layout)
    named = [reading.place(folder) for folder in clean.values()]
    status = _scattered(len(paths), rows, [fault[0] for fault in faults.values()])
    reason = _scattered(len(paths), rows, [fault[1] for fault in faults.values()])
    ids, number = pa.array(paths, pa.string()), pa.array(folders, pa.int32())
    columns = {
        "id": ids,
        "path": ids,
        "split": pa.array([split for split, _ in named], pa.string()).take(number),
        "label": pa.array([label for _, label in named], pa.string()).take(number),
        "start_s": pa.repeat(0.0, len(paths)),
        "end_s": pa.nulls(len(paths), pa.float64()),
        "bytes": pa.array(sizes, pa.int64()),
        "mtime_ns": pa.array(times, pa.int64()),
        "status": status,
        "reason": reason,
    }
    metadata = {METADATA_KEY: metadata_of(reading), _OTHERS_KEY: json.dumps(walk.others).encode()}
    return pa.table(columns).sort_by("id").replace_schema_metadata(metadata)


def other_suffixes(manifest: pa.Table, suffixes: Set[str] = MEDIA_SUFFIXES) -> str:
    """Count, in one line, the files that were not looked at because of their suffix; "" where there are none."""
    counts = json.loads((manifest.schema.metadata or {}).get(_OTHERS_KEY, b"{}"))
    return describe_suffixes(counts, suffixes)


def describe_suffixes(counts: Mapping[str, int], suffixes: Set[str] = MEDIA_SUFFIXES) -> str:
    """The sentence of other_suffixes for counts by suffix.

    Example: 31 files with other suffixes were not read: .md 12, .txt 3, none 2; still pictures, which
    modalities=[image] reads: .png 14
    """
    usual: Counter[str] = Counter()
    for suffix, count in counts.items():
        usual[suffix if re.fullmatch(r"\.\w{1,10}", suffix) and suffix.isascii() else "none"] += count
    parts = []
    for group, words in (
        (SOUND_SUFFIXES, "with sound alone, which modalities=[audio] reads"),
        (STILL_SUFFIXES, "still pictures, which modalities=[image] reads"),
        (FILM_SUFFIXES, "recordings, which modalities=[video,audio] reads"),
    ):
        counted = {suffix: usual.pop(suffix) for suffix in sorted(group - suffixes) if suffix in usual}
        parts += [f"{words}: {_counted(counted)}"] if counted else []
    parts = [_counted(usual), *parts] if usual else parts
    total = sum(counts.values())
    files = "file with another suffix was" if total == 1 else "files with other suffixes were"
    return f"{total:,} {files} not read: {'; '.join(parts)}" if parts else ""


def _counted(counts: Mapping[str, int], most: int = 8) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{suffix} {count:,}" for suffix, count in ordered[:most])
    return named + (f" and {len(ordered) - most} more suffixes" if len(ordered) > most else "")


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:  # names that are not UTF-8 have their bytes in lone surrogates
        return False
    return True


def _scattered(length: int, rows: np.ndarray, values: list[str | None]) -> pa.Array:
    """A column of nulls with some values in some rows."""
    place = np.full(length, -1)
    place[rows] = np.arange(len(rows))
    return pa.array(values, pa.string()).take(pa.array(place, mask=place < 0))


def _notebook(root: Path, cache_dir: Path, pictures: bool, task: tuple[int, int] = (0, 1)) -> Notebook:
    """The facts of the files below a folder that earlier scans have written down."""
    about = f"{root} {_PROBE_VERSION}{' pictures' if pictures else ''}"  # a GIF may be either
    return Notebook(cache_dir, "scan", about, [SCHEMA.field(name) for name in _FOUND], task)


def _read_notes(notebook: Notebook) -> pa.Table:
    """What is known of files from earlier scans, the newest first."""
    notes = notebook.read()
    # Earlier versions did not look at the sound of a file without a picture.
    return notes.filter(pc.not_equal(pc.fill_null(notes["reason"], ""), "no picture stream"))


def _join(listing: pa.Table, notes: pa.Table, root: Path) -> pa.Table:
    place = match(listing, notes)
    is_listed = pc.is_valid(listing["status"]).to_numpy()
    rows = notes.take(pa.array(place, mask=is_listed | (place < 0)))
    columns = {name: (listing if name in _LISTED else rows)[name] for name in SCHEMA.names}
    for name in ("status", "reason"):
        columns[name] = pc.if_else(pa.array(is_listed), listing[name], rows[name])
    metadata = {**listing.schema.metadata, b"root": str(root).encode()}
    return pa.table(columns, schema=SCHEMA).replace_schema_metadata(metadata)
