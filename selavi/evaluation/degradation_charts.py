"""Tables and charts of what degradation.py measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selavi.evaluation.charts import Bars, Chart, Curve, bar_chart, line_chart
from selavi.evaluation.corruptions import CLEAN, CORRUPTIONS, Corruption

MAX_LINES = 7
"""That one chart can show."""


Points = list[tuple[float | None, list[float]]]
"""(severity, NMI of each run of a line); None for the undegraded clips, which come first."""


def curves(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Points]:
    """The points of each line under one corruption; none of a line that was not measured under it."""
    points_by_line: dict[str, dict[float | None, list[float]]] = {}
    for row in rows:
        if row["corruption"] in (name, CLEAN):
            severity = None if row["corruption"] == CLEAN else float(row["severity"])
            points_by_line.setdefault(row["line"], {}).setdefault(severity, []).append(float(row["nmi"]))
    order = (None, *CORRUPTIONS[name].severities)
    return {
        line: [(severity, points[severity]) for severity in order if severity in points]
        for line, points in points_by_line.items()
        if set(points) - {None}
    }


def format_degradation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tables to read: one for each corruption, a line each, its mean NMI at every severity."""
    blocks = []
    for name, corruption in CORRUPTIONS.items():
        lines = curves(rows, name)
        if not lines:
            continue
        width = max(30, *(len(line) + 2 for line in lines))
        head = "".join(f"{severity:>9g}" for severity in corruption.severities)
        blocks.append(f"{corruption.title} ({corruption.unit}), NMI\n{'':{width}}{CLEAN:>9}{head}")
        for line, points in lines.items():
            means = {severity: float(np.mean(each)) for severity, each in points}
            cells = (f"{means[s]:9.3f}" if s in means else f"{'-':>9}" for s in (None, *corruption.severities))
            blocks.append(f"{line:{width}}{''.join(cells)}")
        blocks.append("")
    return "\n".join(blocks).rstrip()


def write_plots(rows: Sequence[Mapping[str, Any]], folder: Path, split: str) -> list[Path]:
    """Draw degradation_SPLIT_CORRUPTION.svg, one line a run; of several runs of one name the mean, and their range.

    Missing modalities share one chart of bars.  More than MAX_LINES lines go on in a second file, and so on.
    """
    lines = list(dict.fromkeys(str(row["line"]) for row in rows))
    paths = []
    for number, first in enumerate(range(0, len(lines), MAX_LINES)):
        shown = lines[first : first + MAX_LINES]
        ending = f"{f'-{number + 1}' if number else ''}.svg"
        for name, corruption in CORRUPTIONS.items():
            points_by_line = {line: points for line, points in curves(rows, name).items() if line in shown}
            if points_by_line and corruption.degrade is not None:
                figure = _chart(points_by_line, corruption, split)
                paths.append(figure.save(folder / f"degradation_{split}_{name}{ending}"))
        missing = {name: curves(rows, name) for name, corruption in CORRUPTIONS.items() if corruption.degrade is None}
        if any(line in each for each in missing.values() for line in shown):
            figure = _bars(missing, shown, split)
            paths.append(figure.save(folder / f"degradation_{split}_missing{ending}"))
    return paths


def _chart(points_by_line: Mapping[str, Points], corruption: Corruption, split: str) -> Chart:
    places = {severity: place for place, severity in enumerate((None, *corruption.severities))}
    drawn = []
    for line, points in points_by_line.items():
        several = any(len(each) > 1 for _, each in points)
        drawn.append(
            Curve(
                line,
                x=[places[severity] for severity, _ in points],
                y=[float(np.mean(each)) for _, each in points],
                low=[min(each) for _, each in points] if several else None,
                high=[max(each) for _, each in points] if several else None,
            )
        )
    return line_chart(
        drawn,
        title=f"{corruption.title.capitalize()}, {_about(points_by_line, split)}",
        x_label=f"{corruption.unit}: from mild to worst",
        y_label="NMI",
        x_ticks=[(place, CLEAN if severity is None else f"{severity:g}") for severity, place in places.items()],
        x_range=(0, len(places) - 1),
        y_range=(
            0.0,
            1.05 * max(0.1, *(value for points in points_by_line.values() for _, each in points for value in each)),
        ),
    )


def _bars(missing: Mapping[str, Mapping[str, Points]], shown: Sequence[str], split: str) -> Chart:
    every = {line: points for each in missing.values() for line, points in each.items() if line in shown}

    def series(title: str, values: Mapping[str, Sequence[float]]) -> Bars:
        values_by_line = [values.get(line) or [float("nan")] for line in every]
        several = any(len(runs) > 1 for runs in values_by_line)
        return Bars(
            title,
            [float(np.mean(runs)) for runs in values_by_line],
            low=[min(runs) for runs in values_by_line] if several else None,
            high=[max(runs) for runs in values_by_line] if several else None,
        )

    bars = [series(CLEAN, {line: dict(points).get(None, []) for line, points in every.items()})]
    for name, points_by_line in missing.items():
        bars.append(series(CORRUPTIONS[name].title, {line: points[-1][1] for line, points in points_by_line.items()}))
    return bar_chart(list(every), bars, title=f"A modality missing, {_about(every, split)}", value_label="NMI")


def _about(points_by_line: Mapping[str, Points], split: str) -> str:
    most = max(len(each) for points in points_by_line.values() for _, each in points)
    return f"{split} clips" + (f"; mean and range where a line has several runs, {most} at most" if most > 1 else "")
