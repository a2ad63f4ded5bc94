"""Is the solver ever slower than the plain loop?

    python benchmarks/plain_scaling.py                          the tables of many_tables.py of at least 10^6 scores
    python benchmarks/plain_scaling.py --tables 40 41 --trial   a few, printed and not kept
    python benchmarks/plain_scaling.py --page                   write docs/results/plain_scaling.md again

The score tables of [many_tables.md](many_tables.md) that have at least a million scores, each labelled from its scores
by the solver and by Sinkhorn's algorithm in its plainest form: the table's exponentials in float64, and two products
with a vector an iteration, until the L1 error of the cluster masses is at most 1e-6.  The two take turns on one thread,
and the loop is stopped when it has taken three times as long as the solver: it would have taken longer.  Processor
time, without compilation.
"""

import argparse
import json
import math
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from common import describe_machine, load_runs, markdown_table, measured_here, save_runs, show_page
from many_tables import MOST_PASSES, NUM_TABLES
from score_tables import KINDS, Drawn, draw
from transport import TOL, compile_first, scaling, sharpen

from selavi.labelling.solver.transport import assign

LEAST_SCORES = 1_000_000
MOST_TIMES = 3
"""Times the solver's own time after which the loop is stopped."""
SHORT_S = 1.0
"""Tables that the solver labels faster are labelled three times."""
NAME, TITLE = "plain_scaling", "Beside the plain loop"


def labelled(drawn: Drawn) -> tuple[float, float]:
    """Processor seconds of the solver, and the error of the cluster masses."""
    began = time.process_time()
    found = assign(drawn.scores, drawn.marginal, max_passes=MOST_PASSES)
    return time.process_time() - began, found.marginal_error


def looped(drawn: Drawn, most_s: float) -> tuple[float, float]:
    """Processor seconds of the plain loop, and the error that it has reached when it ends."""
    began = time.process_time()
    *_, error = scaling(sharpen(drawn.scores), drawn.marginal, "error", sys.maxsize, began + most_s)
    return time.process_time() - began, error


def race(drawn: Drawn) -> dict[str, Any]:
    """Seconds of both on a table, medians of rounds in which they take turns."""
    rounds = []
    while len(rounds) < (3 if not rounds or rounds[0][0] < SHORT_S else 1):
        seconds, error = labelled(drawn)
        rounds.append((seconds, error, *looped(drawn, MOST_TIMES * seconds)))
    solver_s, solver_error, loop_s, loop_error = np.median(np.array(rounds), axis=0).tolist()
    row = {"name": drawn.name, "kind": drawn.kind, "scores": drawn.scores.numel()}
    row |= {"solver_s": solver_s, "solver_error": solver_error, "loop_s": loop_s}
    row["loop_error"] = loop_error if math.isfinite(loop_error) else None
    return row | {"environment": measured_here()}


def page(rows: Sequence[dict[str, Any]]) -> str:
    """docs/results/plain_scaling.md."""
    header = ["tables", "number", "loop stopped before its error was reached", "loop / solver: least", "5th percentile"]
    groups = [("all", list(rows))]
    groups += [(f"kind {kind}", [row for row in rows if row["kind"] == kind]) for kind in KINDS]
    cells = [[name, str(len(members)), *_figures(members)] for name, members in groups if members]
    slower = sorted((row for row in rows if _ratio(row) < 1), key=_ratio)
    about = f"Is the solver ever slower than the plain loop? {(__doc__ or '').split(chr(10) * 2)[2]}"
    return f"""# {TITLE}

{textwrap.fill(" ".join(about.split()), 120)}

{markdown_table([*header, "median"], cells)}

## Where the loop is faster

{_listed(slower) if slower else "Nowhere."}

{describe_machine(rows)} By `python benchmarks/plain_scaling.py`.
"""


def _figures(rows: Sequence[dict[str, Any]]) -> list[str]:
    ratios = np.array([_ratio(row) for row in rows])
    stopped = sum(row["loop_error"] is None or row["loop_error"] > TOL for row in rows)
    return [str(stopped), *(f"{value:.2f}" for value in (ratios.min(), np.percentile(ratios, 5), np.median(ratios)))]


def _ratio(row: dict[str, Any]) -> float:
    return float(row["loop_s"] / row["solver_s"])


def _listed(rows: Sequence[dict[str, Any]]) -> str:
    cells = [[row["name"], *(f"{1e3 * row[way]:.0f}" for way in ("solver_s", "loop_s"))] for row in rows]
    return markdown_table(["table", "solver, ms", "loop, ms"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, nargs="+", default=range(NUM_TABLES), help="their numbers")
    parser.add_argument("--trial", action="store_true", help="print, and keep nothing")
    parser.add_argument("--page", action="store_true", help="write the page from the results, and do nothing else")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = load_runs(NAME) if args.page else []
    if not args.page:
        compile_first("cpu")
    for number in [] if args.page else args.tables:
        drawn = draw(number)
        if drawn.scores.numel() < LEAST_SCORES:
            continue
        rows.append({"table": number, **race(drawn)})
        shown = {key: value for key, value in rows[-1].items() if key != "environment"}
        print(json.dumps(shown), file=sys.stderr, flush=True)
    if not args.page and not args.trial:
        save_runs(NAME, TITLE, rows)
    show_page(NAME, page(rows), args.trial)


if __name__ == "__main__":
    main()
