"""Pictures and spectrogram of a recording lie where their time is."""

from pathlib import Path

import numpy as np
import pytest

from selavi.media import MediaError, encode_clip
from selavi.results.timeline.pictures import (
    BANDS,
    HEIGHT,
    Sheet,
    draw_sheet,
    draw_spectrogram,
    num_columns,
    plan_sheet,
)

RATE = 16_000


def write(path: Path, seconds: float, tone_from_s: float = 0.0, fps: int = 4) -> Path:
    """Dark, then bright from the middle on; a tone from a time on, silence before it."""
    num = round(seconds * fps)
    frames = np.full((num, 48, 96, 3), 30, np.uint8)
    frames[num // 2 :] = 220
    time_s = np.arange(round(seconds * RATE)) / RATE
    sound = np.where(time_s >= tone_from_s, 0.5 * np.sin(2 * np.pi * 440 * time_s), 0.0)
    encode_clip(path, frames, sound.astype(np.float32), fps=fps, sample_rate=RATE)
    return path


@pytest.mark.parametrize("seconds", [2.0, 70.0])
def test_pictures_lie_on_the_sheet_in_the_order_of_time(tmp_path: Path, seconds: float) -> None:
    sheet = plan_sheet(seconds, 2.0)
    assert sheet.width == 2 * HEIGHT and sheet.count >= 12
    drawn = np.asarray(draw_sheet(write(tmp_path / "a.mp4", seconds), seconds, sheet).convert("L"))
    rows = -(-sheet.count // sheet.across)
    assert drawn.shape == (rows * HEIGHT, sheet.across * sheet.width)
    for number in range(sheet.count):
        row, column = divmod(number, sheet.across)
        cell = drawn[row * HEIGHT : (row + 1) * HEIGHT, column * sheet.width : (column + 1) * sheet.width]
        middle_s = (number + 0.5) * seconds / sheet.count
        if abs(middle_s - seconds / 2) > 0.3:
            assert (cell.mean() > 125) == (middle_s > seconds / 2)


def test_a_narrow_picture_is_whole_and_a_wide_one_is_cut() -> None:
    assert plan_sheet(60.0, 0.1).width == HEIGHT // 2
    assert plan_sheet(60.0, 9.0).width == 2 * HEIGHT
    assert plan_sheet(1e6, 1.0).count == 400


def test_a_film_of_which_nothing_can_be_decoded_has_no_sheet(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(MediaError):
        draw_sheet(tmp_path / "a.mp4", 10.0, Sheet(96, 12, 4))


@pytest.mark.parametrize(("seconds", "from_s"), [(0.7, 0.3), (130.0, 61.0), (900.0, 500.0)])
def test_the_spectrogram_shows_when_and_how_high(tmp_path: Path, seconds: float, from_s: float) -> None:
    drawn = np.asarray(draw_spectrogram(write(tmp_path / "a.mp4", seconds, from_s), seconds).convert("L")).astype(int)
    columns = num_columns(seconds)
    assert drawn.shape == (BANDS, columns)
    loud = np.flatnonzero(drawn.max(0) > 200)
    loud_s = loud / columns * seconds
    slack = 0.1 + 2 * seconds / columns
    assert abs(loud_s.min() - from_s) < slack and loud_s.max() > seconds - slack
    assert len(loud) > 0.9 * (1 - from_s / seconds) * columns  # no gap, at the borders of blocks either
    band = BANDS - 1 - int(drawn[:, loud].mean(1).argmax())
    assert 5 <= band <= 12  # 440 Hz, of 64 mel bands up to 8 kHz


def test_silence_is_dark(tmp_path: Path) -> None:
    drawn = np.asarray(draw_spectrogram(write(tmp_path / "a.mp4", 3.0, 9.0), 3.0).convert("L"))
    assert drawn.max() < 60
