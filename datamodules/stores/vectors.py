"""The files of vectors of a run: opened once, joined with its clips by id."""

import logging
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from selavi.arrays import Vectors, open_vectors
from selavi.config import Config
from selavi.errors import UsageError
from selavi.ids import explain_missing
from selavi.modalities import files_of

log = logging.getLogger("selavi")


def open_files(config: Config) -> dict[str, Vectors]:
    """The vectors of each modality of a run that comes from a file.

    Raises:
        UsageError: as open_vectors, or a file has other vectors than the run was trained on.
    """
    opened = {}
    for name, file in files_of(config).items():
        own = config.section(name)
        vectors = _open_once(Path(file), own.ids, own.key, own.views, config.data.cache_dir, _state(file))
        if own.num_dims not in (0, vectors.num_dims):
            raise UsageError(f"{file} has {vectors.num_dims} numbers a vector, but {name}.num_dims={own.num_dims}")
        opened[name] = vectors
    return opened


def fill_in_dims(config: Config, opened: dict[str, Vectors]) -> None:
    """Write down how many numbers the vectors of each modality have."""
    for name, vectors in opened.items():
        config.section(name).num_dims = vectors.num_dims


def describe_files(opened: dict[str, Vectors], manifest: pa.Table) -> list[str]:
    """What was guessed or left out, and how many clips have vectors, a sentence each.

    Raises:
        UsageError: no clip has a vector in one of the files.
    """
    said = []
    for name, vectors in opened.items():
        said += vectors.notes
        selected = vectors.select(manifest["id"])
        num_clips, num_ids = int(selected.present.sum()), len(vectors.ids)
        if not num_clips:
            ids, others = (column.slice(0, 1000).to_pylist() for column in (manifest["id"], vectors.ids))
            similar = explain_missing(ids, others)
            raise UsageError(
                f"modality {name}: none of the {len(manifest):,} clips has a vector in {vectors.path}; ids of clips "
                f"are such as {ids[0]!r}, of vectors such as {others[0]!r}{similar and '; ' + similar}"
            )
        if num_clips < len(manifest) or num_clips < num_ids:
            said.append(
                f"modality {name}: {num_clips:,} of {len(manifest):,} clips have a vector in {vectors.path}; others "
                f"go without, and {max(0, num_ids - num_clips):,} of its {num_ids:,} ids are no clip"
            )
        if selected.num_respelt:
            said.append(f"modality {name}: {selected.num_respelt:,} ids were found in another Unicode form only")
    return said


def _state(file: str) -> tuple[int, int]:
    """Size and time of change; a file that cannot be looked at is refused where it is opened."""
    try:
        facts = Path(file).stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


@lru_cache(maxsize=16)
def _open_once(file: Path, ids: str, key: str, views: bool, cache_dir: str, state: tuple[int, int]) -> Vectors:
    return open_vectors(file, Path(ids) if ids else None, key, views, cache_dir=Path(cache_dir))
