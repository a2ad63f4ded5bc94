"""Features of a split's clips, kept in the run folder: RUN/eval/features/SPLIT.safetensors.

One tensor (N, D) float16 a modality, each clip's scaled to length 1 before it is rounded (zeros where it has none), in
the order of the split's usable rows in the manifest.  The file knows which ids and weights it was made of.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

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

    Parts lie beside the file until it is whole, so a process that was killed goes on with the next part.  Memory:
    N x D x 2 bytes, and PART x D x 4 while encoding.

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
    if whole is not None:
        _remove(files)  # of a process that was killed just before it did
        return whole
    parts = {number: part for number, file in enumerate(files) if (part := _read(file, digest)) is not None}
    missing = [number for number in range(len(files)) if number not in parts]
    if missing:
        encoded = encode(pa.concat_tables([rows.slice(number * PART, PART) for number in missing]), PART)
        for number, clips in zip(missing, encoded, strict=True):
            parts[number] = _rounded(clips)
            write_tensors(files[number], parts[number], {"digest": digest})
    whole = {name: torch.cat([parts[number][name] for number in range(len(files))]) for name in parts[0]}
    write_tensors(path, whole, {"digest": digest})
    _remove(files)
    return whole


def _remove(files: Sequence[Path]) -> None:
    """Remove files; what the system keeps is left for the next time."""
    for file in files:
        with suppress(OSError):
            file.unlink()


def _rounded(clips: ClipFeatures) -> dict[str, Tensor]:
    return {name: F.normalize(values, dim=1).half() for name, values in clips.features.items()}


def _read(path: Path, digest: str) -> dict[str, Tensor] | None:
    """The tensors of a file that was made of the same; else None."""
    if not path.exists():
        return None
    tensors, metadata = read_tensors(path)
    return tensors if metadata.get("digest") == digest else None
