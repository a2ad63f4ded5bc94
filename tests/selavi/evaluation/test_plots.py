import io
import math
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selavi.evaluation.plots import Bars, Figure, Line, bar_chart, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def chart(*lines: Line, **settings: object) -> Figure:
    return line_chart(lines, title="a < b & c", x_label="CRF", y_label="NMI", **settings)  # type: ignore[arg-type]


def texts(figure: Figure) -> list[str]:
    return [element.text or "" for element in ET.fromstring(figure.svg()).iter(f"{SVG}text")]


def points(figure: Figure, colour: str) -> list[tuple[float, float]]:
    """Ends of the lines of a colour, without the legend's."""
    found: list[tuple[float, float]] = []
    for element in ET.fromstring(figure.svg()).iter(f"{SVG}polyline"):
        if element.get("stroke") == colour and len(element.get("points", "").split()) > 2:
            for pair in element.get("points", "").split():
                x, y = pair.split(",")
                found.append((float(x), float(y)))
    return found


def test_a_line_goes_where_its_values_are() -> None:
    figure = chart(Line("one", [0, 5, 10], [0.0, 0.5, 1.0]), y_range=(0, 1))
    (left, bottom), (middle, half), (right, top) = points(figure, "#1b3a6b")
    assert left < middle < right and bottom > half > top
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    assert bottom - half == pytest.approx(half - top, abs=0.2)
    turned = points(chart(Line("one", [0, 5, 10], [0.0, 0.5, 1.0]), x_range=(10, 0)), "#1b3a6b")
    assert turned[0][0] > turned[2][0]


def test_everything_that_is_said_is_on_the_page() -> None:
    figure = chart(Line("SeLaVi", [20, 30], [0.2, 0.4]), Line("XDC", [20, 30], [0.1, 0.3]), x_ticks=[(20, "fine")])
    said = texts(figure)
    for expected in ("a < b & c", "CRF", "NMI", "SeLaVi", "XDC", "fine"):
        assert expected in said
    assert "0.2" in said  # a tick of the values


def test_a_band_spans_low_to_high_and_a_gap_is_a_gap() -> None:
    nan = math.nan
    whole = chart(Line("a", [0, 1, 2, 3], [1, 2, 3, 4], low=[0, 1, 2, 3], high=[2, 3, 4, 5]))
    parted = chart(Line("a", [0, 1, 2, 3], [1, nan, 3, 4], low=[0, nan, 2, 3], high=[2, nan, 4, 5]))

    def bands(figure: Figure) -> list[int]:
        areas = ET.fromstring(figure.svg()).iter(f"{SVG}polygon")
        return [len(area.get("points", "").split()) for area in areas if area.get("fill-opacity") != "1"]

    assert bands(whole) == [8]
    assert bands(parted) == [2, 4]


def test_bars_are_as_long_as_their_values() -> None:
    figure = bar_chart(
        ["x", "y"], [Bars("train", [0.5, 0.25]), Bars("test", [math.nan, 1.0])], title="t", value_label="NMI"
    )
    lengths: dict[str | None, list[float]] = {}
    for area in ET.fromstring(figure.svg()).iter(f"{SVG}polygon"):
        xs = [float(pair.split(",")[0]) for pair in area.get("points", "").split()]
        lengths.setdefault(area.get("fill"), []).append(max(xs) - min(xs))
    legend, half, quarter = lengths["#5b8fc9"]
    assert half == pytest.approx(2 * quarter, abs=0.3)
    assert lengths["#d5e3f2"] == [legend, pytest.approx(4 * quarter, abs=0.3)]  # that of nan is left out
    assert [text for text in texts(figure) if text in ("0.500", "0.250", "1.000")] == ["0.500", "0.250", "1.000"]


def test_series_differ_without_colour() -> None:
    """In grey, the fills of neighbouring series are far apart."""
    from selavi.evaluation.plots import _COLOURS, _DASHES, _FILLS, _MARKERS

    grey = [float(np.dot([int(fill[i : i + 2], 16) for i in (1, 3, 5)], [0.299, 0.587, 0.114])) for fill in _FILLS]
    assert min(abs(a - b) for a, b in pairwise(grey)) > 35
    assert len(set(_DASHES)) == len(set(_MARKERS)) == len(_COLOURS)


def test_both_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    figure = chart(Line("one", [0, 1], [0, 1], low=[0, 0.5], high=[0.5, 1]), size=(400, 300))
    assert figure.save(tmp_path / "chart.svg").read_text() == figure.svg()
    image = Image.open(io.BytesIO(figure.save(tmp_path / "chart.png").read_bytes()))
    assert image.size == (800, 600)
    pixels = np.asarray(image.convert("RGB"))
    assert (pixels == 255).all(2).mean() > 0.5  # the page is white
    assert (np.abs(pixels.astype(int) - (0x1B, 0x3A, 0x6B)).max(2) < 12).sum() > 200  # the line is there
    with pytest.raises(ValueError, match=r"ends in \.svg or \.png, got chart\.pdf"):
        figure.save(tmp_path / "chart.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart.png", "chart.svg"]


def test_one_value_can_be_shown() -> None:
    figure = chart(Line("one", [3], [0.5]))
    assert "one" in texts(figure)
    figure.png(scale=0.5)


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one: expected 2 values, got \{'y': 1\}"):
        chart(Line("one", [0, 1], [0]))
    with pytest.raises(ValueError, match="one: give both low and high"):
        chart(Line("one", [0, 1], [0, 1], low=[0, 0]))
    with pytest.raises(ValueError, match="expected 1 to 7 lines, got 0"):
        chart()
    with pytest.raises(ValueError, match="expected 1 to 7 lines, got 8"):
        chart(*[Line(str(n), [0], [0]) for n in range(8)])
    with pytest.raises(ValueError, match="no finite value"):
        chart(Line("one", [0, 1], [math.nan, math.nan]))
    with pytest.raises(ValueError, match="expected 2 values, got"):
        bar_chart(["x", "y"], [Bars("train", [0.5])], title="t", value_label="NMI")
