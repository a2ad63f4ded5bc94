"""Processes for the gallery's jobs."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from datamodules.processes import run_jobs
from selavi.meter import follow
from selavi.results.gallery.build import RunJobs

_THUMBNAIL_S = 120.0
"""The longest that a thumbnail may take."""
_MEDIA_S = 3600.0
"""The longest that copying or transcoding a recording may take."""
_MEMORY_BYTES = 4 << 30


def pool(workers: int) -> RunJobs:
    """Runs the gallery's jobs in processes that may die, and shows how far they are."""

    def run(function: Callable[[Any], str], jobs: Iterable[Any], total: int, what: str) -> Iterator[tuple[int, Any]]:
        if not total:
            return iter(())
        deadline_s = _MEDIA_S if what.endswith(" media") else _THUMBNAIL_S
        done = run_jobs(function, jobs, workers=workers, deadline_s=deadline_s, memory_bytes=_MEMORY_BYTES)
        return follow(done, what, total, unit="clips")

    return run
