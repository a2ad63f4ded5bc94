"""JSON files: a mapping, or a message."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selavi.errors import UsageError

ADVICE = "remove it and make it anew"


def read_json(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Args:
        path: of the file.
        advice: what to do where it is damaged.

    Raises:
        UsageError: it cannot be read, is damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {error}; it is damaged: {advice}") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"cannot read {path}: expected a mapping, found a {type(content).__name__}; it is damaged: {advice}"
        )
    return content


@contextmanager
def as_written(path: Path | str, advice: str = ADVICE) -> Iterator[None]:
    """What is not in a file as selavi writes it, while the block takes it out, becomes a message that names the file.

    Raises:
        UsageError: something is missing, or is of another kind.
    """
    try:
        yield
    except UsageError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, csv.Error) as error:
        raise UsageError(f"{path} is not as selavi wrote it ({error!r}); it is damaged: {advice}") from error
