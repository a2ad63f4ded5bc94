"""The manifest: one row for each media file, as found by a scan.  Its `id` is the only key anywhere.

Facts (what a file holds) and judgement (what a run can use) are two things: a scan writes facts, `judge` turns them
into the statuses of a run.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.layout import split_of
from datamodules.index.suffixes import SOUND_SUFFIXES
from selavi.errors import UsageError
from selavi.guarded.parquet import write_parquet
from selavi.modalities import MODALITIES, SLACK_S, Fault
from selavi.runs.manifest import SCHEMA, media_root

STATUSES = (
    "ok",
    "silent",
    "no_audio",
    "bad_audio",
    "no_video",
    "double",
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

_BY_CHOICE = ("silent", "no_audio", "double")
_JUDGED = ("ok", "too_short", "bad_audio", "no_video", "silent", "no_audio")


_SOUND_NAME = rf"(?i)({'|'.join(map(re.escape, sorted(SOUND_SUFFIXES)))})$"


def write_manifest(table: pa.Table, path: Path) -> None:
    """Write a manifest as Parquet, whole or not at all."""
    write_parquet(table, path)


def usable(manifest: pa.Table) -> pa.Table:
    """The rows without a fault."""
    return _keep(manifest, pc.equal(manifest["status"], "ok"))


def probed(manifest: pa.Table) -> pa.Table:
    """The rows of files that could be probed, whatever a run makes of them."""
    return _keep(manifest, pc.is_valid(manifest["duration_s"]))


def bad(manifest: pa.Table) -> pa.Table:
    """The rows that count against data.max_bad_fraction.

    Those are neither usable nor left out by the run's own choice: data.audio_policy, data.doubles, or modalities that
    hear nothing.
    """
    is_fine = pc.is_in(manifest["status"], pa.array(["ok", *_BY_CHOICE]))
    is_sound = pc.fill_null(pc.match_substring_regex(manifest["path"], _SOUND_NAME), False)
    return manifest.filter(pc.invert(pc.or_(is_fine, pc.and_(pc.equal(manifest["status"], "no_video"), is_sound))))


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
    has_nothing = np.ones(len(manifest), bool)
    whys: list[Fault] = []
    for kind in (MODALITIES[name] for name in modalities):
        of_kind = list(kind.faults({name: manifest[name].to_numpy() for name in kind.columns}, clip_s))
        faults += of_kind if kind.required(audio_policy, modalities) else []
        can_lack = bool(of_kind) and not kind.blank_counts(audio_policy)
        has_nothing &= np.any([fault.rows for fault in of_kind], 0) if can_lack else False
        whys = of_kind + whys
    faults += [fault._replace(rows=fault.rows & has_nothing) for fault in whys]
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


def describe_missing(manifest: pa.Table, audio_policy: str, kinds: Mapping[str, str]) -> str:
    """Count the usable clips that lack some of a run's modalities, by modality; empty where all have all.

    Args:
        manifest: judged.
        audio_policy: of the run.
        kinds: of its modalities, by name.
    """
    rows, parts = usable(manifest), []
    for name, kind in ((name, MODALITIES[kind]) for name, kind in kinds.items()):
        faults = kind.faults({column: rows[column].to_numpy() for column in kind.columns}, 0.0)
        lacks = [] if kind.blank_counts(audio_policy) else [fault.rows for fault in faults]
        places = np.flatnonzero(np.any(lacks, 0)) if lacks else np.zeros(0, int)
        if len(places):
            parts.append(f"{len(places):,} have no {name} (such as {rows['path'][int(places[0])]})")
    return f"of {len(rows):,} clips {', '.join(parts)}: they are learned and labelled by the rest" if parts else ""


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
    """The chosen rows; no copy where that is all of them, for they may be millions."""
    return manifest if pc.all(rows, min_count=0).as_py() else manifest.filter(rows)


def _replace(manifest: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        manifest = manifest.set_column(manifest.schema.get_field_index(name), SCHEMA.field(name), values)
    return manifest
