import io
import sys

import pytest

from datamodules import progress
from datamodules.progress import follow


def test_a_log_gets_a_line_not_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(follow(iter("abcd"), "scanning", 4)) == list("abcd")
    error = capsys.readouterr().err
    assert error.startswith("scanning: 4 files in ")
    assert error.count("\n") == 1
    assert "\r" not in error


def test_a_long_job_says_where_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(follow(range(10), "scanning", 10, "clips"))
    assert capsys.readouterr().err.splitlines() == [
        "scanning: 3 of 10 clips, 0.25 clips/s, 28 s left",
        "scanning: 6 of 10 clips, 0.25 clips/s, 16 s left",
        "scanning: 9 of 10 clips, 0.25 clips/s, 4 s left",
        "scanning: 10 clips in 44 s, 0.227 clips/s",
    ]


def test_an_item_may_be_several_units(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(follow(["abc", "de", "fgh"], "scanning", 8, "clips", len)) == ["abc", "de", "fgh"]
    assert capsys.readouterr().err.splitlines() == [
        "scanning: 5 of 8 clips, 0.417 clips/s, 7 s left",
        "scanning: 8 clips in 24 s, 0.333 clips/s",
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
