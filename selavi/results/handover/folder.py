"""A folder that hand-over writes and writes again: its own files are replaced, nobody else's is touched."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selavi.atomic import write_atomically, write_text
from selavi.errors import UsageError
from selavi.guarded.json_file import read_json

_RECORD = ".handover.json"
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


def file_name(clip_id: str, suffix: str) -> str:
    """A path for a clip's file: of hex digits, as an id may hold anything; two folders deep, as clips are many."""
    digest = hashlib.sha256(clip_id.encode()).hexdigest()[:24]
    return f"{digest[:2]}/{digest}{suffix}"


def media_name(clip_id: str, media: str) -> str:
    """file_name below media/, with the suffix of the media file in lower case where it is a plain one."""
    suffix = os.path.splitext(media)[1].lower()
    return f"media/{file_name(clip_id, suffix if _SUFFIX.fullmatch(suffix) else '')}"


class Folder:
    """A folder and the record (.handover.json) of the files in it that hand-over wrote.

    The record is written before the files are, so it knows those of a hand-over that was killed too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._read_record()
        self._claimed: set[str] = set()

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator["Folder"]:
        """Write files in the block; when it ends well, files of earlier hand-overs that it did not claim go."""
        folder = cls(path)
        yield folder
        for name in sorted(folder._known - folder._claimed):
            folder._remove(name)
        folder._known = folder._claimed
        folder._write_record()

    @classmethod
    def clear(cls, path: Path) -> None:
        """Remove what earlier hand-overs wrote into a folder, if they did."""
        if cls(path)._known:
            with cls.opened(path):
                pass

    def claim(self, names: Iterable[str]) -> None:
        """Say which files will be written.

        Raises:
            UsageError: one exists that hand-over did not write, or the folder is not one.
        """
        names = set(names)
        for name in sorted(names - self._known):
            if os.path.lexists(self.path / name):
                raise UsageError(
                    f"{self.path / name} exists and was not written by a hand-over: move it away, "
                    "or hand over to another folder"
                )
        self._claimed |= names
        self._known |= names
        self._write_record()

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield a temporary path that becomes the claimed file `name` when the block ends."""
        assert name in self._claimed
        with write_atomically(self.path / name) as temporary:
            yield temporary

    def link(self, name: str, media: str) -> None:
        """Make the claimed `name` a relative link to a media file."""
        assert name in self._claimed
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(os.path.realpath(media), os.path.realpath(path.parent))
        if path.is_symlink() and os.readlink(path) == target:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.symlink_to(target)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def copy(self, name: str, media: str) -> None:
        """Make the claimed `name` a copy of a media file; one of the same size and time is taken to be it."""
        assert name in self._claimed
        path, source = self.path / name, os.stat(media)
        if path.is_file() and not path.is_symlink():
            copied = path.stat()
            if (copied.st_size, copied.st_mtime_ns) == (source.st_size, source.st_mtime_ns):
                return
        with write_atomically(path) as temporary:
            shutil.copyfile(media, temporary)
            os.utime(temporary, ns=(source.st_atime_ns, source.st_mtime_ns))

    def _remove(self, name: str) -> None:
        path = self.path / name
        if Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(self.path)):  # nobody moved its folder
            path.unlink(missing_ok=True)
            for parent in path.relative_to(self.path).parents[:-1]:
                try:
                    (self.path / parent).rmdir()
                except OSError:  # not empty
                    break

    def _read_record(self) -> set[str]:
        record = self.path / _RECORD
        for path in (self.path, self.path.parent):
            if path.exists() and not path.is_dir():
                raise UsageError(f"{path} is not a folder: hand over to another one")
        if not record.exists():
            return set()
        try:
            names = read_json(record)["files"]
            if not all(_is_inside(name) for name in names):
                raise ValueError("a path in it leads out of the folder")
            return set(names)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{record} is not a hand-over's record ({error}): remove it and the files beside it"
            ) from None

    def _write_record(self) -> None:
        write_text(self.path / _RECORD, json.dumps({"files": sorted(self._known)}, indent=0))


def _is_inside(name: str) -> bool:
    return os.path.normpath(name) == name and not os.path.isabs(name) and not name.startswith("..")
