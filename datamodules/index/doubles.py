"""Files that are there more than once: byte for byte, or the same recording encoded anew, made smaller or shortened.

    sizes that occur twice -> a few bytes of each -> all bytes                         equal
    fingerprints -> those whose mean picture or mean spectrum is next to each other
                 -> all bits compared at every shift                                   near-equal

Fingerprints are in datamodules.index.fingerprints.  The cost is linear in the files: of many, only those in a bucket of
some thousand are compared, and buckets are drawn several times (random hyperplanes).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datamodules.index.fingerprints import (
    BANDS,
    PICTURE_BYTES,
    PICTURES_A_SECOND,
    SOUND_BYTES,
    STEPS_A_SECOND,
    bits_from_text,
    difference,
    fingerprint_of,
    mean_picture,
    spectrum_from_text,
)
from datamodules.index.notebook import Notebook
from selavi.media import MediaError
from selavi.runs.manifest import media_root, require_unchanged

MOST_PICTURE, MOST_SOUND = 0.30, 0.38
"""Shares of bits that differ at most between near-equal files which have both picture and sound; chance is 0.5."""
MOST_PICTURE_ALONE, MOST_SOUND_ALONE = 0.05, 0.25
"""Where only one of them can be compared."""
_VERSION = 1
_PEEK = 4096
_BUCKET, _TABLES, _NEAREST = 4096, 8, 4
_DEADLINE_S, _MEMORY = 600.0, 4 << 30


@dataclass(frozen=True)
class Doubles:
    """Which rows of a manifest are the same recording."""

    group: np.ndarray
    """(n,) number of the group of a row's file, -1 for a file of its own; rows of one file are no doubles."""
    is_near: np.ndarray
    """(n,) whether it is equal to no other one byte for byte."""
    num_unread: int
    """Files that could not be looked into."""


def find_doubles(manifest: pa.Table, cache_dir: Path, *, near: bool, workers: int = 0) -> Doubles:
    """Find the doubles among the usable files of a manifest; what was learned of a file is remembered.

    Args:
        manifest: judged.
        cache_dir: where digests and fingerprints are kept.
        near: look for near-equal files as well: each is decoded once.
        workers: processes; 0: one for each core.
    """
    names = ["path", "bytes", "mtime_ns", "width", "audio_state", "audio_s"]
    rows = np.flatnonzero(pc.equal(manifest["status"], "ok").to_numpy(zero_copy_only=False))
    paths = manifest["path"].take(pa.array(rows)).combine_chunks().dictionary_encode().indices.to_numpy()
    _, firsts, file_of_row = np.unique(paths, return_index=True, return_inverse=True)
    files = manifest.select(names).take(pa.array(rows[firsts])).rename_columns(["id", *names[1:]])
    root = media_root(manifest)
    pairs, num_unread = _equal_pairs(files, root, cache_dir, workers)
    is_equal = np.zeros(len(files), bool)
    is_equal[pairs.ravel()] = True
    if near:
        near_pairs, num_failed = _near_pairs(files, root, cache_dir, workers)
        pairs, num_unread = np.concatenate([pairs, near_pairs]), num_unread + num_failed
    group = _groups(pairs, len(files))
    everywhere, is_near = np.full(len(manifest), -1), np.zeros(len(manifest), bool)
    everywhere[rows], is_near[rows] = group[file_of_row], ((group >= 0) & ~is_equal)[file_of_row]
    return Doubles(everywhere, is_near, num_unread)


def describe_doubles(manifest: pa.Table, doubles: Doubles) -> str:
    """Count the doubles, and those that lie in several splits or have several labels; "" where there are none."""
    rows = np.flatnonzero(doubles.group >= 0)
    unread = f"{doubles.num_unread:,} files could not be compared" if doubles.num_unread else ""
    if not len(rows):
        return unread
    table = manifest.select(["path", "split", "label"]).take(pa.array(rows))
    table = table.append_column("group", pa.array(doubles.group[rows]))
    counts = table.group_by("group", use_threads=False).aggregate(
        [(name, "count_distinct") for name in ("path", "split", "label")] + [("path", "first"), ("path", "last")]
    )
    num_files, num_near = pc.sum(counts["path_count_distinct"]).as_py(), int(doubles.is_near.sum())
    kinds = f"{num_near:,} of them near-equal" if num_near else "byte for byte"
    parts = [f"{num_files:,} files are {len(counts):,} recordings, {kinds} (such as {_pair(counts, 0)})"]
    for column, words in (("split", "lie in several splits"), ("label", "have several labels")):
        several = np.flatnonzero(counts[f"{column}_count_distinct"].to_numpy() > 1)
        parts += [f"{len(several):,} of these {words} (such as {_pair(counts, several[0])})"] if len(several) else []
    return "; ".join([*parts, unread] if unread else parts)


def doubles_table(manifest: pa.Table, doubles: Doubles) -> pa.Table:
    """The files that are doubles: group, id, path, split, label and whether they are equal or near-equal."""
    rows = np.flatnonzero(doubles.group >= 0)
    rows = rows[np.argsort(doubles.group[rows], kind="stable")]
    table = manifest.select(["id", "path", "split", "label"]).take(pa.array(rows)).replace_schema_metadata()
    kind = pa.array(np.where(doubles.is_near[rows], "near-equal", "equal"), pa.string())
    return table.add_column(0, "group", pa.array(doubles.group[rows])).append_column("kind", kind)


def without_doubles(manifest: pa.Table, doubles: Doubles) -> pa.Table:
    """The manifest in which of each group only the first file by path is used; the others have the status `double`."""
    rows = np.flatnonzero(doubles.group >= 0)
    paths = manifest["path"].take(pa.array(rows)).to_pylist()
    first: dict[int, str] = {}
    for row, path in zip(rows.tolist(), paths, strict=True):
        group = int(doubles.group[row])
        first[group] = min(first.get(group, path), path)
    status, reason = manifest["status"].to_pylist(), manifest["reason"].to_pylist()
    for row, path in zip(rows.tolist(), paths, strict=True):
        kept = first[int(doubles.group[row])]
        if path != kept:
            status[row], reason[row] = "double", f"the same as {kept}{', nearly' if doubles.is_near[row] else ''}"
    for name, values in (("status", status), ("reason", reason)):
        place = manifest.schema.get_field_index(name)
        manifest = manifest.set_column(place, manifest.schema.field(place), pa.array(values, pa.string()))
    return manifest


def _pair(counts: pa.Table, row: int) -> str:
    return f"{counts['path_first'][row]} and {counts['path_last'][row]}"


def _groups(pairs: np.ndarray, num_files: int) -> np.ndarray:
    """(n,) numbers of the groups that pairs (p, 2) of files form; -1 for a file in none."""
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (num_files, num_files))
    _, component = connected_components(graph, directed=False)
    sizes = np.bincount(component, minlength=1)
    number = np.where(sizes > 1, np.cumsum(sizes > 1) - 1, -1)
    group: np.ndarray = number[component] if num_files else np.zeros(0, int)
    return group


def _equal_pairs(files: pa.Table, root: Path, cache_dir: Path, workers: int) -> tuple[np.ndarray, int]:
    """Pairs (p, 2) of neighbours within each set of equal files, and how many could not be read."""
    keys = files["bytes"].to_numpy()
    rows, num_unread = np.arange(len(files)), 0
    for name, num_blocks in (("peek", 1), ("digest", 0)):
        rows = rows[_is_repeated(keys)]
        notebook = Notebook(
            cache_dir, "doubles", f"{root} {_VERSION} {name}", [pa.field(n, pa.string()) for n in (name, *_OUTCOME)]
        )
        some = files.select(["id", "bytes", "mtime_ns"]).take(pa.array(rows))
        notes = notebook.notes_of(
            some,
            partial(_digest_of, str(root), name, num_blocks),
            "comparing",
            workers=workers,
            deadline_s=_DEADLINE_S,
            memory_bytes=_MEMORY,
        )
        is_read = pc.equal(notes["status"], "ok").to_numpy(zero_copy_only=False)
        num_unread += int((~is_read).sum())
        rows, keys = rows[is_read], notes[name].filter(pa.array(is_read)).combine_chunks().dictionary_encode().indices
        keys = keys.to_numpy()
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    return np.stack([rows[order][:-1][same], rows[order][1:][same]], 1), num_unread


_OUTCOME = ("status", "reason")


def _is_repeated(keys: np.ndarray) -> np.ndarray:
    """(n,) bool: keys that occur more than once."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    repeated: np.ndarray = counts[inverse] > 1
    return repeated


def _digest_of(root: str, name: str, num_blocks: int, file: tuple[str, int, int]) -> dict[str, Any]:
    """Hash a file, or with `num_blocks` so much of its beginning, its middle and its end."""
    path, num_bytes, mtime_ns = file
    place = Path(root) / path
    require_unchanged(place, num_bytes, mtime_ns)
    digest = blake2b(str(num_bytes).encode(), digest_size=16)
    try:
        with place.open("rb") as stream:
            if num_blocks:
                for at in (0, num_bytes // 2, max(0, num_bytes - _PEEK)):
                    stream.seek(at)
                    digest.update(stream.read(num_blocks * _PEEK))
            else:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise MediaError(place, "unreadable", str(error)) from error
    return {name: digest.hexdigest(), "status": "ok", "reason": None}


def _near_pairs(files: pa.Table, root: Path, cache_dir: Path, workers: int) -> tuple[np.ndarray, int]:
    """Pairs (p, 2) of near-equal files, and how many could not be compared."""
    columns = ("picture", "sound", "spectrum", *_OUTCOME)
    notebook = Notebook(cache_dir, "fingerprints", f"{root} {_VERSION}", [pa.field(n, pa.string()) for n in columns])
    notes = notebook.notes_of(
        files,
        partial(fingerprint_of, str(root)),
        "fingerprints",
        workers=workers,
        deadline_s=_DEADLINE_S,
        memory_bytes=_MEMORY,
    )
    rows = np.flatnonzero(pc.equal(notes["status"], "ok").to_numpy(zero_copy_only=False))
    notes = notes.take(pa.array(rows))
    pictures, sounds = notes["picture"].combine_chunks(), notes["sound"].combine_chunks()
    pictures = [bits_from_text(text, PICTURE_BYTES) for text in notes["picture"].to_pylist()]
    sounds = [bits_from_text(text, SOUND_BYTES) for text in notes["sound"].to_pylist()]
    spectra = [spectrum_from_text(text) for text in notes["spectrum"].to_pylist()]
    means = np.array([mean_picture(bits) for bits in pictures], np.float32).reshape(-1, 8 * PICTURE_BYTES)
    parts = (means, np.array(spectra, np.float32).reshape(-1, BANDS))
    candidates = np.unique(np.concatenate([np.sort(pairs, 1) for part in parts for pairs in _nearest(part)]), axis=0)
    is_near = [
        _are_near((pictures[one], sounds[one]), (pictures[other], sounds[other])) for one, other in candidates.tolist()
    ]
    return rows[candidates[np.array(is_near, bool)]], len(files) - len(rows)


def _are_near(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether two files, each by the bits of its picture and of its sound, agree in all that can be compared."""
    have_picture, have_sound = len(one[0]) > 0 < len(other[0]), len(one[1]) > 0 < len(other[1])
    if not have_sound and (len(one[1]) or len(other[1])):
        return False  # one of them is silent
    both = have_picture and have_sound
    most_picture, most_sound = (MOST_PICTURE, MOST_SOUND) if both else (MOST_PICTURE_ALONE, MOST_SOUND_ALONE)
    if have_picture and difference(one[0], other[0], PICTURES_A_SECOND) > most_picture:
        return False
    if have_sound and difference(one[1], other[1], STEPS_A_SECOND) > most_sound:
        return False
    return have_picture or have_sound


def _nearest(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs (p, 2) of rows that may be near each other: each row's next ones, within a bucket where there are many.

    Args:
        vectors: (n, d) float32 of length 1, or 0 for a row that has none.
    """
    yield np.zeros((0, 2), np.int64)
    rows = np.flatnonzero(vectors.any(1))
    num_bits = max(0, int(np.ceil(np.log2(max(len(rows), 1) / _BUCKET))))
    for table in range(_TABLES if num_bits else 1):
        planes = np.random.default_rng(table).normal(size=(vectors.shape[1], num_bits)).astype(np.float32)
        bucket = (vectors[rows] @ planes > 0) @ (1 << np.arange(num_bits))
        order = rows[np.argsort(bucket, kind="stable")]
        edges = np.flatnonzero(np.diff(np.sort(bucket), prepend=-1, append=-2))
        for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            for at in range(begin, end, 2 * _BUCKET):  # where all are alike, in pieces
                yield _nearest_of(vectors, order[at : min(at + 2 * _BUCKET, end)])


def _nearest_of(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pairs (p, 2): each of some rows with its next ones."""
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    cosines = vectors[rows] @ vectors[rows].T
    np.fill_diagonal(cosines, -2)
    num_nearest = min(_NEAREST, len(rows) - 1)
    nearest = np.argpartition(-cosines, num_nearest - 1, axis=1)[:, :num_nearest]
    return np.stack([np.repeat(rows, num_nearest), rows[nearest.ravel()]], 1)
