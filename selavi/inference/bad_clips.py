"""Clips that cannot be decoded, counted while they are read and refused when they are too many."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from selavi.atomic import write_text
from selavi.batch import ClipBatch
from selavi.errors import DataError


class BadClips:
    """What could not be decoded of a run's clips, in any pass over them.

    Args:
        ids: of all N clips, by their rows in the batches.
        max_fraction: of them that may be bad: data.max_bad_fraction.
    """

    def __init__(self, ids: Sequence[str], max_fraction: float) -> None:
        self.ids, self.max_fraction = ids, max_fraction
        self.reasons: dict[int, str] = {}

    def watch(self, batches: Iterable[ClipBatch]) -> Iterator[ClipBatch]:
        """Pass batches on, and count.

        Raises:
            DataError: more than `max_fraction` of the clips are bad.
        """
        for batch in batches:
            self.add(dict(batch.errors))
            yield batch

    def add(self, reasons: Mapping[int, str]) -> None:
        """Count clips by their rows, with the reasons.

        Raises:
            DataError: more than `max_fraction` of the clips are bad.
        """
        self.reasons |= reasons
        if len(self.reasons) > self.max_fraction * len(self.ids):
            row, reason = next(iter(self.reasons.items()))
            raise DataError(
                f"{len(self.reasons)} of {len(self.ids)} clips could not be decoded so far "
                f"(data.max_bad_fraction={self.max_fraction}); the first: {self.ids[row]}: {reason}"
            )

    @property
    def sentence(self) -> str:
        """How many there are; empty where there is none."""
        return f"{len(self.reasons)} of {len(self.ids)} clips could not be decoded" if self.reasons else ""

    def write(self, path: Path) -> None:
        """List them, as a training does; nothing is written where there is none."""
        if self.reasons:
            text = io.StringIO(newline="")
            csv.writer(text).writerows((self.ids[row], reason) for row, reason in sorted(self.reasons.items()))
            write_text(path, text.getvalue())
