"""The manifest: one row for each media file, as found by a scan.  Its `id` is the only key anywhere.

Facts (what a file holds) and judgement (what a run can use) are two things: a scan writes facts, `judge` turns them
into the statuses of a run.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.index.layout import split_of
from selavi.atomic import write_atomically
from selavi.errors import UsageError
from selavi.filesystem import look
from selavi.media import MediaError
from selavi.modalities import MODALITIES, SLACK_S, Fault

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # path below the root: stays the same when the root moves
        ("path", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),  # null where there is none
        ("duration_s", pa.float64()),  # of the picture; null where the file could not be probed
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

STATUSES = (
    "ok",
    "silent",
    "no_audio",
    "bad_audio",
    "no_video",
    "too_short",
    "corrupt",
    "not_media",
    "empty",
    "refused",
    "timeout",
    "vanished",
    "changed",
    "unreadable",
)
"""Every status there is: `ok`, or why a file cannot be used."""

_BY_CHOICE = ("silent", "no_audio")
_JUDGED = ("ok", "too_short", "bad_audio", *_BY_CHOICE)
_LATER = ("audio_reason", "timing")
"""Columns that manifests of version 0.1 lack."""


def write_manifest(table: pa.Table, path: Path) -> None:
    """Write a manifest as Parquet, whole or not at all."""
    with write_atomically(path) as temporary:
        pq.write_table(table, temporary)


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest, of any version."""
    return complete(pq.read_table(path))


def complete(table: pa.Table) -> pa.Table:
    """A manifest with the columns that it lacks because an earlier version wrote it; they are null."""
    for field in SCHEMA:
        if field.name in _LATER and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def media_root(manifest: pa.Table) -> Path:
    """The folder that the manifest's paths start from."""
    return Path(manifest.schema.metadata[b"root"].decode())


def usable(manifest: pa.Table) -> pa.Table:
    """The rows without a fault."""
    return _keep(manifest, pc.equal(manifest["status"], "ok"))


def probed(manifest: pa.Table) -> pa.Table:
    """The rows of files that could be probed, whatever a run makes of them."""
    return _keep(manifest, pc.is_valid(manifest["duration_s"]))


def bad(manifest: pa.Table) -> pa.Table:
    """The rows that count against data.max_bad_fraction.

    Those are neither usable nor left out by the run's own data.audio_policy.
    """
    return manifest.filter(pc.invert(pc.is_in(manifest["status"], pa.array(["ok", *_BY_CHOICE]))))


def select_split(manifest: pa.Table, split: str) -> pa.Table:
    """The rows of one split: the one of that name, else the only one with another usual word for it (val, validate).

    Raises:
        UsageError: there are none, or several other words; the message lists the splits that exist.
    """
    rows = _keep(manifest, pc.equal(manifest["split"], split))
    if len(rows):
        return rows
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(manifest["split"]).to_pylist()}
    same = [name for name in counts if name and split_of(split) is not None and split_of(name) == split_of(split)]
    if len(same) == 1:
        return _keep(manifest, pc.equal(manifest["split"], same[0]))
    splits = ", ".join(f"{name} ({count} files)" for name, count in sorted(counts.items(), key=str))
    raise UsageError(
        f"no file in split {split!r} of {media_root(manifest)}; found: {splits or 'nothing'}. data.layout says what "
        "the folders mean, data.train_split which split is trained on"
    )


def judge(manifest: pa.Table, *, clip_s: float, audio_policy: str, modalities: Collection[str]) -> pa.Table:
    """Turn facts into the statuses of a run: `too_short`, `no_audio`, `silent`, `bad_audio`.

    A manifest that was judged before is judged anew: other settings, other statuses.  Files that cannot be read keep
    their status.

    Args:
        manifest: of a scan.
        clip_s: length of a clip in seconds.
        audio_policy: require, mask or zeros.  With `audio` as the only modality nothing is left of a masked clip, so
            mask then means require.
        modalities: of the run.
    """
    status, reason = manifest["status"].combine_chunks(), manifest["reason"].combine_chunks()
    duration_s = manifest["duration_s"].to_numpy().astype(float)
    readable = pc.is_in(status, pa.array(_JUDGED)).to_numpy(zero_copy_only=False) & ~np.isnan(duration_s)
    is_short = duration_s < clip_s - SLACK_S
    faults = [Fault("too_short", is_short, lambda row: f"{duration_s[row]:.2f} s, data.clip_s={clip_s}")]
    for kind in (MODALITIES[name] for name in modalities):
        if kind.required(audio_policy, modalities):
            faults += kind.faults({name: manifest[name].to_numpy() for name in kind.columns}, clip_s)
    status = pc.if_else(pa.array(readable), "ok", status)
    reason = pc.if_else(pa.array(readable), pa.scalar(None, pa.string()), reason)
    undecided = readable
    for fault in faults:
        concerned = undecided & fault.rows
        undecided = undecided & ~concerned
        status = pc.if_else(pa.array(concerned), fault.status, status)
        words = pa.array([fault.explain(row) for row in np.flatnonzero(concerned).tolist()], pa.string())
        reason = pc.replace_with_mask(reason, pa.array(concerned), words)
    return _replace(manifest, status=status, reason=reason)


def mark_broken_sound(manifest: pa.Table, faults: Mapping[str, str]) -> pa.Table:
    """Return the manifest with the sound of some rows, by id, noted as broken, with the reason."""
    place = pc.fill_null(pc.index_in(manifest["id"], value_set=pa.array(faults, pa.string())), -1).to_numpy()
    broken = pa.array(place >= 0)
    reasons = pa.array(faults.values(), pa.string()).take(pa.array(place[place >= 0]))
    return _replace(
        manifest,
        audio_state=pc.if_else(broken, "broken", manifest["audio_state"].combine_chunks()),
        audio_s=pc.if_else(broken, 0.0, manifest["audio_s"].combine_chunks()),
        audio_reason=pc.replace_with_mask(manifest["audio_reason"].combine_chunks(), broken, reasons),
    )


def mark_unusable(manifest: pa.Table, faults: Mapping[str, tuple[str, str]]) -> pa.Table:
    """Return the manifest with (status, reason) of some usable rows replaced."""
    place = pc.fill_null(pc.index_in(manifest["id"], value_set=pa.array(faults, pa.string())), -1).to_numpy()
    is_faulty = (place >= 0) & pc.equal(manifest["status"], "ok").to_numpy()
    columns = {}
    for position, name in enumerate(("status", "reason")):
        words = pa.array([fault[position] for fault in faults.values()], pa.string())
        new = words.take(pa.array(place[is_faulty]))
        columns[name] = pc.replace_with_mask(manifest[name].combine_chunks(), pa.array(is_faulty), new)
    return _replace(manifest, **columns)


def describe_bad(manifest: pa.Table) -> str:
    """Count the unusable files by status, with an example each; empty where there are none."""
    rows = manifest.filter(pc.not_equal(manifest["status"], "ok")).select(["status", "path"])
    grouped = rows.group_by("status", use_threads=False).aggregate([("path", "count"), ("path", "first")])
    found = zip(*(grouped[name].to_pylist() for name in ("status", "path_count", "path_first")), strict=True)
    return "; ".join(f"{count} {status} (such as {path})" for status, count, path in sorted(found))


def _keep(manifest: pa.Table, rows: pa.ChunkedArray) -> pa.Table:
    """The chosen rows; no copy where that is all of them: a million take 250 MB."""
    return manifest if pc.all(rows, min_count=0).as_py() else manifest.filter(rows)


def _replace(manifest: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        manifest = manifest.set_column(manifest.schema.get_field_index(name), SCHEMA.field(name), values)
    return manifest


def require_unchanged(path: Path, num_bytes: int, mtime_ns: int) -> None:
    """Check that a file is still the one that was scanned; `mtime_ns` 0: its time of change is not known.

    Raises:
        MediaError: it has vanished, has changed or cannot be read.
    """
    now = look(path)
    if now.status:
        raise MediaError(path, now.status, now.reason)
    if now.bytes != num_bytes:
        raise MediaError(path, "changed", f"{now.bytes} bytes, {num_bytes} when it was scanned: scan it again")
    if mtime_ns and now.mtime_ns != mtime_ns:
        raise MediaError(path, "changed", "written to since it was scanned: scan it again")
