"""Every file below a folder that other people made: no link and no fault of the system ends the walk."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

from selavi.filesystem import Enclosure, fault_of


class Entry(NamedTuple):
    """A file, or a link to a folder that is not followed."""

    folder: str
    """Path below the root, empty or with a slash at its end."""
    name: str
    size: int = 0
    mtime_ns: int = 0
    status: str | None = None
    reason: str | None = None
    is_folder: bool = False


class Walk:
    """The files below `root` with one of some suffixes; hidden ones are left out, and no folder is read twice.

    Links may lead anywhere below the root.  One that leads out of it is an entry with status `refused`, unless
    `allow_links`.

    Attributes:
        faults: of folders, and of links that may be folders, that cannot be read.
        others: how many files have each other suffix; "" for none.
    """

    def __init__(self, root: Path, allow_links: bool, suffixes: Set[str]) -> None:
        self.root, self.allow_links, self.suffixes = root, allow_links, suffixes
        self._enclosure = Enclosure(root)
        self.faults: list[OSError] = []
        self.others: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Entry]:
        self.faults.clear()
        self.others.clear()
        self._waiting = [""]
        self._links: list[str] = []  # they come last: a folder has its own name wherever it is below the root
        self._seen: set[tuple[int, int]] = set()
        while self._waiting or self._links:
            folder = self._waiting.pop() if self._waiting else self._links.pop(0)
            for listed in self._list(folder):
                entry = self._guarded(folder, listed)
                if entry is not None:
                    yield entry

    def _list(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """What a folder holds, as far as it can be read, unless it was read before."""
        try:
            identity = os.stat(self.root / folder)
            if (identity.st_dev, identity.st_ino) in self._seen:
                return
            self._seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        yield entry
        except OSError as error:
            self.faults.append(error)

    def _guarded(self, folder: str, listed: os.DirEntry[str]) -> Entry | None:
        try:
            return self._take(folder, listed)
        except OSError as error:
            if suffix_of(listed.name) in self.suffixes:
                return Entry(folder, listed.name, 0, 0, *fault_of(error))
            self.faults.append(error)
            return None

    def _take(self, folder: str, listed: os.DirEntry[str]) -> Entry | None:
        """The entry of a file; None for what is no media file, and for folders, which are kept for later.

        Raises:
            OSError: the system does not say what it is.
        """
        name, suffix = listed.name, suffix_of(listed.name)
        if listed.is_dir(follow_symlinks=False):
            self._waiting.append(f"{folder}{name}/")
            return None
        if listed.is_symlink():
            to_folder = listed.is_dir()
            if (to_folder or suffix in self.suffixes) and self._is_refused(listed.path):
                what, target = "a folder" if to_folder else "a file", os.path.realpath(listed.path)
                reason = f"a link to {what} outside of data.root, {target!a}: allow it with data.allow_links"
                return Entry(folder, name, 0, 0, "refused", reason, to_folder)
            if to_folder:
                self._links.append(f"{folder}{name}/")
                return None
        if suffix not in self.suffixes:
            self.others[suffix] += 1
            return None
        state = listed.stat()
        if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for ever
            return Entry(folder, name, 0, 0, "refused", "not a file but a pipe, a socket or a device")
        return Entry(folder, name, state.st_size, state.st_mtime_ns)

    def _is_refused(self, link: str) -> bool:
        return not self.allow_links and self._enclosure.leads_out(link) and os.path.exists(link)


def suffix_of(name: str) -> str:
    """The suffix in lower case with its dot; "" where there is none."""
    return os.path.splitext(name)[1].lower()
