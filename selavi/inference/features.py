"""Features of a split's clips, kept in the run folder: RUN/eval/features/SPLIT.safetensors.

One tensor (N, D) float16 a modality, each clip's scaled to length 1 before it is rounded (zeros where it has none), in
the order of the split's usable rows in the manifest.  The file knows which ids and weights it was made of.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.errors import DataError
from selavi.filesystem import may_pass
from selavi.inference.encode import ClipFeatures
from selavi.runs.folder import RunFolder
from selavi.tensor_files import read_tensors, write_tensors

PART = 8192
"""Clips that are encoded and kept at once: what a killed process loses."""


def features_path(run_dir: Path, split: str) -> Path:
    """Where the features of a split are kept."""
    return RunFolder(run_dir).features(split)


def digest_of(ids: Sequence[str], checkpoint: Path, num_views: int) -> str:
    """What features are made of: clips in order, weights, and views of a clip."""
    digest = hashlib.blake2b(f"features 1\x1f{num_views}".encode(), digest_size=16)
    with checkpoint.open("rb") as file:
        digest.update(hashlib.file_digest(file, "blake2b").digest())
    for clip_id in ids:
        digest.update(clip_id.encode() + b"\x1f")
    return digest.hexdigest()


def kept_features(
    path: Path,
    rows: pa.Table,
    checkpoint: Path,
    num_views: int,
    encode: Callable[[pa.Table, int], Iterator[ClipFeatures]],
) -> dict[str, Tensor]:
    """Read the features of a split, or encode its clips part by part and keep them.

    Parts lie beside the file until it is whole, so a process that was killed goes on with the next part.  Clips that
    could not be read for a while are noted, and encoded the next time.  Memory: N x D x 2 bytes, and PART x D x 4 while
    encoding.

    Args:
        path: of features_path.
        rows: the split's usable rows of the manifest.
        checkpoint: whose weights encode.
        num_views: of each clip, which are averaged.
        encode: gives the features of rows, as many of them at a time as its second argument says; called at most once.

    Returns:
        (N, D) float16 a modality; zeros for a clip that lacks it or could not be decoded.
    """
    digest = digest_of(rows["id"].to_pylist(), checkpoint, num_views)
    files = [path.with_name(f".{path.stem}.{number}.part") for number in range(-(-len(rows) // PART))]
    whole = _read(path, digest)
    if whole is None:
        whole = _encode_all(files, rows, digest, encode)
        _write(path, whole, digest)
    elif whole.again:
        _encode_again(whole, rows, encode)
        _write(path, whole, digest)
    _remove(files)  # also those of a process that was killed just before it did
    return whole.tensors


@dataclass
class _Kept:
    """What a file holds."""

    tensors: dict[str, Tensor]
    again: list[int]
    """Rows of clips that could not be read for a while."""


def _encode_all(
    files: Sequence[Path], rows: pa.Table, digest: str, encode: Callable[[pa.Table, int], Iterator[ClipFeatures]]
) -> _Kept:
    """Encode the parts that are missing, keep each, and put all together."""
    parts = {number: part for number, file in enumerate(files) if (part := _read(file, digest)) is not None}
    missing = [number for number in range(len(files)) if number not in parts]
    if missing:
        encoded = encode(pa.concat_tables([rows.slice(number * PART, PART) for number in missing]), PART)
        for number, clips in zip(missing, encoded, strict=True):
            parts[number] = _Kept(_rounded(clips), _passing(clips))
            _write(files[number], parts[number], digest)
    ordered = [parts[number] for number in range(len(files))]
    again = [number * PART + row for number, part in enumerate(ordered) for row in part.again]
    return _Kept({name: torch.cat([part.tensors[name] for part in ordered]) for name in parts[0].tensors}, again)


def _encode_again(kept: _Kept, rows: pa.Table, encode: Callable[[pa.Table, int], Iterator[ClipFeatures]]) -> None:
    """Encode the clips that could not be read for a while, where any of them can be read now."""
    places, left = torch.tensor(kept.again), list[int]()
    try:
        for number, clips in enumerate(encode(rows.take(pa.array(kept.again)), PART)):
            some = places[number * PART : (number + 1) * PART]
            for name, values in _rounded(clips).items():
                kept.tensors[name][some] = values
            left += some[_passing(clips)].tolist()
    except DataError:  # none of them
        return
    kept.again = left


def _passing(clips: ClipFeatures) -> list[int]:
    """Rows of clips that may be readable the next time."""
    return [row for row, reason in clips.errors.items() if may_pass(reason)]


def _remove(files: Sequence[Path]) -> None:
    """Remove files; what the system keeps is left for the next time."""
    for file in files:
        with suppress(OSError):
            file.unlink()


def _rounded(clips: ClipFeatures) -> dict[str, Tensor]:
    return {name: F.normalize(values, dim=1).half() for name, values in clips.features.items()}


def _write(path: Path, kept: _Kept, digest: str) -> None:
    write_tensors(path, kept.tensors, {"digest": digest, "again": json.dumps(kept.again)})


def _read(path: Path, digest: str) -> _Kept | None:
    """What is in a file that was made of the same; else None."""
    if not path.exists():
        return None
    tensors, metadata = read_tensors(path)
    return _Kept(tensors, json.loads(metadata.get("again", "[]"))) if metadata.get("digest") == digest else None
