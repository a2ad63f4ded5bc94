"""Line and bar charts with spread, as SVG or PNG: no plotting library is among the dependencies.

    figure = line_chart(
        [Line("SeLaVi", x=[0, 1, 2], y=[0.6, 0.5, 0.4], low=[0.55, 0.4, 0.3], high=[0.65, 0.6, 0.5])],
        title="Compressed video", x_label="CRF of H.264", y_label="NMI", y_range=(0, 1),
    )
    figure.save(Path("degradation.png"))          # or .svg

    bar_chart(["SeLaVi", "XDC"], [Bars("train", [0.6, 0.4], low=[0.5, 0.35], high=[0.7, 0.45])],
              title="...", value_label="NMI").save(Path("recipes.svg"))

`low` and `high` are the ends of the spread (a band around a line, a whisker on a bar); say in the title or the label
what they are.  Series differ in lightness, and lines in dashes and markers too, so that a print in grey can be read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from selavi.atomic import write_atomically

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Point = tuple[float, float]

# From dark to light, apart in hue and in lightness (L* of about 25, 45, 60, 70, 80, 35, 55).
_COLOURS = ("#1b3a6b", "#b0413e", "#3f9b79", "#e0922f", "#a8c5e8", "#6a3d7c", "#7f7f7f")
# Neighbours far apart in lightness; dark whiskers must show on each but the third.
_FILLS = ("#5b8fc9", "#d5e3f2", "#1b3a6b", "#e8b05f", "#8c8c8c", "#f5dfc0", "#a06ab4")
_DASHES: tuple[tuple[float, ...], ...] = ((), (7, 4), (2, 3), (9, 3, 2, 3), (4, 2), (12, 4), (1, 2))
_MARKERS = ("circle", "square", "up", "diamond", "down", "cross", "plus")
_INK, _GRID, _FONT = "#222222", "#dddddd", 13
_SUPERSAMPLING = 3  # pixels drawn for one of the PNG, each way


@dataclass(frozen=True)
class Line:
    """One line: y over x; nan breaks it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Bars:
    """One bar in each group; nan leaves a bar out."""

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Stroke:
    """A line through points."""

    points: Sequence[Point]
    colour: str
    width: float


@dataclass(frozen=True)
class Area:
    """A filled outline."""

    points: Sequence[Point]
    fill: str
    opacity: float = 1.0
    outline: str = ""


@dataclass(frozen=True)
class Text:
    """A line of text at a point."""

    at: Point
    text: str
    size: float = _FONT
    anchor: str = "start"  # start, middle or end of the text is at x; y is its middle line
    upright: bool = False  # read from below


@dataclass
class Figure:
    """Shapes on a white page, in pixels from the upper left corner."""

    width: float
    height: float
    shapes: list[Stroke | Area | Text] = field(default_factory=list)

    def svg(self) -> str:
        """The page as SVG text."""
        size = f'width="{self.width:g}" height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
            '<rect width="100%" height="100%" fill="white"/>',
            *(_svg_shape(shape) for shape in self.shapes),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def png(self, scale: float = 2.0) -> bytes:
        """The page as a PNG file of `scale` pixels for each of ours."""
        from PIL import Image

        fine = scale * _SUPERSAMPLING
        image = Image.new("RGB", (round(self.width * fine), round(self.height * fine)), "white")
        for shape in self.shapes:
            if not isinstance(shape, Text):
                _draw_shape(image, shape, fine)
        image = image.resize((round(self.width * scale), round(self.height * scale)), Image.Resampling.LANCZOS)
        for shape in self.shapes:  # letters are smoothed by the font's own renderer
            if isinstance(shape, Text):
                _draw_text(image, shape, scale)
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        return file.getvalue()

    def save(self, path: Path) -> Path:
        """Write the page whole or not at all, as the suffix says.

        Raises:
            ValueError: a suffix other than .svg and .png.
        """
        if path.suffix not in (".svg", ".png"):
            raise ValueError(f"expected a name that ends in .svg or .png, got {path.name}")
        content = self.svg().encode() if path.suffix == ".svg" else self.png()
        with write_atomically(path) as temporary:
            temporary.write_bytes(content)
        return path


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    size: tuple[float, float] = (760, 440),
) -> Figure:
    """Lines with markers, bands between `low` and `high`, and a legend at the right.

    Args:
        lines: at most seven.
        title: what is shown, above the chart.
        x_label: quantity and unit of the horizontal axis.
        y_label: of the vertical one.
        x_ticks: (place, text) of the ticks; chosen here if not given.
        x_range: first and last place; the first greater than the last turns the axis round.
        y_range: lowest and highest value; by default those of the lines and bands, with some room.
        size: of the page in pixels.

    Raises:
        ValueError: no line or too many, lengths that differ, or no finite value.
    """
    _check_number(len(lines), "lines")
    for line in lines:
        _check_lengths(line.name, len(line.x), y=line.y, low=line.low, high=line.high)
    ends = x_range or _reach([x for line in lines for x in line.x])
    seen = [y for line in lines for values in (line.y, line.low, line.high) for y in values or ()]
    bottom, top = y_range or _padded(_reach(seen))
    figure = Figure(*size)
    legend_width = 44 + max(_text_width(line.name) for line in lines)
    area = Frame(72, size[0] - legend_width - 12, 40, size[1] - 56, ends, (bottom, top))
    x_marks = (
        list(x_ticks) if x_ticks is not None else [(x, format_number(x)) for x in find_ticks(min(ends), max(ends))]
    )
    draw_axes(figure, area, title, x_label, y_label, x_marks, [(y, format_number(y)) for y in find_ticks(bottom, top)])
    styles = list(zip(_COLOURS, _DASHES, _MARKERS, strict=True))
    for line, (colour, _, _) in zip(lines, styles, strict=False):  # bands lie below all lines
        for run in _runs([line.x, line.low or (), line.high or ()]):
            forth = [area.place(x, low) for x, low, _ in run]
            figure.shapes.append(Area([*forth, *(area.place(x, high) for x, _, high in reversed(run))], colour, 0.18))
    for number, (line, (colour, dashes, marker)) in enumerate(zip(lines, styles, strict=False)):
        for run in _runs([line.x, line.y]):
            points = [area.place(*point) for point in run]
            figure.shapes += [Stroke(part, colour, 2) for part in _dashed(points, dashes)]
            for point in points:
                figure.shapes += _marker(marker, point, colour)
        y = area.top + 10 + 22 * number
        x = area.right + 12
        figure.shapes += [Stroke(part, colour, 2) for part in _dashed([(x, y), (x + 28, y)], dashes)]
        figure.shapes += [*_marker(marker, (x + 14, y), colour), Text((x + 34, y), line.name)]
    return figure


def bar_chart(
    groups: Sequence[str],
    bars: Sequence[Bars],
    *,
    title: str,
    value_label: str,
    value_range: tuple[float, float] | None = None,
    width: float = 760,
) -> Figure:
    """Lying bars: a group a line of text, a bar a series, whiskers from `low` to `high`, the value beside it.

    Args:
        groups: names at the left, from above.
        bars: the series, at most seven; of several a legend is shown.
        title: what is shown, above the chart.
        value_label: quantity and unit of the horizontal axis.
        value_range: ends of the axis; from 0 to a little over the highest value by default.
        width: of the page in pixels; the height follows from the bars.

    Raises:
        ValueError: no group, no series or too many, lengths that differ, or no finite value.
    """
    _check_number(len(bars), "series of bars")
    for series in bars:
        _check_lengths(series.name, len(groups), values=series.values, low=series.low, high=series.high)
    highest = _reach([v for series in bars for s in (series.values, series.low, series.high) for v in s or ()])
    low, high = value_range or (min(0.0, highest[0]), highest[1] * 1.1 if highest[1] > 0 else 0.0)
    thickness, gap = 17.0, 12.0
    legend = 24.0 if len(bars) > 1 else 0.0
    step = thickness * len(bars) + gap
    top = 40 + legend
    height = top + step * len(groups) + gap / 2 + 56
    left = 20 + max(_text_width(name) for name in groups)
    figure = Figure(width, height)
    area = Frame(left, width - 60, top, height - 56, (low, high), (0.0, 1.0))
    draw_axes(figure, area, title, value_label, "", [(x, format_number(x)) for x in find_ticks(low, high)], [])
    x = area.left
    for series, colour in zip(bars if legend else [], _FILLS, strict=False):
        figure.shapes += [box(x, 34, x + 18, 34 + 12, colour), Text((x + 24, 40), series.name)]
        x += 44 + _text_width(series.name)
    for row, group in enumerate(groups):
        y = top + gap / 2 + row * step
        figure.shapes.append(Text((left - 8, y + thickness * len(bars) / 2), group, anchor="end"))
        for series, colour in zip(bars, _FILLS, strict=False):
            value = series.values[row]
            if math.isfinite(value):
                start, end = area.place(max(low, min(0.0, high)), 0)[0], area.place(value, 0)[0]
                figure.shapes.append(box(start, y, end, y + thickness - 3, colour))
                middle, furthest = y + (thickness - 3) / 2, end
                if series.low is not None and series.high is not None:
                    ends = [area.place(v, 0)[0] for v in (series.low[row], series.high[row])]
                    figure.shapes += [Stroke([(ends[0], middle), (ends[1], middle)], "#ffffff", 4.5)]
                    figure.shapes += [Stroke([(ends[0], middle), (ends[1], middle)], _INK, 1.5)]
                    figure.shapes += [Stroke([(e, middle - 4), (e, middle + 4)], _INK, 1.5) for e in ends]
                    furthest = max(end, ends[1])
                figure.shapes.append(Text((furthest + 6, middle), f"{value:.3f}", size=11))
            y += thickness
    return figure


@dataclass(frozen=True)
class Frame:
    """The chart's rectangle on the page and the values at its sides."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def place(self, x: float, y: float) -> Point:
        across = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return (
            self.left + (self.right - self.left) * min(max(across, 0.0), 1.0),
            self.bottom - (self.bottom - self.top) * min(max(up, 0.0), 1.0),
        )


def draw_axes(
    figure: Figure,
    area: Frame,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
) -> None:
    """Frame, ticks, title and labels of a chart."""
    figure.shapes.append(Text((12, 18), title, size=15))
    for value, text in x_ticks:
        x = area.place(value, 0)[0]
        figure.shapes.append(Stroke([(x, area.top), (x, area.bottom)], _GRID, 1))
        figure.shapes.append(Text((x, area.bottom + 14), text, size=12, anchor="middle"))
    for value, text in y_ticks:
        y = area.place(0, value)[1]
        figure.shapes.append(Stroke([(area.left, y), (area.right, y)], _GRID, 1))
        figure.shapes.append(Text((area.left - 8, y), text, size=12, anchor="end"))
    corner = [(area.left, area.top), (area.left, area.bottom), (area.right, area.bottom)]
    figure.shapes.append(Stroke(corner, _INK, 1.2))
    figure.shapes.append(Text(((area.left + area.right) / 2, area.bottom + 38), x_label, anchor="middle"))
    if y_label:
        figure.shapes.append(Text((18, (area.top + area.bottom) / 2), y_label, anchor="middle", upright=True))


def _marker(kind: str, at: Point, colour: str) -> list[Stroke | Area]:
    x, y = at
    r = 4.5
    if kind in ("cross", "plus"):
        arms = ((-r, -r, r, r), (-r, r, r, -r)) if kind == "cross" else ((-r, 0, r, 0), (0, -r, 0, r))
        return [Stroke([(x + a, y + b), (x + c, y + d)], colour, 2) for a, b, c, d in arms]
    if kind == "circle":
        corners = [(r * math.cos(a * math.pi / 8), r * math.sin(a * math.pi / 8)) for a in range(16)]
    else:
        corners = {
            "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
            "diamond": [(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)],
            "up": [(0, -r - 1), (r + 1, r), (-r - 1, r)],
            "down": [(0, r + 1), (r + 1, -r), (-r - 1, -r)],
        }[kind]
    return [Area([(x + dx, y + dy) for dx, dy in corners], colour, outline="#ffffff")]


def box(left: float, top: float, right: float, bottom: float, colour: str) -> Area:
    """A rectangle with an outline."""
    return Area([(left, top), (right, top), (right, bottom), (left, bottom)], colour, outline=_INK)


def _dashed(points: Sequence[Point], dashes: Sequence[float]) -> list[list[Point]]:
    """Cut a line into its dashes; none: the line itself."""
    if not dashes or len(points) < 2:
        return [list(points)] if len(points) > 1 else []
    parts, part, number, left = [], [points[0]], 0, dashes[0]
    for (x, y), (to_x, to_y) in pairwise(points):
        length = math.dist((x, y), (to_x, to_y))
        done = 0.0
        while length - done > left:
            done += left
            at = (x + (to_x - x) * done / length, y + (to_y - y) * done / length)
            if number % 2 == 0:
                parts.append([*part, at])
            part, number = [at], number + 1
            left = dashes[number % len(dashes)]
        left -= length - done
        part.append((to_x, to_y))
    return [*parts, part] if number % 2 == 0 else parts


def _runs(columns: Sequence[Sequence[float]]) -> list[list[tuple[float, ...]]]:
    """Rows of the columns, cut where one is not finite; nothing where a column is empty."""
    found: list[list[tuple[float, ...]]] = [[]]
    for row in zip(*columns, strict=False):
        if all(math.isfinite(value) for value in row):
            found[-1].append(row)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def find_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from low to high."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def format_number(value: float) -> str:
    """As short as six digits allow."""
    return f"{value:.6g}" if value else "0"


def _reach(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        raise ValueError("there is no finite value to show")
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _padded(reach: tuple[float, float]) -> tuple[float, float]:
    room = 0.06 * (reach[1] - reach[0])
    return reach[0] - room, reach[1] + room


def _check_number(found: int, what: str) -> None:
    if not 1 <= found <= len(_COLOURS):
        raise ValueError(f"expected 1 to {len(_COLOURS)} {what}, got {found}: more cannot be told apart")


def _check_lengths(name: str, expected: int, **columns: Sequence[float] | None) -> None:
    found = {key: len(values) for key, values in columns.items() if values is not None}
    if not expected or set(found.values()) != {expected}:
        raise ValueError(f"{name}: expected {expected or 'at least one'} values, got {found}")
    if ("low" in found) != ("high" in found):
        raise ValueError(f"{name}: give both low and high, or neither")


# ---- SVG ----


def _svg_shape(shape: Stroke | Area | Text) -> str:
    if isinstance(shape, Text):
        x, y = shape.at
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if shape.upright else ""
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" dy="0.35em" font-size="{shape.size:g}" fill="{_INK}" '
            f'text-anchor="{shape.anchor}"{turned}>{escape(shape.text)}</text>'
        )
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
    if isinstance(shape, Stroke):
        return f'<polyline points="{points}" fill="none" stroke="{shape.colour}" stroke-width="{shape.width:g}"/>'
    outline = f' stroke="{shape.outline}" stroke-width="0.8"' if shape.outline else ""
    return f'<polygon points="{points}" fill="{shape.fill}" fill-opacity="{shape.opacity:g}"{outline}/>'


# ---- PNG ----


def _draw_shape(image: Any, shape: Stroke | Area, fine: float) -> None:
    from PIL import Image, ImageDraw

    points = [(x * fine, y * fine) for x, y in shape.points]
    if isinstance(shape, Stroke):
        ImageDraw.Draw(image).line(points, fill=shape.colour, width=max(1, round(shape.width * fine)), joint="curve")
        return
    if shape.opacity < 1:
        mask = Image.new("L", image.size, 0)
        ImageDraw.Draw(mask).polygon(points, fill=round(255 * shape.opacity))
        image.paste(shape.fill, (0, 0, *image.size), mask)
    else:
        ImageDraw.Draw(image).polygon(points, fill=shape.fill)
    if shape.outline:
        closed = [*points, points[0]]
        ImageDraw.Draw(image).line(closed, fill=shape.outline, width=max(1, round(0.8 * fine)), joint="curve")


def _draw_text(image: Any, shape: Text, scale: float) -> None:
    from PIL import Image, ImageDraw

    font, (x, y) = _font(shape.size * scale), (shape.at[0] * scale, shape.at[1] * scale)
    if not shape.upright:
        anchor = {"start": "lm", "middle": "mm", "end": "rm"}[shape.anchor]
        ImageDraw.Draw(image).text((x, y), shape.text, fill=_INK, font=font, anchor=anchor)
        return
    length, height = math.ceil(font.getlength(shape.text)) + 4, math.ceil(2 * shape.size * scale)
    label = Image.new("RGB", (length, height), "white")
    ImageDraw.Draw(label).text((length / 2, height / 2), shape.text, fill=_INK, font=font, anchor="mm")
    label = label.rotate(90, expand=True)
    image.paste(label, (round(x - label.width / 2), round(y - label.height / 2)))


def _text_width(text: str) -> float:
    return _font(_FONT).getlength(text) * 1.06  # browsers' sans-serif runs a little wider


def _font(size: float) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
