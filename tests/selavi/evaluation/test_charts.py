import io
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selavi.evaluation.charts import (
    COLOURS,
    DASHES,
    MARKERS,
    Bars,
    Chart,
    Curve,
    bar_chart,
    line_chart,
    matrix_chart,
    size_chart,
)

SVG = "{http://www.w3.org/2000/svg}"


def chart(*curves: Curve, **settings: Any) -> Chart:
    return line_chart(curves, title="a < b & c", x_label="CRF", y_label="NMI", **settings)


def texts(drawn: Chart, **settings: Any) -> list[str]:
    return [element.text or "" for element in ET.fromstring(drawn.svg(**settings)).iter(f"{SVG}text")]


def outlines(drawn: Chart, colour: str, kind: str = "fill") -> list[list[tuple[float, float]]]:
    """Corners of the shapes and lines of a colour."""
    found = []
    for element in ET.fromstring(drawn.svg()).iter(f"{SVG}path"):
        if f"{kind}: {colour}" in (element.get("style") or ""):
            numbers = [float(word) for word in (element.get("d") or "").split() if word not in "MLzCQ"]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def test_a_curve_goes_where_its_values_are() -> None:
    values = Curve("one", [0, 5, 10], [0.0, 0.5, 1.0])
    curve, _legend = outlines(chart(values, y_range=(0, 1)), COLOURS[0], "stroke")[:2]
    (left, bottom), (middle, half), (right, top) = curve
    assert left < middle < right and bottom > half > top
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    assert bottom - half == pytest.approx(half - top, abs=0.2)
    turned = outlines(chart(values, x_range=(10, 0)), COLOURS[0], "stroke")[0]
    assert turned[0][0] > turned[2][0]


def test_everything_that_is_said_is_in_the_chart() -> None:
    drawn = chart(
        Curve("_SeLaVi $x$", [20, 30], [0.2, 0.4]), Curve("XDC", [20, 30], [0.1, 0.3]), x_ticks=[(20, "fine")]
    )
    said = [text.replace("\u200b", "") for text in texts(drawn)]
    for expected in ("a < b & c", "CRF", "NMI", "_SeLaVi $x$", "XDC", "fine"):
        assert expected in said
    assert "a < b & c" not in texts(drawn, with_title=False)
    assert "a < b & c" in texts(drawn)


def test_equal_data_give_equal_bytes_whatever_matplotlib_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    lines = Curve("one", [0, 1], [0, 1], low=[0, 0.5], high=[0.5, 1])
    first = chart(lines)
    expected = first.svg(), first.png()
    assert (first.svg(), first.png()) == expected
    with matplotlib.rc_context({"lines.linewidth": 9.0, "svg.fonttype": "path", "text.color": "red"}):
        again = chart(lines)
        assert (again.svg(), again.png()) == expected


def test_text_follows_the_page_and_nothing_lies_behind_it() -> None:
    text = chart(Curve("one", [0, 1], [0, 1])).svg()
    assert text.startswith("<svg") and "DTD" not in text  # nothing is fetched to show it
    assert "currentColor" in text and "prefers-color-scheme:dark" in text
    assert "#222222" not in text and "#ffffff" not in text.lower()


def test_a_band_spans_low_to_high_and_a_gap_is_a_gap() -> None:
    nan = math.nan
    whole = chart(Curve("a", [0, 1, 2, 3], [1, 2, 3, 4], low=[0, 1, 2, 3], high=[2, 3, 4, 5]))
    parted = chart(Curve("a", [0, 1, 2, 3, 4], [1, 2, nan, 4, 5], low=[0, 1, nan, 3, 4], high=[2, 3, nan, 5, 6]))
    assert len(bands(whole)) == 1
    assert len(bands(parted)) == 2


def bands(drawn: Chart) -> list[str]:
    paths = ET.fromstring(drawn.svg()).iter(f"{SVG}path")
    uses = ET.fromstring(drawn.svg()).iter(f"{SVG}use")
    return [style for element in (*paths, *uses) if "opacity: 0.18" in (style := element.get("style") or "")]


def test_bars_are_as_long_as_their_values() -> None:
    drawn = bar_chart(
        ["x", "y"], [Bars("train", [0.5, 0.25]), Bars("test", [math.nan, 1.0])], title="t", value_label="NMI"
    )

    def widths(colour: str) -> list[float]:
        return [max(x for x, _ in corners) - min(x for x, _ in corners) for corners in outlines(drawn, colour)]

    half, quarter, *_ = widths(COLOURS[0])
    assert half == pytest.approx(2 * quarter, abs=0.3)
    assert max(widths(COLOURS[1])) == pytest.approx(4 * quarter, abs=0.3)
    assert [text for text in texts(drawn) if text in ("0.500", "0.250", "1.000", "nan")] == ["0.500", "0.250", "1.000"]


def test_sizes_stand_in_order_with_their_clusters_below() -> None:
    drawn = size_chart(np.array([3, 9, 0]), np.array([4.0, 4.0, 4.0]), title="sizes")
    said = texts(drawn)
    assert [text for text in said if text in ("1", "0", "2")][:3] == ["1", "0", "2"]
    assert "marginal" in said
    assert "marginal" not in texts(size_chart(np.arange(1000), None, title="sizes"))


def test_a_cell_of_the_matrix_is_tinted_by_its_share_of_the_column() -> None:
    counts = np.array([[10, 1, 0], [0, 3, 200]])
    text = matrix_chart(counts, ["dog", "cat"], ["7", "8", "9"], title="t").svg()
    for expected in ("dog", "cat", "7", "8", "9"):
        assert expected in text
    drawn = ET.fromstring(text)
    tints: dict[str, int] = {}
    for path in drawn.iter(f"{SVG}path"):
        style = path.get("style") or ""
        if f"fill: {COLOURS[0]}" in style and "stroke: currentColor" not in style:  # a cell, not the legend
            tint = style.split("opacity: ")[1].split(";")[0] if "opacity" in style else "1"
            tints[tint] = (path.get("d") or "").count("M")
    assert tints == {"0.3": 1, "0.8": 1, "1": 2}


def test_large_matrices_have_no_names() -> None:
    counts = np.eye(100, dtype=int)
    assert {text for text in texts(matrix_chart(counts, [], [], title="t"))} >= {"cluster", "label", "100%"}


def test_series_differ_without_colour() -> None:
    """In grey, neighbouring series are far apart; curves have dashes and markers of their own."""
    grey = [float(np.dot([int(fill[i : i + 2], 16) for i in (1, 3, 5)], [0.299, 0.587, 0.114])) for fill in COLOURS]
    assert min(abs(a - b) for a, b in pairwise(grey)) > 30
    assert len({str(dashes) for dashes in DASHES}) == len(set(MARKERS)) == len(COLOURS)


def test_both_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    drawn = chart(Curve("one", [0, 1], [0, 1], low=[0, 0.5], high=[0.5, 1]), size=(400, 300))
    assert drawn.save(tmp_path / "chart.svg").read_text() == drawn.svg()
    image = Image.open(io.BytesIO(drawn.save(tmp_path / "chart.png").read_bytes()))
    assert image.size == (800, 600)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels == 255).all(2).mean() > 0.5  # the page is white
    assert (np.abs(pixels - (0x00, 0x72, 0xB2)).max(2) < 12).sum() > 200  # the line is there
    with pytest.raises(ValueError, match=r"ends in \.svg or \.png, got chart\.pdf"):
        drawn.save(tmp_path / "chart.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart.png", "chart.svg"]


@pytest.mark.filterwarnings("error")
def test_one_value_and_names_in_any_script_can_be_shown() -> None:
    drawn = chart(Curve("\u72ac \U0001f415", [3], [0.5]))
    assert "\u72ac \U0001f415" in texts(drawn)
    drawn.png()


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one: expected 2 values, got \{'y': 1\}"):
        chart(Curve("one", [0, 1], [0]))
    with pytest.raises(ValueError, match="one: give both low and high"):
        chart(Curve("one", [0, 1], [0, 1], low=[0, 0]))
    with pytest.raises(ValueError, match="expected 1 to 7 curves, got 0"):
        chart()
    with pytest.raises(ValueError, match="expected 1 to 7 curves, got 8"):
        chart(*[Curve(str(number), [0], [0]) for number in range(8)])
    with pytest.raises(ValueError, match="no finite value"):
        chart(Curve("one", [0, 1], [math.nan, math.nan]))
    with pytest.raises(ValueError, match="expected 2 values, got"):
        bar_chart(["x", "y"], [Bars("train", [0.5])], title="t", value_label="NMI")


def test_matplotlib_is_imported_where_something_is_drawn_and_not_before() -> None:
    code = (
        "import sys, selavi.evaluation.report_page, selavi.evaluation.degradation; print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
