"""From a folder of media to a manifest: every file is probed once, in parallel, and remembered between runs."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.manifest import SCHEMA, read_manifest, write_manifest
from datamodules.progress import follow
from selavi.errors import UsageError
from selavi.media import MediaError, probe

MEDIA_SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".mpg", ".mpeg"}
SPLITS = {"train", "val", "valid", "validation", "test"}

log = logging.getLogger("selavi")


def scan(root: Path, cache_dir: Path, workers: int = 0) -> pa.Table:
    """Probe every media file below `root` and return the manifest, ordered by id.

    Results are kept in `cache_dir` by path, size and time of change: a second scan probes only what is new, and
    an interrupted one goes on where it was.

    Raises:
        UsageError: the folder does not exist or holds no media file.
    """
    require_media(root)
    root = root.resolve()
    files = find_media(root)
    name = f"scan-{hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest()}"
    store, journal = cache_dir / f"{name}.parquet", cache_dir / f"{name}.jsonl"
    known = {_fingerprint(row): row for row in _remembered(store, journal)}
    rows = [_row(root, path) for path in files]
    known |= {_fingerprint(row): row for row in rows if "status" in row}
    todo = [row for row in rows if _fingerprint(row) not in known]
    if todo:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as file:
            file.write("\n")  # the last line may be half a line
            for row in _probe_all(root, todo, workers):
                known[_fingerprint(row)] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
    probed = [{**known[_fingerprint(row)], "split": row["split"], "label": row["label"]} for row in rows]
    table = pa.Table.from_pylist(probed, schema=SCHEMA.with_metadata({"root": str(root)}))
    if todo:
        write_manifest(table, store)
        journal.unlink(missing_ok=True)
    return table


def require_media(root: Path) -> None:
    """Raise UsageError unless `root` is a folder with a media file somewhere in it."""
    if not root.is_dir():
        raise UsageError(f"data.root={root}: no such folder; point data.root at a folder of videos")
    if not _is_utf8(str(root.resolve())):
        raise UsageError(f"data.root={str(root)!a}: the folder's name is not UTF-8; rename it")
    if next(_walk(root, []), None) is None:
        raise UsageError(f"data.root={root}: no media file in it (looked for {', '.join(sorted(MEDIA_SUFFIXES))})")


def find_media(root: Path) -> list[str]:
    """Paths below `root`, with forward slashes, of every file with a media suffix; hidden ones are left out.

    Links to folders are followed, but no folder is read twice.  A warning tells of folders that cannot be read.
    """
    unreadable: list[OSError] = []
    found = sorted(_walk(root, unreadable))
    if unreadable:
        log.warning(f"{len(unreadable)} folders in {root} cannot be read, such as {unreadable[0]}")
    return found


def _walk(root: Path, unreadable: list[OSError]) -> Iterator[str]:
    seen = {_identity(root)}
    for folder, folders, files in os.walk(root, onerror=unreadable.append, followlinks=True):
        fresh = {name: _identity(Path(folder) / name) for name in sorted(folders) if not name.startswith(".")}
        folders[:] = [name for name, identity in fresh.items() if identity not in seen]
        seen |= set(fresh.values())
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in MEDIA_SUFFIXES:
                yield (Path(folder) / name).relative_to(root).as_posix()


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def split_and_label(path: str) -> tuple[str, str | None]:
    """Read the split and the class from a path below the root.

    {split}/{class}/.../{file} where the first folder is named like a split, else {class}/.../{file} in `train`.
    """
    folders = path.split("/")[:-1]
    split = folders.pop(0) if folders and folders[0] in SPLITS else "train"
    return split, folders[0] if folders else None


def _row(root: Path, path: str) -> dict[str, Any]:
    try:
        stat = (root / path).stat()
        size, mtime_ns = stat.st_size, stat.st_mtime_ns
    except OSError:  # a link to nothing, or deleted a moment ago: probing it gives the reason
        size, mtime_ns = 0, 0
    refused = {}
    if not _is_utf8(path):
        path = os.fsencode(path).decode("utf-8", "backslashreplace")
        refused = {"status": "refused", "reason": "the file's name is not UTF-8: rename it"}
    split, label = split_and_label(path)
    row = {"id": path, "path": path, "split": split, "label": label, "bytes": size, "mtime_ns": mtime_ns}
    return row | refused


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:  # os.walk hides bytes that are not UTF-8 in lone surrogates
        return False
    return True


def _fingerprint(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["id"], row["bytes"], row["mtime_ns"]


def _remembered(store: Path, journal: Path) -> Iterator[dict[str, Any]]:
    if store.exists():
        yield from read_manifest(store).to_pylist()
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the scan was killed in the middle of this line
                continue


def _probe_all(root: Path, rows: list[dict[str, Any]], workers: int) -> Iterable[dict[str, Any]]:
    with worker_pool(workers, len(rows)) as pool:
        jobs = pool.map(_probe_one, [str(root)] * len(rows), rows, chunksize=8)
        yield from follow(jobs, "scanning", len(rows))


def _probe_one(root: str, row: dict[str, Any]) -> dict[str, Any]:
    try:
        info = probe(Path(root) / row["path"])
    except MediaError as error:
        return {**row, "status": error.reason, "reason": error.detail}
    return {**row, **asdict(info), "status": "ok", "reason": None}


def worker_pool(workers: int, num_jobs: int) -> ProcessPoolExecutor:
    """Processes for independent jobs; 0 workers: one a core.  Fresh processes, because forked FFmpeg may hang."""
    return ProcessPoolExecutor(max(1, min(workers or os.cpu_count() or 1, num_jobs)), get_context("forkserver"))
