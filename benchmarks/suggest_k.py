"""Is the number that `selavi evaluate --suggest-k` suggests the number of classes, also after training with another K?

    python benchmarks/suggest_k.py                trains the demo recipe with other K: two minutes each; results, page
    python benchmarks/suggest_k.py RUN [RUN ...]  besides, finished runs of any set whose test clips have labels

The suggestion is made on the test clips.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, Job, describe_machine, environment, markdown_table, publish, run_job

from datamodules.index.manifest import select_split, usable
from selavi.commands.evaluate import EvaluateArguments, evaluate
from selavi.commands.opening import open_run

SPLIT = "test"
DEMO = "the demo set"
TRAINED_WITH = (4, 6, 8, 12, 16, 24)
"""The classes of the demo set, 8, are between a third and three times of each."""


def jobs() -> list[Job]:
    """A training with each K."""
    return [
        Job("suggest_k", f"k{count}", f"K = {count}", 0, "configs/demo.yaml", (f"heads.num_clusters={count}",), ())
        for count in TRAINED_WITH
    ]


def measure(path: Path, of: str) -> dict[str, Any]:
    """What is suggested for a run, beside the number of its classes."""
    run = open_run(path)
    labels = usable(select_split(run.manifest, SPLIT))["label"]
    result = evaluate(EvaluateArguments([path], split=SPLIT, suggest_k=True))
    suggestion = result.runs[path]["suggested_k"]
    return {
        "row": path.name,
        "of": of,
        "classes": len(labels.drop_null().unique()),
        "clips": suggestion["clips"],
        "trained_with": suggestion["trained_with"],
        "suggested": suggestion["num_clusters"],
        "agreement": suggestion["agreement"],
        "as_good": suggestion["as_good"],
        "environment": environment(path),
    }


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/suggest_k.md."""
    table = [
        [
            row["of"],
            f"{row['classes']}",
            f"{row['clips']:,}",
            f"{row['trained_with']}",
            f"**{row['suggested']}**" if row["suggested"] == row["classes"] else f"{row['suggested']}",
            ", ".join(map(str, row["as_good"])),
            f"{row['agreement']:.2f}",
        ]
        for row in rows
    ]
    header = ["set", "classes", "test clips", "trained with K", "suggested", "as good", "halves agree"]
    right, there = (
        sum(test(row) for row in rows)
        for test in (lambda row: row["suggested"] == row["classes"], lambda row: row["classes"] in row["as_good"])
    )
    other = [row for row in rows if row["trained_with"] != row["classes"]]
    leaning = sum(row["suggested"] == row["trained_with"] for row in other)
    return f"""# A number of clusters to suggest

{(__doc__ or "").split(chr(10) * 2)[0]}

Features of runs, of the test clips ([metrics.md](../metrics.md#how-many-clusters)). *As good*: the K at which halves
of the clips agree as well as at the one suggested, as far as six halvings can tell.

{markdown_table(header, table)}

The number of classes is suggested in {right} of {len(rows)} runs, and is among those that are as good in {there}. Of
the {len(other)} runs that were trained with another K, that K is suggested in {leaning}.

{describe_machine(rows)} By `python benchmarks/suggest_k.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    args = parser.parse_args()
    rows = []
    for job in jobs():
        run_job(job, {})
        rows.append(measure(ROOT / job.run_dir(), DEMO))
    rows += [measure(path, path.name.rpartition("-")[0]) for path in args.runs]
    publish("suggest_k", "A number of clusters to suggest", rows, page(rows))


if __name__ == "__main__":
    main()
