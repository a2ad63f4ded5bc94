"""Checkpoints that appear whole or not at all, are known to be intact, and load without running code from the file."""

import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from selavi.atomic import next_free, write_atomically
from selavi.errors import UsageError
from selavi.runs.folder import RunFolder

OF_CLIPS = ("ids", "labels", "given", "statistics")
"""Keys under which a checkpoint has numbers of each clip, which may be far more than its weights."""
REFITTED = "refitted_from"
"""Key of a checkpoint whose heads were fitted to the encoders of another run (`selavi refit`): that run's folder."""

log = logging.getLogger("selavi")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that a run goes on from."""

    path: Path
    content: dict[str, Any]
    """What open_checkpoint gives."""
    set_aside: Path | None = None
    """A newer one that is damaged, and is to be kept out of the way."""


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint beside its name, flush it, and let it take the name; the one that had it is kept as previous.

    Between the two renamings there is only the previous one, which `newest_checkpoint` finds.
    """
    with write_atomically(path, previous=RunFolder.previous_of(path)) as temporary:
        save_tensors(checkpoint, temporary)


def save_tensors(values: Mapping[str, Any], path: Path) -> None:
    """As torch.save, but what the system refuses is an OSError: torch makes it a RuntimeError that says nothing of it.

    Raises:
        OSError: such as a full disk.
    """
    import torch

    with path.open("wb") as file:
        writer = _Writer(file)
        try:
            torch.save(dict(values), cast(IO[bytes], writer))
        except RuntimeError as error:
            raise writer.refusal or error from None


def saved_bytes(values: Mapping[str, Any]) -> int:
    """Bytes of the file that save_tensors would write."""
    import torch

    counter = _Counter()
    torch.save(dict(values), cast(IO[bytes], counter))
    return counter.count


class _Counter:
    """Takes what torch writes, and keeps its length alone."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return len(data)

    def flush(self) -> None:
        pass


class _Writer:
    """Writes to a file for torch, and keeps the first error."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.refusal = self.refusal or error
            raise

    def flush(self) -> None:
        self.file.flush()


def newest_checkpoint(folder: RunFolder, kind: str = "label_bank") -> Saved | None:
    """The newest checkpoint of a run that is intact; None where none was written yet.

    Raises:
        UsageError: there are some, and all are damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for path in (folder.last_checkpoint, folder.previous_checkpoint):
        if not path.exists():
            continue
        try:
            content = open_checkpoint(path, kind)
        except UsageError as error:
            damaged.append((path, str(error)))
            continue
        for _, reason in damaged:
            log.warning(f"{reason}; going on from the one before it, {path}")
        return Saved(path, content, damaged[0][0] if damaged else None)
    if damaged:
        reasons = "; ".join(reason for _, reason in damaged)
        raise UsageError(
            f"{reasons}. There is none to go on from: bring back a copy of {folder.last_checkpoint}, or train anew in "
            "another run_dir"
        )
    return None


def set_aside(saved: Saved | None) -> None:
    """Rename a damaged newer checkpoint, so that it never takes the place of the intact one before it."""
    if saved is not None and saved.set_aside is not None and saved.set_aside.exists():
        damaged = saved.set_aside
        kept = next_free(damaged.with_name(f"{damaged.stem}.damaged{damaged.suffix}"))
        damaged.rename(kept)
        log.warning(f"the damaged checkpoint is kept as {kept}")


def read_checkpoint(path: Path, kind: str = "label_bank") -> dict[str, Any]:
    """Load a checkpoint onto the CPU with weights_only=True, after its checksums were compared.

    Args:
        path: file.
        kind: what it must hold: `label_bank` for one of `selavi train`, `classifier` for one of `selavi finetune`.

    Raises:
        UsageError: it is missing, damaged, or holds anything else.
    """
    import torch

    return _loaded(path, kind, lambda: torch.load(path, map_location="cpu", weights_only=True))


def open_checkpoint(path: Path, kind: str = "label_bank") -> dict[str, Any]:
    """As read_checkpoint, but all tensors stay in the file, which is open until nobody has them (selavi.runs.stored).

    Raises:
        UsageError: as read_checkpoint.
    """
    from selavi.runs.stored import leave_in_file

    return _loaded(path, kind, lambda: leave_in_file(path))


def _loaded(path: Path, kind: str, load: Callable[[], Any]) -> dict[str, Any]:
    try:
        damage = _damage(path)
        checkpoint = None if damage else load()
    except OSError as error:
        raise UsageError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many types for a damaged file
        damage = str(error).splitlines()[0] if str(error) else type(error).__name__
    if damage:
        raise UsageError(f"{path} is not a checkpoint of selavi, or it is damaged: {damage}")
    if not isinstance(checkpoint, dict) or kind not in checkpoint:
        raise UsageError(f"{path} is not a checkpoint of selavi's that fits here: it holds no {kind.replace('_', ' ')}")
    return checkpoint


def _damage(path: Path) -> str:
    """What is wrong with a file that torch.save wrote; empty where all its parts have the checksums written with them.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as parts:
                damaged = parts.testzip()
        except OSError as error:
            if error.errno is not None and error.errno != 22:  # EINVAL: a place before the file's begin
                raise
            return "places in it lie outside of the file"
        except Exception as error:  # zipfile raises many types for a damaged file
            return str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"the checksum of its part {damaged.partition('/')[2]!r} is another" if damaged else ""


def not_finite(values: Any, name: str = "") -> Iterator[str]:
    """The names of tensors in nested lists and mappings that hold a number that is not finite."""
    import torch

    if isinstance(values, torch.Tensor):
        if values.is_floating_point() and not bool(values.isfinite().all()):
            yield name
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from not_finite(value, f"{name}.{number}")
