"""Score tables of many kinds, labelled from a cold start: how many reads of all rows that takes, and where it fails.

    python benchmarks/many_tables.py                        tables 0 to 199; those that are there are not solved again
    python benchmarks/many_tables.py --tables 40 41 --trial a few, printed and not kept
    python benchmarks/many_tables.py --time                 what each clip's likeliest clusters save of the time
    python benchmarks/many_tables.py --page                 write docs/results/many_tables.md again

A table is a pure function of its number: its kind, its size, its spread, its precision and the sizes of its clusters
(benchmarks/score_tables.py).  Passes do not depend on the machine.  Of the time there are ratios alone, of two searches
that take turns, for other work runs beside.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import (
    PAGES,
    RESULTS,
    describe_machine,
    load_runs,
    markdown_table,
    measured_here,
    processor_seconds,
    save_runs,
)
from score_tables import KINDS, MARGINALS, draw

from selavi.labelling.solver import search
from selavi.labelling.solver.transport import assign
from selavi.labelling.solver.tuning import TUNING, Tuning

STORE = RESULTS / "many_tables.json"
NUM_TABLES = 200
MOST_PASSES = 200
GOAL = 20
"""Passes that are thought few."""
TIMES, ROUNDS = "many_tables_time", 3
ALL_ROWS = dataclasses.replace(TUNING, candidate_reads=sys.maxsize, candidate_patience=sys.maxsize)
"""Of a search that takes no candidates."""


def solve(number: int) -> dict[str, Any]:
    """Label a table with the default tolerance."""
    drawn = draw(number)
    found = assign(drawn.scores, drawn.marginal, max_passes=MOST_PASSES)
    return {
        "name": drawn.name,
        "kind": drawn.kind,
        "sizes": drawn.sizes,
        "passes": found.num_passes,
        "inner": round(found.inner_passes, 2),
        "converged": found.converged,
        "error": found.marginal_error,
    }


def time_of(number: int) -> dict[str, Any]:
    """Processor time of the search for a table's labels, with each clip's likeliest clusters and without."""
    drawn = draw(number)

    def label(tuning: Tuning) -> None:
        with mock.patch.object(search, "TUNING", tuning):
            assign(drawn.scores, drawn.marginal, max_passes=MOST_PASSES)

    ways = {"candidates": partial(label, TUNING), "all_rows": partial(label, ALL_ROWS)}
    return {"environment": measured_here(), "name": drawn.name, **processor_seconds(ways, ROUNDS)}


def stored() -> dict[str, dict[str, Any]]:
    """Number of a table -> what came of it."""
    return dict(json.loads(STORE.read_text(encoding="utf-8"))) if STORE.exists() else {}


def timed() -> list[dict[str, Any]]:
    """A row for each table whose search was timed."""
    return load_runs(TIMES) if (RESULTS / f"{TIMES}.json").exists() else []


def page(results: Mapping[str, Mapping[str, Any]], times: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/many_tables.md."""
    rows = [results[number] for number in sorted(results, key=int)]
    hard = [row for row in rows if row["passes"] > GOAL or not row["converged"]]
    header = ["tables", "number", "median", "95th percentile", "most", f"over {GOAL}", "not converged", "inner work"]
    groups = [("all", rows)]
    groups += [(f"kind {kind}", [row for row in rows if row["kind"] == kind]) for kind in KINDS]
    groups += [(f"sizes {sizes}", [row for row in rows if row["sizes"] == sizes]) for sizes in MARGINALS]
    kinds = "\n".join(f"- **{name}**: {_said(made)}" for name, made in (KINDS | MARGINALS).items())
    return f"""# Score tables of many kinds

Reads of all rows until the L1 error of the cluster masses is at most 1e-6, from a cold start, at the default sharpness
of 20; at most {MOST_PASSES}. By `python benchmarks/many_tables.py`. 1,000 to 1,000,000 clips, 10 to 3,000 clusters,
logits of a deviation of 0.02 to 5, a fifth of the tables in half precision.

{markdown_table(header, [_row(name, members) for name, members in groups if members])}

{kinds}

Inner work is what of the passes were reads of each clip's likeliest clusters alone, counted by their share of the
scores: the mean, and the most.

## Those above {GOAL}

{markdown_table(["table", "passes", "error"], [_hard(row) for row in hard]) if hard else "None."}
{_times(times)}"""


def _times(times: Sequence[Mapping[str, Any]]) -> str:
    """A section, or nothing where none were measured."""
    if not times:
        return ""
    ratios = {row["name"]: row["candidates"] / row["all_rows"] for row in times}
    whole = sum(row["candidates"] for row in times) / sum(row["all_rows"] for row in times)
    longest, shortest = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
    header = ["time with each clip's likeliest clusters, of that without", "ratio"]
    slower = sum(ratio > 1 for ratio in ratios.values())
    rows = [
        [f"{len(times)} tables together, {slower} of them slower", f"{whole:.2f}"],
        ["median table", f"{np.median(list(ratios.values())):.2f}"],
        [f"least: {shortest}", f"{ratios[shortest]:.2f}"],
        [f"most: {longest}", f"{ratios[longest]:.2f}"],
    ]
    return f"""
## Time

Processor time of one thread, compilation left out, median of {ROUNDS} rounds in which the two searches take turns: on
those of every third table that take such reads. By `python benchmarks/many_tables.py --time`. Time is saved where reads
of all rows would be many; where they would be few, a search with fewer of them takes longer.

{markdown_table(header, rows)}

{describe_machine(times)}
"""


def _said(made: Any) -> str:
    text = (made.__doc__ or "").strip()
    return text[0].lower() + text[1:]


def _row(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    passes = np.array([row["passes"] for row in rows])
    failed = sum(not row["converged"] for row in rows)
    figures = [np.median(passes), np.percentile(passes, 95), passes.max(), (passes > GOAL).sum(), failed]
    inner = f"{np.mean([row['inner'] for row in rows]):.1f}, at most {max(row['inner'] for row in rows):.1f}"
    return [name, str(len(rows)), *(f"{figure:.0f}" for figure in figures), inner]


def _hard(row: Mapping[str, Any]) -> list[str]:
    return [row["name"], f"{row['passes']}" if row["converged"] else f"{row['passes']}, stopped", f"{row['error']:.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, nargs="+", default=range(NUM_TABLES), help="their numbers")
    parser.add_argument("--again", action="store_true", help="solve those again that are there")
    parser.add_argument("--trial", action="store_true", help="print, and keep nothing")
    parser.add_argument("--time", action="store_true", help="time every third table, and solve no others")
    parser.add_argument("--page", action="store_true", help="write the page from the results, and do nothing else")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = stored()
    if args.time:
        numbers = [number for number in range(0, NUM_TABLES, 3) if results[str(number)]["inner"]]
        save_runs(TIMES, "Time of the search on tables of many kinds", [time_of(number) for number in numbers])
    for number in [] if args.page or args.time else args.tables:
        if str(number) in results and not args.trial and not args.again:
            continue
        results[str(number)] = solve(number)
        print(results[str(number)], file=sys.stderr, flush=True)
        if not args.trial:
            STORE.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not args.trial:
        (PAGES / "many_tables.md").write_text(page(results, timed()), encoding="utf-8")


if __name__ == "__main__":
    main()
