"""Results copied to a URL that fsspec knows, each file whole or not at all."""

import shutil
import sys
from pathlib import Path

from selavi.cli import Parser
from selavi.errors import UsageError
from selavi.wording import byte_size

_OWN = "parts"
"""Folder of what is only there to go on from."""


def add_copy_to(parser: Parser) -> None:
    """Where else results go."""
    about = "when all is done, also copy the results to a URL that fsspec knows, such as s3://bucket/folder"
    parser.add_argument("--copy-to", metavar="URL", help=about)


def require_store(url: str) -> None:
    """Refuse, before the work, a URL that nothing here writes to.

    Raises:
        UsageError: it is none, or the package for it is not installed.
    """
    import fsspec  # type: ignore[import-untyped]

    if "://" not in url:
        raise UsageError(f"--copy-to {url}: expected a URL, such as s3://bucket/folder or file:///mnt/folder")
    try:
        fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(f"--copy-to {url}: {error}") from error


def copy_results(folder: Path, url: str, last: str) -> None:
    """Copy the files of a folder, and say so; what is there to go on from is left out.

    Args:
        folder: of results that are whole.
        url: where they go; files of the same names there are replaced.
        last: the file that says that a copy is whole: removed there first, and copied last.

    Raises:
        UsageError: the store does not take them; it may have some by then, but not `last`.
    """
    import fsspec

    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if path.parts[0] != _OWN and path.suffix != ".lock" and not _is_hidden(path)]
    paths.sort(key=lambda path: path.as_posix() == last)
    try:
        files, root = fsspec.core.url_to_fs(url)
        if files.exists(f"{root}/{last}"):
            files.rm_file(f"{root}/{last}")
        for path in paths:
            target = f"{root}/{path.as_posix()}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            # Without a transaction, a file that is left in the middle becomes an object of half its length.
            with files.transaction, (folder / path).open("rb") as source, files.open(target, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 24)
    except Exception as error:  # each kind of store has exceptions of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(
            f"the results in {folder} are whole, but {url} does not take them ({reason}); the same command copies them"
        ) from error
    size = byte_size(sum((folder / path).stat().st_size for path in paths))
    print(f"copied: {len(paths):,} files, {size}, to {url}", file=sys.stderr)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
