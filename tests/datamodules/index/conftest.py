"""What tests of the index share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from datamodules.index import notebook
from datamodules.processes import Failure
from selavi.media import MediaError


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked into here, not in processes that take seconds to start."""

    def run_jobs(function: Callable[[Any], Any], jobs: Iterable[Any], **_: object) -> Iterator[tuple[int, Any]]:
        for number, job in enumerate(jobs):
            try:
                yield number, function(job)
            except MediaError as error:
                yield number, Failure(error.reason, error.detail)

    monkeypatch.setattr(notebook, "run_jobs", run_jobs)
