"""What the system says of paths that other people made, in words instead of exceptions; paths as people type them.

Links that lead to themselves, to nothing or to FILE/x, folders without permission, a network share that went away and
a disk that fails are all found in folders of media.  Code that walks or opens those asks here, or catches OSError.
"""

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PASSING = ("vanished", "changed", "timeout", "unreadable")
"""Statuses of files that may be well the next time: nobody keeps them as a fact."""

NETWORK_ERRORS = {
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
    errno.ECONNRESET,
}
"""What the system says of drives of the network alone, never of a broken file."""

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_ADVICE = {
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "it lies on a disk that can only be read: name another folder",
    errno.ELOOP: "remove the link that leads to itself",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOSPC: "make room, and run the same command again",
    errno.EDQUOT: "make room, and run the same command again",
    errno.EFBIG: "a limit on the size of files is set: see ulimit -f",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or lower data.num_workers",
    errno.ENFILE: "the machine has too many open files: close other programs",
    errno.ENOMEM: "memory is full: close other programs, or lower data.num_workers and the batch size",
    errno.EIO: "check the disk, or the network that it is on",
    errno.ESTALE: "the network share has changed: mount it again",
    errno.ETIMEDOUT: "check the network that it is on",
    errno.ENOTCONN: "the network share is not there: mount it again",
    errno.EHOSTDOWN: "check the network that it is on",
}


@dataclass(frozen=True)
class Look:
    """What a path leads to.

    Attributes:
        kind: other: a pipe, a socket or a device; nothing: it cannot be told, or nothing is there.
        status: of the manifest, where kind is nothing: vanished, refused or unreadable.
        reason: why, in the system's words.
    """

    kind: Literal["file", "folder", "other", "nothing"]
    bytes: int = 0
    mtime_ns: int = 0
    status: str = ""
    reason: str = ""


def look(path: Path | str) -> Look:
    """Follow a path and say what is there; never raises."""
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:
        return Look("nothing", 0, 0, *fault_of(error))
    if stat.S_ISREG(state.st_mode):
        return Look("file", state.st_size, state.st_mtime_ns)
    return Look("folder" if stat.S_ISDIR(state.st_mode) else "other", state.st_size, state.st_mtime_ns)


def why_gone(folder: Path | str) -> str:
    """Why nothing can be read in a folder of media, in words; empty where it can.

    An empty folder is the place of a drive that is not mounted.
    """
    place = look(folder)
    if place.kind != "folder":
        return place.reason or f"it is a {place.kind}, not a folder"
    try:
        with os.scandir(folder) as entries:
            return "" if any(entries) else "it is empty: is its drive mounted?"
    except OSError as error:
        return fault_of(error)[1]


def may_pass(reason: str) -> bool:
    """Whether `status: detail`, which says why a clip could not be read, may be otherwise the next time."""
    return reason.partition(": ")[0] in PASSING


def fault_of(error: OSError | ValueError) -> tuple[str, str]:
    """The manifest's status, and the reason in words, of a file that the system does not give.

    vanished: nothing is there, or a link leads nowhere; refused: such a name cannot be opened; unreadable: it is, or
    may be, there, but permission, disk or network stand in the way.
    """
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    number = getattr(error, "errno", None)
    if number in _GONE:
        return "vanished", reason
    if number == errno.ENAMETOOLONG or not isinstance(error, OSError):
        return "refused", reason
    return "unreadable", reason


def real_path(path: Path | str) -> Path:
    """The path without links, as far as they can be followed; never raises."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return Path(os.path.abspath(path))


class Enclosure:
    """Says which paths stay below a folder, by their names and by where their links lead.

    The links of a folder are followed once, so many paths cost one look at each and one at each folder.

    Attributes:
        root: the folder, absolute; its own links are not followed.
        real_root: where it is.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = os.path.abspath(root)
        self.real_root = str(real_path(self.root))
        self._folders: dict[str, bool] = {}

    def path(self, name: str) -> str:
        """The absolute path of a name below the folder, without `.`, `..` or doubled slashes."""
        return os.path.normpath(os.path.join(self.root, name))

    def names(self, path: str) -> bool:
        """Whether an absolute path, as `path` gives it, lies below the folder, as far as its name says."""
        return path != self.root and _is_within(path, self.root)

    def leads_out(self, path: str) -> bool:
        """Whether links take an absolute path out of the folder.

        Raises:
            OSError: the system does not say.
        """
        folder = os.path.dirname(path)
        if folder not in self._folders:
            self._folders[folder] = self._ends_outside(folder)
        return self._folders[folder] or (os.path.islink(path) and self._ends_outside(path))

    def _ends_outside(self, path: str) -> bool:
        try:
            return not _is_within(os.path.realpath(path), self.real_root)
        except ValueError:  # no system takes such a name
            return True


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def explain(error: OSError) -> str | None:
    """One line for an error of the machine or of a path, with what to do; None for any other error."""
    if error.errno not in _ADVICE:
        return None
    subject = f"{os.fsdecode(error.filename)!r}: " if isinstance(error.filename, str | bytes) else ""
    free = _free(error.filename) if error.errno in (errno.ENOSPC, errno.EDQUOT) and subject else ""
    return f"{subject}{error.strerror}{free}; {_ADVICE[error.errno]}"


def place_of(path: Path | str) -> Path:
    """The folder that a path is, or the first of those above it that is there already."""
    path = Path(path).absolute()
    return next(folder for folder in (path, *path.parents) if os.path.isdir(folder))


def is_writable(path: Path | str) -> bool:
    """Whether a folder, or the first of those above it that is there already, can be written to."""
    return os.access(place_of(path), os.W_OK)


def free_disk(path: Path | str) -> int:
    """Bytes that are free where a folder is, or will be made."""
    return shutil.disk_usage(place_of(path)).free


def on_one_disk(*paths: Path | str) -> bool:
    """Whether folders lie, or will lie, on one disk."""
    try:
        return len({os.stat(place_of(path)).st_dev for path in paths}) == 1
    except OSError:
        return False


def _free(path: str | bytes) -> str:
    """What room there is where a file could not be written, in words; empty where the system does not say."""
    try:
        usage = shutil.disk_usage(os.path.dirname(os.path.abspath(os.fsdecode(path))))
    except OSError:
        return ""
    return f" ({usage.free / 1e6:,.0f} MB are free there)"


def expand(text: str) -> str:
    """A path as typed, with ~ and ~name as home folders; a URL stays as it is."""
    return os.path.expanduser(text) if text.startswith("~") else text


def user_path(text: str) -> Path:
    """A path as typed on the command line: the type of every tool's path arguments."""
    return Path(expand(text))
