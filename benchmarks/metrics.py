"""Speed of the metrics: a million clips, odd shapes, someone else's clusters, intervals, the consensus.

python benchmarks/metrics.py          measure, write benchmarks/results/metrics.json and docs/results/metrics.md
python benchmarks/metrics.py --page   only write the page again

One process on one core.  The comparison with scikit-learn runs in interleaved rounds, of which medians are reported.
Labels and clusters are drawn: a clip is in the cluster of its label with probability 1/2, else in any.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy
import sklearn
from common import PAGES, RESULTS, ROOT, machine, markdown_table
from scipy.optimize import linear_sum_assignment
from sklearn import metrics as sklearn_metrics
from sklearn.metrics.cluster import contingency_matrix as sklearn_contingency

from selavi.scores.consensus import consensus
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import (
    adjusted_mutual_information,
    bootstrap_intervals,
    evaluate_clusters,
    matched_accuracy,
    score_contingency,
)

NUM_CLIPS, NUM_CLUSTERS, FILE_ROWS = 1_000_000, 400, 200_000


def draw(num_clips: int, num_clusters: int, agreeing: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 labels and clusters."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_clusters, num_clips)
    noise = rng.integers(0, num_clusters, num_clips)
    return labels, np.where(rng.random(num_clips) < agreeing, labels, noise)


def timed(action: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds and the result."""
    began = time.perf_counter()
    result = action(*arguments)
    return time.perf_counter() - began, result


def measure_million(num_rounds: int) -> dict[str, Any]:
    """All metrics in one call against scikit-learn and SciPy one after another."""
    labels, clusters = draw(NUM_CLIPS, NUM_CLUSTERS)
    contingency = contingency_matrix(labels, clusters)

    def matched_by_scipy() -> float:
        table = sklearn_contingency(labels, clusters)
        rows, columns = linear_sum_assignment(table, maximize=True)
        return table[rows, columns].sum() / labels.size

    ways: dict[str, Callable[[], Any]] = {
        "selavi, all but AMI": lambda: evaluate_clusters(labels, clusters, NUM_CLUSTERS, ami=False),
        "scikit-learn NMI": lambda: sklearn_metrics.normalized_mutual_info_score(labels, clusters),
        "scikit-learn ARI": lambda: sklearn_metrics.adjusted_rand_score(labels, clusters),
        "contingency_matrix + linear_sum_assignment": matched_by_scipy,
        "selavi AMI": lambda: adjusted_mutual_information(contingency),
    }
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for _ in range(num_rounds + 1):  # the first warms up
        for name, way in ways.items():
            seconds, found[name] = timed(way)
            rounds[name].append(seconds)
    seconds = {name: median(times[1:]) for name, times in rounds.items()}
    seconds["scikit-learn AMI"], ami = timed(lambda: sklearn_metrics.adjusted_mutual_info_score(labels, clusters))
    ours = found["selavi, all but AMI"]
    peers = ("scikit-learn NMI", "scikit-learn ARI", "contingency_matrix + linear_sum_assignment")
    interval_s, _ = timed(lambda: bootstrap_intervals(contingency))
    return {
        "seconds": seconds,
        "times": sum(seconds[name] for name in peers) / seconds["selavi, all but AMI"],
        "times_ami": seconds["scikit-learn AMI"] / seconds["selavi AMI"],
        "largest_difference": max(
            *(abs(ours[key] - found[peer]) for key, peer in zip(("nmi", "ari", "accuracy"), peers, strict=True)),
            abs(found["selavi AMI"] - ami),
        ),
        "cells": contingency.counts.size,
        "intervals_s": interval_s,
    }


def measure_shapes() -> list[dict[str, Any]]:
    """One call each on the shapes that break or stall other code."""
    labels, clusters = draw(NUM_CLIPS, NUM_CLUSTERS)
    many, some = draw(NUM_CLIPS, 10_000)
    most, others = draw(NUM_CLIPS, 100_000)
    singletons = np.arange(NUM_CLIPS)
    cases = {
        "2 labels, 2 clusters": (labels % 2, clusters % 2),
        "400 labels, one cluster": (labels, np.zeros_like(clusters)),
        "400 labels, every clip a cluster": (labels, singletons),
        "every clip a label and a cluster": (singletons, singletons[::-1]),
        "400 and 400, labels are strings": (np.array([f"label {label}" for label in labels]), clusters),
        "10,000 and 10,000": (many, some),
        "100,000 and 100,000": (most, others),
        "5,000 and 5,000, independent": (many % 5000, np.random.default_rng(1).integers(0, 5000, NUM_CLIPS)),
    }
    found = []
    for name, (first, second) in cases.items():
        count_s, contingency = timed(contingency_matrix, first, second)
        match_s, _ = timed(matched_accuracy, contingency)
        scores_s, _ = timed(partial(score_contingency, ami=False), contingency)
        ami_s, _ = timed(adjusted_mutual_information, contingency)
        found.append(
            {
                "name": name,
                "cells": contingency.counts.size,
                "count_s": count_s,
                "scores_s": scores_s,
                "match_s": match_s,
                "ami_s": ami_s,
            }
        )
    return found


def measure_files() -> dict[str, Any]:
    """tools/cluster_eval.py on two CSV files in different orders, start of Python and intervals included."""
    labels, clusters = draw(FILE_ROWS, NUM_CLUSTERS)
    order = np.random.default_rng(2).permutation(FILE_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "clusters.csv"), Path(folder, "labels.csv")
        names = [f"train/class {label}/clip_{number:06d}.mp4" for number, label in enumerate(labels.tolist())]
        paths[0].write_text("id,cluster\n" + "".join(f"{n},{c}\n" for n, c in zip(names, clusters, strict=True)))
        paths[1].write_text("id,label\n" + "".join(f"{names[i]},class {labels[i]}\n" for i in order))
        command = [sys.executable, "tools/cluster_eval.py", "--clusters", str(paths[0]), "--labels", str(paths[1])]
        seconds, done = timed(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True))
    return {"rows": FILE_ROWS, "seconds": seconds, "figures": len(done.stdout.splitlines())}


def measure_consensus() -> dict[str, Any]:
    """Ten heads, each wrong about half of the clips."""
    num_clips, num_clusters, num_heads = 170_752, 309, 10
    rng = np.random.default_rng(3)
    truth = rng.integers(0, num_clusters, num_clips)
    noisy = [
        np.where(rng.random(num_clips) < 0.5, truth, rng.integers(0, num_clusters, num_clips)) for _ in range(num_heads)
    ]
    heads = np.stack([rng.permutation(num_clusters)[head] for head in noisy], axis=1)
    seconds, found = timed(lambda: consensus(heads, num_clusters))

    def accuracy(clusters: np.ndarray) -> float:
        return matched_accuracy(contingency_matrix(truth, clusters))

    return {
        "num_clips": num_clips,
        "num_clusters": num_clusters,
        "num_heads": num_heads,
        "seconds": seconds,
        "rounds": found.rounds,
        "accuracy": accuracy(found.clusters),
        "best_head": max(accuracy(head) for head in heads.T),
    }


def page(results: dict[str, Any]) -> str:
    """docs/results/metrics.md."""
    found, million, files, agreed = (results[name] for name in ("machine", "million", "files", "consensus"))
    names = [*(name for name in million["seconds"] if not name.endswith("AMI")), "selavi, all but AMI"]
    rows = [[name, f"{1e3 * million['seconds'][name]:,.0f} ms"] for name in dict.fromkeys(reversed(names))]
    rows += [[name, f"{1e3 * million['seconds'][name]:,.0f} ms"] for name in ("selavi AMI", "scikit-learn AMI")]
    shapes = [
        [
            shape["name"],
            f"{shape['cells']:,}",
            *(f"{1e3 * shape[part]:,.0f}" for part in ("count_s", "scores_s", "ami_s")),
        ]
        for shape in results["shapes"]
    ]
    return f"""# Metrics: measured

Written by `{results["command"]}` from benchmarks/results/metrics.json. {found["processor"]}, one core, load
{found["load"]:.1f}; NumPy {found["numpy"]}, SciPy {found["scipy"]}, scikit-learn {found["sklearn"]}; {results["date"]}.
Labels and clusters are drawn; a clip is in the cluster of its label with probability 1/2, else in any.

## A million clips, {NUM_CLUSTERS} labels, {NUM_CLUSTERS} clusters, int64

Medians of {results["rounds"]} interleaved rounds (scikit-learn's AMI: one).

{markdown_table(["", "time"], rows)}

One call for all metrics but AMI is {million["times"]:.0f} times as fast as scikit-learn's NMI and ARI and SciPy's
assignment one after another, AMI {million["times_ami"]:.0f} times. The largest difference between any two figures is
{million["largest_difference"]:.0e}. 200 resamples for the intervals take {million["intervals_s"]:.1f} s
({million["cells"]:,} cells).

## Other shapes of a million clips

Milliseconds for counting the cells, for all scores but AMI (matching included), and for AMI.

{markdown_table(["labels and clusters", "cells", "count", "scores", "AMI"], shapes)}

## Someone else's clusters

`tools/cluster_eval.py --clusters FILE --labels FILE` on two CSV files of {files["rows"]:,} rows in different orders:
{files["seconds"]:.1f} s from the command line to the table, AMI and intervals included.

## Consensus

{agreed["num_heads"]} heads of {agreed["num_clusters"]} clusters over {agreed["num_clips"]:,} clips, each head wrong
about half of them independently: {agreed["seconds"]:.1f} s, {agreed["rounds"]} rounds. The best head agrees with the
hidden groups on {agreed["best_head"]:.3f} of the clips, the consensus on {agreed["accuracy"]:.3f}. Drawn heads err
independently, trained ones do not: expect less.
"""


def main() -> None:
    """Measure and write both files, or only the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    args = parser.parse_args()
    path = RESULTS / "metrics.json"
    if not args.page:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        load = os.getloadavg()[0]
        versions = {"numpy": np.__version__, "scipy": scipy.__version__, "sklearn": sklearn.__version__}
        results = {
            "command": "python benchmarks/metrics.py",
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine() | versions | {"load": load},
            "rounds": args.rounds,
            "million": measure_million(args.rounds),
            "shapes": measure_shapes(),
            "files": measure_files(),
            "consensus": measure_consensus(),
        }
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (PAGES / "metrics.md").write_text(page(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
