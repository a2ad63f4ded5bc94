"""The manifest: one row for each media file, as found by a scan.  Its `id` is the only key anywhere."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selavi.atomic import write_atomically
from selavi.errors import UsageError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # path below the root: stays the same when the root moves
        ("path", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),  # null where there is none
        ("duration_s", pa.float64()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("audio_state", pa.string()),  # ok, silent, absent
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("status", pa.string()),  # ok, or why the file cannot be used
        ("reason", pa.string()),
    ]
)


def write_manifest(table: pa.Table, path: Path) -> None:
    """Write a manifest as Parquet, whole or not at all."""
    with write_atomically(path) as temporary:
        pq.write_table(table, temporary)


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest."""
    return pq.read_table(path)


def media_root(manifest: pa.Table) -> Path:
    """The folder that the manifest's paths start from."""
    return Path(manifest.schema.metadata[b"root"].decode())


def usable(manifest: pa.Table) -> pa.Table:
    """The rows without a fault."""
    return manifest.filter(np.array([status == "ok" for status in manifest["status"].to_pylist()], dtype=bool))


def select_split(manifest: pa.Table, split: str) -> pa.Table:
    """The rows of one split.

    Raises:
        UsageError: there are none; the message lists the splits that exist.
    """
    splits = Counter(manifest["split"].to_pylist())
    if split not in splits:
        found = ", ".join(f"{name} ({count} files)" for name, count in sorted(splits.items()))
        raise UsageError(f"no file in split {split!r} of {media_root(manifest)}; found: {found or 'nothing'}")
    return manifest.filter(np.array([name == split for name in manifest["split"].to_pylist()], dtype=bool))


def mark_unusable(manifest: pa.Table, faults: dict[str, tuple[str, str]]) -> pa.Table:
    """Return the manifest with (status, reason) of some ids replaced."""
    ids = manifest["id"].to_pylist()
    columns = {name: manifest[name].to_pylist() for name in ("status", "reason")}
    for row, clip_id in enumerate(ids):
        if clip_id in faults:
            columns["status"][row], columns["reason"][row] = faults[clip_id]
    for name, values in columns.items():
        manifest = manifest.set_column(manifest.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return manifest


def describe_bad(manifest: pa.Table) -> str:
    """Count the unusable files by reason, with an example each; empty where there are none."""
    reasons: dict[str, list[str]] = {}
    for row in manifest.select(["path", "status"]).to_pylist():
        if row["status"] != "ok":
            reasons.setdefault(row["status"], []).append(row["path"])
    return "; ".join(f"{len(paths)} {reason} (such as {paths[0]})" for reason, paths in sorted(reasons.items()))
