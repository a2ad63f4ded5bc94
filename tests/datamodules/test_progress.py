import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from datamodules.progress import follow
from selavi import meter


def test_a_log_gets_a_line_not_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(follow(iter("abcd"), "scanning", 4)) == list("abcd")
    error = capsys.readouterr().err
    assert error.startswith("scanning: 4 files in ")
    assert error.count("\n") == 1
    assert "\r" not in error


def slow(items: Iterable[Any], clock: list[float], seconds: float) -> Iterator[Any]:
    for item in items:
        clock[0] += seconds
        yield item


def test_a_long_job_says_where_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: clock[0])
    list(follow(slow(range(10), clock, 4), "scanning", 10, "clips"))
    assert capsys.readouterr().err.splitlines() == [
        "scanning: 3 of 10 clips",  # too early to say how long it takes
        "scanning: 6 of 10 clips, 0.25 clips/s, about 15 s left",
        "scanning: 9 of 10 clips, 0.25 clips/s, about 5 s left",
        "scanning: 10 clips in 40 s, 0.25 clips/s",
    ]


def test_a_job_that_fails_does_not_say_that_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(follow(items(), "scanning", 2))
    assert capsys.readouterr().err == ""


def test_an_item_may_be_several_units(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: clock[0])
    words = ["abc", "de", "fgh", "ij", "klmno", "p"]
    assert list(follow(slow(words, clock, 6), "scanning", 16, "clips", len)) == words
    assert capsys.readouterr().err.splitlines() == [
        "scanning: 5 of 16 clips",
        "scanning: 10 of 16 clips, 0.389 clips/s, about 15 s left",
        "scanning: 16 clips in 36 s, 0.444 clips/s",
    ]
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    list(follow(["abc", "de"], "scanning", 5, "clips", len))
    assert "5/5" in screen.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(follow(range(5), "scanning", 5)) == [0, 1, 2, 3, 4]
    assert "\rscanning" in screen.getvalue()
    assert "5/5" in screen.getvalue()
