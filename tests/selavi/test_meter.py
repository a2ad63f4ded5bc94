import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import std as tqdm_std
from tqdm import tqdm

from selavi import meter
from selavi.meter import Meter, Pace, follow, say


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_start_is_no_part_of_the_pace() -> None:
    """Measured: after the first of 192 thumbnails 11,922 s were said to be left, and it took 73."""
    clock = Clock()
    pace = Pace(192, clock=clock)
    clock.now += 62  # workers start
    pace.advance()
    assert pace.rate is None and pace.left_s is None
    for _ in range(16):
        clock.now += 0.5
        pace.advance()
    assert pace.rate == pytest.approx(2)
    assert pace.left_s == pytest.approx((192 - 17) / 2)


def test_no_estimate_before_it_means_something() -> None:
    clock = Clock()
    pace = Pace(1000, clock=clock)
    for _ in range(50):  # many items within a second say little
        clock.now += 0.02
        pace.advance()
        assert pace.left_s is None
    clock.now += 10
    pace.advance()
    assert pace.left_s is not None

    slow = Pace(10, clock=clock)
    for _ in range(3):  # a few items, whatever their time, say little
        clock.now += 100
        slow.advance()
        assert slow.left_s is None
    clock.now += 100
    slow.advance()
    assert slow.left_s == pytest.approx(600)


def test_time_for_something_else_is_left_out() -> None:
    clock = Clock()
    pace = Pace(100, done=50, clock=clock)
    for step in range(20):
        if step == 7:
            clock.now += 1000
            pace.pause(1000)
        clock.now += 1
        pace.advance()
    assert pace.rate == pytest.approx(1)
    assert pace.left_s == pytest.approx(30)


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 100)), max_size=30), st.integers(0, 3))
def test_an_estimate_is_finite_and_not_negative(items: list[tuple[int, float]], done: int) -> None:
    clock = Clock()
    pace = Pace(done + sum(count for count, _ in items), done, clock)
    for count, seconds in items:
        clock.now += seconds
        pace.advance(count)
        assert pace.left_s is None or 0 <= pace.left_s < float("inf")


def test_a_log_gets_lines_with_what_is_left_beside_the_units(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(meter.time, "monotonic", clock)
    shown = Meter("training", 100, "steps", done=10, every_s=20)
    for step in range(90):
        clock.now += 2
        shown.advance(note=f"epoch {step // 10 + 1}", later_s=3600)
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 21 of 100 steps, epoch 2, about 1 h left"
    assert len(lines) == 8 and all(line.endswith("left") for line in lines)


def test_a_terminal_without_a_width_gets_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "_columns", lambda: 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert Meter("training", 40, "steps").bar is None


def test_a_bar_says_units_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(meter.time, "monotonic", clock)
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    shown = Meter("training", 40, "steps")
    for _ in range(20):
        clock.now += 3
        shown.advance()
    shown.bar.refresh()  # type: ignore[union-attr]
    shown.close()
    text = screen.getvalue()
    assert "20/40 steps, 0.333 steps/s, about 1 min left" in text
    assert "?" not in text and "s/ steps" not in text and "it/s" not in text


def test_nothing_is_left_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(meter.time, "monotonic", clock)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shown = Meter("scanning", 5)
    words = []
    for _ in range(5):
        clock.now += 10
        shown.advance()
        words.append(shown._words(None, 0.0))
    assert "left" in words[3] and "left" not in words[4]


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


def test_an_interrupt_while_tqdm_begins_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes its lock at the first line, and hid what ended that behind an AttributeError."""
    monkeypatch.delattr(tqdm, "_lock", raising=False)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tqdm_std, "TqdmDefaultWriteLock", interrupted)
    with pytest.raises(KeyboardInterrupt):
        say("a line")
