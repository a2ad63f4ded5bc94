"""The table that cluster_eval prints and the JSON it writes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from selavi.atomic import write_text
from selavi.evaluation.baselines import kmeans_nmi
from selavi.evaluation.head_choice import choose_head
from selavi.evaluation.metrics import bootstrap_intervals, contingency_matrix, describe_clusters, score_contingency

COLUMNS = ("nmi", "ami", "ari", "accuracy", "purity", "mean_purity", "mean_entropy", "used_clusters")
WITH_INTERVALS = ("nmi", "ari", "accuracy", "purity")
LEVEL, NUM_RESAMPLES = 0.95, 200


def evaluate_heads(
    split: str,
    clusters: np.ndarray,
    labels: list[str | None],
    train_assignments: np.ndarray,
    num_clusters: int,
) -> dict[str, Any]:
    """Score every head.

    Args:
        split: name of the clips scored.
        clusters: (N, H) cluster of each clip under each head.
        labels: human label of each clip; None where there is none, and such clips are left out of the scores.
        train_assignments: (M, H) labels of the training clips; the chosen head is the one whose labels agree
            most with the other heads', so no human label takes part in the choice.
        num_clusters: K.

    Returns:
        split, heads (one entry each), chosen, and where there are labels oracle: the head with the highest
        NMI, which nobody could pick without labels; and intervals of the chosen head's scores over resampled clips
        (low, high, bias by score; level).
    """
    known = np.array([label is not None for label in labels])
    num_heads = clusters.shape[1]
    chosen = choose_head(train_assignments)
    heads: list[dict[str, Any]]
    if known.any():
        named = [label for label in labels if label is not None]
        tables = [contingency_matrix(named, clusters[known, head], num_clusters) for head in range(num_heads)]
        heads = [score_contingency(table) for table in tables]
    else:
        heads = [describe_clusters(clusters[:, head], num_clusters) for head in range(num_heads)]
    for entry, agreement in zip(heads, chosen.agreement.tolist(), strict=True):
        entry["agreement"] = None if np.isnan(agreement) else agreement
    result: dict[str, Any] = {
        "split": split,
        "labelled": bool(known.any()),
        "unlabelled_clips": int((~known).sum()),
        "heads": heads,
        "chosen": {"head": chosen.head, **heads[chosen.head]},
    }
    if known.any():
        best = max(range(num_heads), key=lambda head: heads[head]["nmi"])
        result["oracle"] = {"head": best, **heads[best]}
        intervals = bootstrap_intervals(tables[chosen.head], num_resamples=NUM_RESAMPLES, level=LEVEL)
        result["intervals"] = {name: asdict(interval) for name, interval in intervals.items()} | {"level": LEVEL}
    return result


def yardsticks(
    features: dict[str, np.ndarray], labels: list[str | None], num_clusters: int, seed: int
) -> dict[str, float]:
    """NMI of K-means on each of some crude features, with as many clusters as the run has."""
    known = np.array([label is not None for label in labels])
    named = [label for label in labels if label is not None]
    return {
        name: kmeans_nmi(values[known], named, min(num_clusters, len(named)), seed) for name, values in features.items()
    }


def write_metrics(result: dict[str, Any], run_dir: Path) -> Path:
    """Write RUN/eval/metrics_SPLIT.json."""
    path = run_dir / "eval" / f"metrics_{result['split']}.json"
    write_text(path, json.dumps(result, indent=2) + "\n")
    return path


def format_table(result: dict[str, Any]) -> str:
    """A table to read: a line a head, then the mean, the chosen head and the oracle."""
    if not result["labelled"]:
        return _format_unlabelled(result)
    heads = result["heads"]
    rows = [(f"head {number}", entry) for number, entry in enumerate(heads)]
    mean = {name: float(np.mean([entry[name] for entry in heads])) for name in COLUMNS}
    rows += [
        ("mean", mean),
        (f"chosen (head {result['chosen']['head']})", result["chosen"]),
        (f"oracle (head {result['oracle']['head']})", result["oracle"]),
    ]
    lines = [
        f"{result['chosen']['n']} clips of split {result['split']}",
        f"{'':18}" + _header(),
    ]
    for name, entry in rows:
        lines.append(f"{name:18}" + _figures(entry))
    lines += _format_intervals(result)
    lines.append(
        "chosen: without labels, by agreement with the other heads; oracle: the best NMI, known only with labels"
    )
    return "\n".join(lines + _format_yardsticks(result) + _format_undecodable(result))


def format_comparison(results: dict[str, dict[str, Any]]) -> str:
    """Runs side by side: the chosen head of each, and the yardsticks of the first."""
    first = next(iter(results.values()))
    if not all(result["labelled"] for result in results.values()):
        return "\n\n".join(f"{run}\n{format_table(result)}" for run, result in results.items())
    width = max(map(len, results)) + 2
    lines = [f"chosen heads on split {first['split']}", " " * width + _header()]
    for run, result in results.items():
        lines.append(f"{run:{width}}" + _figures(result["chosen"]))
    return "\n".join(lines + _format_yardsticks(first))


def _format_yardsticks(result: dict[str, Any]) -> list[str]:
    if "yardsticks" not in result:
        return []
    figures = ", ".join(f"{name} {nmi:.3f}" for name, nmi in result["yardsticks"].items())
    return [f"nmi of K-means on crude features: {figures}"]


def _format_undecodable(result: dict[str, Any]) -> list[str]:
    undecodable = result.get("undecodable", {})
    if not undecodable:
        return []
    path, reason = next(iter(undecodable.items()))
    return [f"{len(undecodable)} clips could not be decoded and are left out, such as {path} ({reason})"]


def _format_intervals(result: dict[str, Any]) -> list[str]:
    found = result["intervals"]
    ends = ", ".join(f"{name} {found[name]['low']:.3f} to {found[name]['high']:.3f}" for name in WITH_INTERVALS)
    return [f"{found['level']:.0%} interval, chosen head: {ends}"]


def _header() -> str:
    return "".join(f"{name:>{_width(name)}}" for name in COLUMNS)


def _figures(entry: dict[str, Any]) -> str:
    return "".join(f"{entry[name]:{_width(name)}.{1 if name == 'used_clusters' else 3}f}" for name in COLUMNS)


def _width(name: str) -> int:
    return max(8, len(name) + 2)


def _format_unlabelled(result: dict[str, Any]) -> str:
    columns = ("used_clusters", "size_min", "size_median", "size_max", "size_entropy")
    lines = [
        f"{result['chosen']['n']} clips of split {result['split']}; none has a label, so no NMI, ARI or accuracy",
        f"{'':18}" + "".join(f"{name:>14}" for name in columns) + f"{'agreement':>14}",
    ]
    for number, entry in enumerate(result["heads"]):
        agreement = "-" if entry["agreement"] is None else f"{entry['agreement']:.3f}"
        lines.append(
            f"{f'head {number}':18}" + "".join(f"{entry[name]:14.3f}" for name in columns) + f"{agreement:>14}"
        )
    lines.append(f"chosen: head {result['chosen']['head']}, which agrees most with the other heads (mean NMI)")
    return "\n".join(lines + _format_undecodable(result))
