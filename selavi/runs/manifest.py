"""The manifest of a run or of a scan, read back, and the files that it names.

A manifest may come from anybody, and so may the media root in it.  Nothing outside of that root can be named, and a
file is the run's own only if its size and its time of change are those that the scan has written down, to the
nanosecond: who has not seen the file does not know them.  Where its time is not known, somebody who sits here must
have named the folder (data.root=NEW), or `selavi prepare` must have made it.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.errors import UsageError
from selavi.filesystem import look
from selavi.guarded.parquet import read_parquet
from selavi.media import MediaError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # path below the root: stays the same when the root moves
        ("path", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),  # null where there is none
        ("start_s", pa.float64()),  # where the clip begins in its recording
        ("end_s", pa.float64()),  # where it ends; null for a whole recording
        ("duration_s", pa.float64()),  # of the clip: of the picture; null where the file could not be probed
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("audio_state", pa.string()),  # ok, silent, absent, broken: there is sound, but it cannot be decoded
        ("audio_s", pa.float64()),  # seconds of sound, 0 where there is none that can be decoded
        ("audio_reason", pa.string()),  # why the sound is broken
        ("timing", pa.string()),  # where the times of frames come from: selavi.media.facts.Timing
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("status", pa.string()),  # one of STATUSES
        ("reason", pa.string()),  # in words; null for ok
    ]
)

ANY_TIME = 0
"""mtime_ns of a file whose time of change does not count: somebody has named its folder, or selavi has made it."""
TIME_ZERO = -1
"""mtime_ns of a file that was changed at time 0, by its manifest."""
PREPARED = "shards.json"
"""The file by which `selavi prepare` marks its folders."""

_LATER = ("start_s", "end_s", "audio_reason", "timing")
"""Columns that manifests of earlier versions lack."""
LEADS_OUT = r"^/|(^|/)\.\.(/|$)|\x00|^\.?$"
_ADVICE = "scan the media again, or get the file again from where it was made"


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest, of any version.

    Raises:
        UsageError: it cannot be read, is damaged or none, or names a file outside of its media root.
    """
    return check_manifest(read_parquet(path, advice=_ADVICE), str(path))


def check_manifest(table: pa.Table, name: str) -> pa.Table:
    """A manifest as this version writes it, of one that may come from anybody.

    Raises:
        UsageError: columns are missing or of another kind, an id or a path is empty, a path leads out of the media
            root, a length is no number.
    """
    table = complete(table)
    missing = [field for field in SCHEMA.names if field not in table.column_names]
    if missing:
        raise UsageError(f"{name} lacks the columns {', '.join(missing)}: expected a manifest of a scan or of a run")
    if b"root" not in (table.schema.metadata or {}):
        raise UsageError(f"{name} does not say where its media are: expected a manifest of a scan or of a run")
    try:
        media_root(table)
        for field in SCHEMA:
            if table.schema.field(field.name).type != field.type:
                values = table[field.name].cast(field.type)
                table = table.set_column(table.schema.get_field_index(field.name), field, values)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is no manifest, or it is damaged ({error}): {_ADVICE}") from error
    for column in ("id", "path"):
        if table[column].null_count:
            raise UsageError(f"{name} is damaged: {table[column].null_count} rows have no {column}: {_ADVICE}")
    _require_inside(table, name)
    _require_lengths(table, name)
    return _with_times(table)


def complete(table: pa.Table) -> pa.Table:
    """A manifest with the columns that it lacks because an earlier version wrote it: its clips are whole recordings."""
    for field in SCHEMA:
        if field.name in _LATER and field.name not in table.column_names:
            values = pa.repeat(0.0, len(table)) if field.name == "start_s" else pa.nulls(len(table), field.type)
            table = table.append_column(field, values)
    return table


def media_root(manifest: pa.Table) -> Path:
    """The folder that the manifest's paths start from."""
    return Path(manifest.schema.metadata[b"root"].decode())


def require_unchanged(path: Path | str, num_bytes: int, mtime_ns: int) -> None:
    """Check that a file is still the one that was scanned.

    Args:
        path: of the file.
        num_bytes: its size.
        mtime_ns: its time of change, ANY_TIME or TIME_ZERO.

    Raises:
        MediaError: it has vanished, has changed or cannot be read.
    """
    now = look(path)
    if now.status:
        raise MediaError(Path(path), now.status, now.reason)
    if now.bytes != num_bytes:
        raise MediaError(Path(path), "changed", f"{now.bytes} bytes, {num_bytes} when it was scanned: scan it again")
    expected = 0 if mtime_ns == TIME_ZERO else mtime_ns
    if mtime_ns != ANY_TIME and now.mtime_ns != expected:
        raise MediaError(Path(path), "changed", "written to since it was scanned: scan it again")


def file_state(path: Path | str, num_bytes: int, mtime_ns: int) -> Literal["", "changed", "missing"]:
    """What is wrong with a file, as require_unchanged tells; empty where it is the one that was scanned."""
    try:
        require_unchanged(path, num_bytes, mtime_ns)
    except MediaError as fault:
        return "changed" if fault.reason == "changed" else "missing"
    return ""


def _require_inside(table: pa.Table, name: str) -> None:
    outside = table["path"].filter(pc.match_substring_regex(table["path"], LEADS_OUT))
    if len(outside):
        raise UsageError(
            f"{name} names {len(outside)} of {len(table)} files outside of its media folder {media_root(table)}, such "
            f"as {outside[0].as_py()!r}: nothing outside of it is read; scan the folder that the files are in"
        )


def _require_lengths(table: pa.Table, name: str) -> None:
    for column in ("start_s", "end_s", "duration_s", "audio_s"):
        values = table[column].drop_null().to_numpy()
        wrong = ~np.isfinite(values) | (values < 0)
        if wrong.any():
            raise UsageError(f"{name} is damaged: {wrong.sum()} rows have {values[wrong][0]} as {column}: {_ADVICE}")


def _with_times(table: pa.Table) -> pa.Table:
    """Where nobody here vouches for the folder, a time of change that is not known counts as time 0."""
    if os.path.isfile(media_root(table) / PREPARED):
        return table
    times = table["mtime_ns"]
    times = pc.if_else(pc.equal(times, ANY_TIME), pa.scalar(TIME_ZERO, pa.int64()), times)
    return table.set_column(table.schema.get_field_index("mtime_ns"), SCHEMA.field("mtime_ns"), times)
