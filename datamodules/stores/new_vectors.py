"""Vectors of clips that a run never saw: other files than those that it was trained on, of the same numbers."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

from datamodules.stores.vectors import open_files
from selavi.arrays import Vectors
from selavi.config import Config
from selavi.errors import UsageError
from selavi.filesystem import expand, look
from selavi.modalities import files_of


def by_name(words: Sequence[str], option: str, names: Iterable[str]) -> dict[str, str]:
    """Read `NAME=FILE` for each of some modalities.

    Args:
        words: `NAME=FILE`; where there is one modality, `FILE` will do.
        option: for messages.
        names: of the modalities that come from files of vectors.

    Raises:
        UsageError: no such modality, one twice, or no such file.
    """
    allowed = list(names)
    files: dict[str, str] = {}
    for word in words:
        name, sign, file = word.partition("=")
        if not sign and len(allowed) == 1:
            name, file = allowed[0], word
        if name not in allowed:
            expected = f"of the run: {', '.join(allowed)}" if allowed else "of the run, which has none"
            raise UsageError(f"--{option} {word}: expected NAME=FILE with a modality of vectors {expected}")
        if name in files:
            raise UsageError(f"--{option}: {name} is there twice: {files[name]} and {file}")
        file = expand(file)  # a shell leaves the ~ of one=~/x alone
        if look(file).kind != "file":
            raise UsageError(f"--{option} {word}: {file} is no file")
        files[name] = file
    return files


def require_files(config: Config, names: Iterable[str], files: Mapping[str, str]) -> None:
    """Refuse to judge by vectors of which there is no new file.

    Raises:
        UsageError: with what to do.
    """
    missing = [name for name in names if name in files_of(config) and name not in files]
    if missing:
        others = [name for name in config.kinds if name not in missing]
        advice = f", or leave it out with --modalities {' '.join(others)}" if others else ""
        raise UsageError(f"expected --file {missing[0]}=FILE: the run judges by vectors {missing[0]}{advice}")


def open_new_files(config: Config, files: Mapping[str, str], ids: Mapping[str, str]) -> dict[str, Vectors]:
    """Open new files of vectors.

    Args:
        config: of the run.
        files: by modality.
        ids: files with their ids, by modality; without one, those that the file has, else the numbers of its rows.

    Raises:
        UsageError: as selavi.arrays.open_vectors, or the vectors have other numbers than those trained on.
    """
    view = copy(config)
    view.own = dict(config.own)
    for name in files_of(config):
        other = replace(config.section(name), file=files.get(name, ""), ids=ids.get(name, ""))
        if name in view.own:
            view.own[name] = other
        else:
            setattr(view, name, other)
    return open_files(view)


def state_of(files: Mapping[str, str]) -> dict[str, list[object]]:
    """Path, size and time of change of each file, by which a list that was begun is known again."""
    states = {name: (str(Path(file).absolute()), look(file)) for name, file in files.items()}
    return {name: [path, seen.bytes, seen.mtime_ns] for name, (path, seen) in states.items()}
