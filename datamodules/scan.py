"""From a folder of media to a manifest: every file is probed once, in parallel, and remembered between runs."""

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Set
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.manifest import SCHEMA, read_manifest, write_manifest
from datamodules.probing import probe_file
from datamodules.progress import follow
from datamodules.workers import Failure, run_jobs
from selavi.errors import UsageError

MEDIA_SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".mpg", ".mpeg", ".m4a"}
SOUND_SUFFIXES = {".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".mka"}
"""Of files with sound alone, which training does not use and tools/assign.py does."""
SPLITS = {"train", "val", "valid", "validate", "validation", "test"}
PROBE_MEMORY = 2 << 30
"""Bytes that a worker may take to probe a file."""

_LISTED = ("id", "path", "split", "label", "bytes", "mtime_ns")
_FOUND = [name for name in SCHEMA.names if name not in _LISTED]
_REMEMBERED = pa.schema([SCHEMA.field(name) for name in ("id", "bytes", "mtime_ns", *_FOUND)])
_NOT_REMEMBERED = ("vanished", "changed")

log = logging.getLogger("selavi")


def scan(
    root: Path,
    cache_dir: Path,
    workers: int = 0,
    *,
    deadline_s: float = 30.0,
    allow_links: bool = False,
    retry: bool = False,
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
        retry: probe files again that could not be used.

    Raises:
        UsageError: the folder does not exist or holds no media file.
    """
    require_media(root, allow_links)
    root = root.resolve()
    listing = list_media(root, allow_links)
    name = f"scan-{hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest()}"
    store, journal = cache_dir / f"{name}.parquet", cache_dir / f"{name}.jsonl"
    known = _remembered(store, journal)
    forget = pc.not_equal(known["status"], "ok") if retry else pc.is_in(known["status"], pa.array(_NOT_REMEMBERED))
    place = _match(listing, known.filter(pc.invert(forget)))
    todo = np.flatnonzero((place < 0) & pc.is_null(listing["status"]).to_numpy())
    if len(todo):
        cache_dir.mkdir(parents=True, exist_ok=True)
        files = listing.select(["id", "bytes", "mtime_ns"]).take(pa.array(todo))
        _probe_all(root, files, journal, workers, deadline_s)
        known = _remembered(store, journal)
    table = _join(listing, known).replace_schema_metadata({"root": str(root)})
    if journal.exists():
        write_manifest(table, store)
        journal.unlink()
    return table


def require_media(root: Path, allow_links: bool = False) -> None:
    """Raise UsageError unless `root` is a folder with a media file somewhere in it."""
    if not root.is_dir():
        raise UsageError(f"data.root={root}: {_what_instead(root)}; point data.root at a folder of videos")
    if not _is_utf8(str(root.resolve())):
        raise UsageError(f"data.root={str(root)!a}: the folder's name is not UTF-8; rename it")
    if next(_walk(root.resolve(), allow_links, []), None) is None:
        raise UsageError(f"data.root={root}: no media file in it (looked for {', '.join(sorted(MEDIA_SUFFIXES))})")


def _what_instead(root: Path) -> str:
    """What is in the place of a folder."""
    if root.exists():
        return "that is a file, not a folder"
    if re.match(r"[A-Za-z]:[\\/]", str(root)):
        return "no such folder: that is a path of Windows (under WSL, C:\\Videos is /mnt/c/Videos)"
    return "no such folder"


def list_media(root: Path, allow_links: bool = False, suffixes: Set[str] = MEDIA_SUFFIXES) -> pa.Table:
    """List every file below `root` with one of these suffixes, ordered by id; hidden ones are left out.

    No folder is read twice.  Links may lead anywhere below `root`; one that leads out of it is `refused` unless
    `allow_links`.  A warning tells of folders that cannot be read and of links to folders that are refused.

    Returns:
        The manifest's columns id, path, split, label, bytes, mtime_ns, status, reason; a status only where the file
        need not be opened to know it.
    """
    unreadable: list[OSError] = []
    paths: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    folders: list[int] = []
    faults: dict[int, tuple[str, str | None]] = {}
    folder_numbers: dict[str, int] = {}
    for entry in _walk(root, allow_links, unreadable, suffixes):
        path = entry.folder + entry.name
        if entry.status is not None:
            faults[len(paths)] = (entry.status, entry.reason)
        if not path.isascii() and not _is_utf8(path):
            path = os.fsencode(path).decode("utf-8", "backslashreplace")
            faults[len(paths)] = ("refused", "the file's name is not UTF-8: rename it")
        paths.append(path)
        sizes.append(entry.size)
        times.append(entry.mtime_ns)
        folders.append(folder_numbers.setdefault(entry.folder, len(folder_numbers)))
    if unreadable:
        log.warning(f"{len(unreadable)} folders in {root} cannot be read, such as {unreadable[0]}")
    named = [split_and_label(os.fsencode(folder).decode("utf-8", "backslashreplace")) for folder in folder_numbers]
    rows = np.fromiter(faults, np.int64, len(faults))
    status = _scattered(len(paths), rows, [fault[0] for fault in faults.values()])
    reason = _scattered(len(paths), rows, [fault[1] for fault in faults.values()])
    ids, number = pa.array(paths, pa.string()), pa.array(folders, pa.int32())
    columns = {
        "id": ids,
        "path": ids,
        "split": pa.array([split for split, _ in named], pa.string()).take(number),
        "label": pa.array([label for _, label in named], pa.string()).take(number),
        "bytes": pa.array(sizes, pa.int64()),
        "mtime_ns": pa.array(times, pa.int64()),
        "status": status,
        "reason": reason,
    }
    return pa.table(columns).sort_by("id")


class _Entry(NamedTuple):
    """A file, or a link to a folder that is not followed."""

    folder: str
    """Path below the root, empty or with a slash at its end."""
    name: str
    size: int = 0
    mtime_ns: int = 0
    status: str | None = None
    reason: str | None = None


def _walk(
    root: Path, allow_links: bool, unreadable: list[OSError], suffixes: Set[str] = MEDIA_SUFFIXES
) -> Iterator[_Entry]:
    waiting, links = [""], list[str]()  # links come last: a folder has its own name wherever it is below the root
    seen: set[tuple[int, int]] = set()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            identity = os.stat(root / folder)
            if (identity.st_dev, identity.st_ino) in seen:
                continue
            seen.add((identity.st_dev, identity.st_ino))
            entries = os.scandir(root / folder)
        except OSError as error:
            unreadable.append(error)
            continue
        with entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{folder}{name}/")
                    continue
                is_media = name[name.rfind(".") :].lower() in suffixes
                if entry.is_symlink():
                    to_folder = entry.is_dir()
                    if not is_media and not to_folder:
                        continue
                    target = os.path.realpath(entry.path)
                    leaves = not Path(target).is_relative_to(root) and os.path.exists(target)
                    if leaves and not allow_links:
                        if to_folder:
                            log.warning(f"{entry.path} is a link to the folder {target}: see its reason, refused")
                        what = "a folder" if to_folder else "a file"
                        reason = f"a link to {what} outside of data.root, {target!a}: allow it with data.allow_links"
                        yield _Entry(folder, name, status="refused", reason=reason)
                        continue
                    if to_folder:
                        links.append(f"{folder}{name}/")
                        continue
                if is_media:
                    yield _file(folder, entry)


def _file(folder: str, entry: os.DirEntry[str]) -> _Entry:
    try:
        found = entry.stat()
    except OSError as error:  # a link to nothing, or deleted a moment ago
        return _Entry(folder, entry.name, status="vanished", reason=error.strerror or str(error))
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        return _Entry(folder, entry.name, status="refused", reason="not a file but a pipe, a socket or a device")
    return _Entry(folder, entry.name, found.st_size, found.st_mtime_ns)


def split_and_label(path: str) -> tuple[str, str | None]:
    """Read the split and the class from a path below the root.

    {split}/{class}/.../{file} where the first folder is named like a split, else {class}/.../{file} in `train`.
    """
    folders = path.split("/")[:-1]
    split = folders.pop(0) if folders and folders[0] in SPLITS else "train"
    return split, folders[0] if folders else None


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


def _remembered(store: Path, journal: Path) -> pa.Table:
    """What is known of files from earlier scans, the newest first."""
    tables = []
    if journal.exists():
        with journal.open(encoding="utf-8") as file:
            while lines := list(islice(file, 50_000)):  # a block at a time: dicts take much more room than columns
                rows = [row for row in map(_parse, lines) if row]
                tables.append(pa.Table.from_pylist(rows[::-1], schema=_REMEMBERED))
    tables.reverse()
    if store.exists():
        tables.append(read_manifest(store).select(_REMEMBERED.names).replace_schema_metadata())
    return pa.concat_tables([*tables, _REMEMBERED.empty_table()])


def _parse(line: str) -> dict[str, object]:
    try:
        return dict(json.loads(line))
    except ValueError:  # the scan was killed in the middle of this line
        return {}


def _match(listing: pa.Table, known: pa.Table) -> np.ndarray:
    """Row of `known` with the same path, size and time for each listed file, the first of several; -1 for none."""
    keys = [
        pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in ("mtime_ns", "bytes", "id")), " ")
        for table in (listing, known)
    ]
    return pc.fill_null(pc.index_in(keys[0], value_set=keys[1].combine_chunks()), -1).to_numpy()


def _join(listing: pa.Table, known: pa.Table) -> pa.Table:
    place = _match(listing, known)
    told = pc.is_valid(listing["status"]).to_numpy()
    rows = known.take(pa.array(place, mask=told | (place < 0)))
    columns = {name: (listing if name in _LISTED else rows)[name] for name in SCHEMA.names}
    for name in ("status", "reason"):
        columns[name] = pc.if_else(pa.array(told), listing[name], rows[name])
    return pa.table(columns, schema=SCHEMA)


def _probe_all(root: Path, files: pa.Table, journal: Path, workers: int, deadline_s: float) -> None:
    """Probe files and write what is found to the journal, line by line."""
    jobs = (
        tuple(row.values()) for batch in files.to_batches(max_chunksize=10_000) for row in batch.to_pylist()
    )  # dicts of a block at a time
    results = run_jobs(
        partial(probe_file, str(root)), jobs, workers=workers, deadline_s=deadline_s, memory_bytes=PROBE_MEMORY
    )
    ids, sizes, times = (files[name].combine_chunks() for name in ("id", "bytes", "mtime_ns"))
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n")  # the last line may be half a line
        for number, found in follow(results, "scanning", len(files)):
            row = {"status": found.reason, "reason": found.detail} if isinstance(found, Failure) else found
            key = {"id": ids[number].as_py(), "bytes": sizes[number].as_py(), "mtime_ns": times[number].as_py()}
            file.write(json.dumps(key | row) + "\n")
            file.flush()
