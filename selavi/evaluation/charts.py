"""Charts as SVG or PNG, drawn by matplotlib without a screen; equal data give equal bytes.

    chart = line_chart(
        [Curve("SeLaVi", x=[0, 1, 2], y=[0.6, 0.5, 0.4], low=[0.55, 0.4, 0.3], high=[0.65, 0.6, 0.5])],
        title="Compressed video", x_label="CRF of H.264", y_label="NMI", y_range=(0, 1),
    )
    chart.save(Path("degradation.png"))          # or .svg

`low` and `high` are the ends of the spread (a band around a curve, a whisker on a bar); the title or a label says what
they are.  The colours are those that colour-blind people tell apart (Okabe and Ito, 2008); neighbours differ in
lightness too, and curves in dashes and markers.  An SVG has no background, and its text is dark, or light where the
reader prefers dark pages.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selavi.atomic import write_atomically

if TYPE_CHECKING:  # matplotlib takes a second to import, and most commands draw nothing
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f")
DASHES = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1.5)), (0, (10, 3)), (0, (1, 2.5)))
MARKERS = ("o", "s", "^", "D", "v", "X", "P")
_BLUE, _RED, _SKY, _INK = COLOURS[0], COLOURS[4], COLOURS[5], "#222222"
_PIXELS_AN_INCH = 96
BARS_APART, NAMED_BARS = 150, 40
"""Clusters up to which their bars are drawn apart, and have their numbers below."""
_STYLE = {
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; an SVG is shown in the reader's own font
    "font.size": 9.75,  # points: 13 pixels
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 7),
    "text.color": _INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.major.pad": 6.0,
    "ytick.major.pad": 6.0,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "selavi",
}
_SVG_STYLE = "svg{color-scheme:light dark;color:#1b1d1c}@media(prefers-color-scheme:dark){svg{color:#ecebe6}}</style>"


@dataclass(frozen=True)
class Curve:
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
class Chart:
    """A chart that can be drawn; each time anew, as a second layout of one figure moves things a little."""

    size: tuple[float, float]
    """Width and height in pixels of the page."""
    title: str
    draw: Callable[[Axes], None]

    def svg(self, with_title: bool = True) -> str:
        """The chart as SVG text, for light and dark pages; without its title for a page that has one above it."""
        unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        text = self._render("svg", with_title, transparent=True, metadata=unsaid).decode()
        text = text[text.index("<svg") :].replace(_INK, "currentColor").replace("'DejaVu Sans'", "system-ui")
        return text.replace("</style>", _SVG_STYLE, 1)

    def png(self) -> bytes:
        """The chart on white as a PNG file, two pixels for one of the page."""
        return self._render("png", True, dpi=2 * _PIXELS_AN_INCH, metadata={"Software": None})

    def save(self, path: Path) -> Path:
        """Write the chart whole or not at all, as the suffix says.

        Raises:
            ValueError: a suffix other than .svg and .png.
        """
        if path.suffix not in (".svg", ".png"):
            raise ValueError(f"expected a name that ends in .svg or .png, got {path.name}")
        content = self.svg().encode() if path.suffix == ".svg" else self.png()
        with write_atomically(path) as temporary:
            temporary.write_bytes(content)
        return path

    def _render(self, kind: str, with_title: bool, **settings: Any) -> bytes:
        from matplotlib.figure import Figure

        file = io.BytesIO()
        with _style():
            inches = self.size[0] / _PIXELS_AN_INCH, self.size[1] / _PIXELS_AN_INCH
            figure = Figure(inches, layout="constrained")
            self.draw(figure.subplots())
            if with_title:
                figure.suptitle(self.title, x=0.012, ha="left", fontsize=11.25)
            figure.savefig(file, format=kind, **settings)
        return file.getvalue()


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    size: tuple[float, float] = (760, 440),
) -> Chart:
    """Draw curves with markers, bands between `low` and `high`, and a legend at the right.

    Args:
        curves: at most seven.
        title: what is shown, above the chart.
        x_label: quantity and unit of the horizontal axis.
        y_label: of the vertical one.
        x_ticks: (place, text) of the ticks; chosen here if not given.
        x_range: first and last place; the first greater than the last turns the axis round.
        y_range: lowest and highest value; by default those of the curves and bands, with some room.
        size: of the page in pixels.

    Raises:
        ValueError: no curve or too many, lengths that differ, or no finite value.
    """
    _check_number(len(curves), "curves")
    for curve in curves:
        _check_lengths(curve.name, len(curve.x), y=curve.y, low=curve.low, high=curve.high)
    _require_finite([value for curve in curves for value in curve.y])

    def draw(axes: Axes) -> None:
        lines = [_draw_curve(axes, *styled) for styled in zip(curves, COLOURS, DASHES, MARKERS, strict=False)]
        names = [_shown(curve.name) for curve in curves]
        axes.legend(lines, names, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, handlelength=3)
        axes.set(xlabel=x_label, ylabel=y_label)
        if x_ticks is not None:
            axes.set_xticks([place for place, _ in x_ticks], [text for _, text in x_ticks])
        axes.set_xlim(x_range)
        axes.set_ylim(y_range)

    return Chart(size, title, draw)


def bar_chart(
    groups: Sequence[str], bars: Sequence[Bars], *, title: str, value_label: str, width: float = 760
) -> Chart:
    """Draw lying bars: a group a line of text, a bar a series, whiskers from `low` to `high`, the value beside it.

    Args:
        groups: names at the left, from above.
        bars: the series, at most seven; of several a legend is shown.
        title: what is shown, above the chart.
        value_label: quantity and unit of the horizontal axis, which begins at 0.
        width: of the page in pixels; the height follows from the bars.

    Raises:
        ValueError: no group, no series or too many, lengths that differ, or no finite value.
    """
    _check_number(len(bars), "series of bars")
    for series in bars:
        _check_lengths(series.name, len(groups), values=series.values, low=series.low, high=series.high)
    _require_finite([value for series in bars for value in series.values])

    def draw(axes: Axes) -> None:
        for number, (series, colour) in enumerate(zip(bars, COLOURS, strict=False)):
            thickness = 0.8 / len(bars)
            places = np.arange(len(groups)) + (number - (len(bars) - 1) / 2) * thickness
            _draw_bars(axes, series, places, 0.85 * thickness, colour)
        axes.set(xlabel=value_label, ylim=(len(groups) - 0.5, -0.5))
        axes.set_yticks(range(len(groups)), [_shown(name) for name in groups])
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        if len(bars) > 1:
            _legend_below(axes, {_shown(series.name): colour for series, colour in zip(bars, COLOURS, strict=False)})

    legend = 24 if len(bars) > 1 else 0
    return Chart((width, 110 + legend + (12 + 20 * len(bars)) * len(groups)), title, draw)


def size_chart(sizes: np.ndarray, targets: np.ndarray | None, *, title: str) -> Chart:
    """Draw cluster sizes from the largest to the smallest, and a line over them of the sizes that are aimed at.

    Args:
        sizes: (K,) clips by cluster.
        targets: (K,) sizes from the largest; None where there are none.
        title: above the chart.
    """
    order = np.argsort(-sizes, kind="stable")
    edges = np.arange(len(sizes) + 1) - 0.5

    def draw(axes: Axes) -> None:
        if len(sizes) <= BARS_APART:
            axes.bar(range(len(sizes)), sizes[order], 0.8, color=_SKY, label="clips in the cluster")
        else:
            axes.stairs(sizes[order], edges, fill=True, color=_SKY, label="clips in the cluster")
        if targets is not None:
            axes.stairs(targets, edges, baseline=None, color=_RED, linewidth=2, label="marginal")
        axes.set(xlabel="cluster, from the largest to the smallest", ylabel="clips", xlim=(edges[0], edges[-1]))
        if len(sizes) <= NAMED_BARS:
            axes.set_xticks(range(len(sizes)), [str(cluster) for cluster in order.tolist()])
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)

    return Chart((860, 340), title, draw)


def matrix_chart(
    counts: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str, smallest: float = 0.02
) -> Chart:
    """Draw a matrix of counts as tints: the stronger, the larger the share of the column that the cell has.

    Args:
        counts: (R, C).
        rows: names at the left; empty where they are too many to be read.
        columns: names above, likewise.
        title: above the chart.
        smallest: share of its column below which a cell stays empty.
    """
    height, width = counts.shape
    shares = counts / np.maximum(counts.sum(0), 1)
    cell_width = min(52.0, 780 / width)
    cell_height = max(16.0, min(28.0, cell_width)) if rows else min(24.0, max(1.5, 620 / height))

    def draw(axes: Axes) -> None:
        _draw_cells(axes, np.where(shares >= smallest, shares, 0))
        if rows:
            axes.hlines(np.arange(1, height) - 0.5, -0.5, width - 0.5, colors=_INK, alpha=0.15, linewidth=0.6)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xlabel="cluster", ylabel="" if rows else "label")
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        axes.set_xticks(range(len(columns)), list(columns), fontsize=max(4.0, min(9.0, 0.42 * cell_width)))
        axes.set_yticks(range(len(rows)), [_shown(name) for name in rows], fontsize=9)
        axes.spines[:].set_visible(True)
        axes.grid(visible=False)
        tints = {f"{share:.0%}": (_BLUE, share) for share in (0.1, 0.25, 0.5, 0.75, 1.0)}
        _legend_below(axes, tints, title="share of the cluster", edgecolor=_INK, linewidth=0.5)

    left = 70 + max((7 * len(name) for name in rows), default=0)
    return Chart((max(left + cell_width * width, 520), 130 + cell_height * height), title, draw)


@contextmanager
def _style() -> Iterator[None]:
    """Our style alone, whatever the user's matplotlibrc says; letters that its font lacks are no reason to warn."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _draw_curve(axes: Axes, curve: Curve, colour: str, dashes: Any, marker: str) -> Artist:
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    return axes.plot(curve.x, curve.y, color=colour, linestyle=dashes, marker=marker, markersize=5)[0]


def _draw_bars(axes: Axes, series: Bars, places: np.ndarray, thickness: float, colour: str) -> None:
    values = np.array(series.values, dtype=float)
    axes.barh(places, values, thickness, color=colour)
    ends = values
    if series.low is not None and series.high is not None:
        whiskers = np.stack([values - series.low, series.high - values])
        axes.errorbar(values, places, xerr=whiskers, fmt="none", ecolor=_INK, elinewidth=1.2, capsize=3)
        ends = np.fmax(values, series.high)
    for value, end, place in zip(values, ends, places, strict=True):
        if math.isfinite(value):
            text = f"{value:.3f}"
            axes.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=8.25)


def _draw_cells(axes: Axes, shares: np.ndarray) -> None:
    """Draw one shape for all cells of a tint: with a shape for each cell, a file would be twice as large."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    tenths = np.ceil(10 * shares - 1e-9)
    for tenth in range(1, 11):
        cells = np.argwhere(tenths == tenth)
        if len(cells):
            outline = Outline.make_compound_path_from_polys(cells[:, None, ::-1] + corners)
            axes.add_patch(PathPatch(outline, facecolor=(_BLUE, tenth / 10), linewidth=0))


def _legend_below(axes: Axes, colours: Mapping[str, Any], title: str = "", **edge: Any) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    assert isinstance(axes.figure, Figure)
    patches = [Patch(facecolor=colour, **edge) for colour in colours.values()]
    axes.figure.legend(patches, list(colours), loc="outside lower center", ncols=len(colours), title=title)


def _shown(name: str) -> str:
    """A name for a legend, which matplotlib would leave out if it began with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def _check_number(number: int, what: str) -> None:
    if not 1 <= number <= len(COLOURS):
        raise ValueError(f"expected 1 to {len(COLOURS)} {what}, got {number}: more cannot be told apart")


def _check_lengths(name: str, expected: int, **columns: Sequence[float] | None) -> None:
    lengths = {key: len(values) for key, values in columns.items() if values is not None}
    if not expected or set(lengths.values()) != {expected}:
        raise ValueError(f"{name}: expected {expected or 'at least one'} values, got {lengths}")
    if ("low" in lengths) != ("high" in lengths):
        raise ValueError(f"{name}: give both low and high, or neither")


def _require_finite(values: Sequence[float]) -> None:
    if not any(math.isfinite(value) for value in values):
        raise ValueError("there is no finite value to show")
