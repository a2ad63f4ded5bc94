"""The table that cluster_eval prints and the JSON it writes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from selavi.atomic import write_text
from selavi.errors import UsageError
from selavi.runs.folder import RunFolder
from selavi.scores.baselines import kmeans_nmi
from selavi.scores.consensus import agreement_over_k, co_occurrence_profiles, consensus, merge_tree
from selavi.scores.contingency import contingency_matrix
from selavi.scores.head_choice import HeadChoice, choose_head, describe_agreement
from selavi.scores.metrics import (
    bootstrap_intervals,
    describe_clusters,
    evaluate_clusters,
    score_contingency,
)

REASONS = {
    "agreement": "by agreement with the other heads (mean NMI)",
    "modalities": "by what both modalities' probabilities share",
    "probe": "by how well a linear classifier on the features finds its clusters (kappa)",
}
COLUMNS = ("nmi", "ami", "ari", "accuracy", "purity", "mean_purity", "mean_entropy", "used_clusters")
WITH_INTERVALS = ("nmi", "ari", "accuracy", "purity")
LEVEL, NUM_RESAMPLES = 0.95, 200
AT_CHANCE = 1.5
"""Times the chance agreement below which modalities share nothing that could be told from chance."""


def evaluate_heads(
    split: str,
    clusters: np.ndarray,
    labels: list[str | None],
    choice: HeadChoice,
    num_clusters: int,
    alone: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Score every head.

    Args:
        split: name of the clips scored.
        clusters: (N, H) cluster of each clip under each head.
        labels: human label of each clip; None where there is none, and such clips are left out of the scores.
        choice: of a head on the training clips; no human label takes part in it.
        num_clusters: K.
        alone: (N, H) what a modality says alone, -1 for a clip that lacks it.

    Returns:
        split, heads (one entry each), chosen, shared (see shared_by_modalities; of the chosen head), and where there
        are labels alone (the chosen head by modality, over the clips that have it), consensus (one clustering that all
        heads agree on), oracle (the head with the highest NMI, which nobody could pick without labels) and intervals
        of the chosen head's scores over resampled clips (low, high, bias by score; level).
    """
    is_labelled = np.array([label is not None for label in labels])
    num_heads = clusters.shape[1]
    heads: list[dict[str, Any]]
    if is_labelled.any():
        named = [label for label in labels if label is not None]
        tables = [contingency_matrix(named, clusters[is_labelled, head], num_clusters) for head in range(num_heads)]
        heads = [score_contingency(table) for table in tables]
    else:
        heads = [describe_clusters(clusters[:, head], num_clusters) for head in range(num_heads)]
    for criterion, scores in choice.scores.items():
        for entry, score in zip(heads, scores.tolist(), strict=True):
            entry[criterion] = None if np.isnan(score) else score
    result: dict[str, Any] = {
        "split": split,
        "labelled": bool(is_labelled.any()),
        "unlabelled_clips": int((~is_labelled).sum()),
        "heads": heads,
        "chosen_by": choice.criterion,
        "chosen": {"head": choice.head, **heads[choice.head]},
        "chance_agreement": None if np.isnan(choice.chance) else choice.chance,
        "shared": shared_by_modalities(
            {name: values[:, choice.head] for name, values in alone.items()}, clusters[:, choice.head]
        ),
    }
    if is_labelled.any():
        result["alone"] = {}
        for name, clusters_alone in alone.items():
            column = clusters_alone[is_labelled, choice.head]
            judged = column >= 0
            if judged.any():
                of_judged = [label for label, is_judged in zip(named, judged.tolist(), strict=True) if is_judged]
                result["alone"][name] = evaluate_clusters(of_judged, column[judged], num_clusters)
        if num_heads > 1:
            agreed = consensus(clusters, num_clusters).clusters[is_labelled]
            result["consensus"] = evaluate_clusters(named, agreed, num_clusters)
        best = max(range(num_heads), key=lambda head: heads[head]["nmi"])
        result["oracle"] = {"head": best, **heads[best]}
        intervals = bootstrap_intervals(tables[choice.head], num_resamples=NUM_RESAMPLES, level=LEVEL)
        result["intervals"] = {name: asdict(interval) for name, interval in intervals.items()} | {"level": LEVEL}
    return result


def shared_by_modalities(alone: Mapping[str, np.ndarray], clusters: np.ndarray) -> dict[str, Any] | None:
    """How far modalities agree on clips, each by itself, and how far the clusters of all together follow each.

    Args:
        alone: (N,) the cluster that a modality says alone, -1 for a clip that lacks it.
        clusters: (N,) what they say together.

    Returns:
        agreement (NMI), chance (that of independent clusters of these sizes), each the mean over the pairs of
        modalities, and clips (that the pair with the fewest has in common); follows: by modality, agreement and chance
        of the clusters with its own.  None without two modalities that have clips in common.
    """
    pairs = [_agreement_of(one, other) for one, other in combinations(alone.values(), 2)]
    compared = [pair for pair in pairs if pair is not None]
    if not compared:
        return None
    follows = {name: _agreement_of(own, clusters) for name, own in alone.items()}
    return {
        "agreement": float(np.mean([pair["agreement"] for pair in compared])),
        "chance": float(np.mean([pair["chance"] for pair in compared])),
        "clips": min(pair["clips"] for pair in compared),
        "follows": {
            name: {figure: pair[figure] for figure in ("agreement", "chance")}
            for name, pair in follows.items()
            if pair is not None
        },
    }


def _agreement_of(one: np.ndarray, other: np.ndarray) -> dict[str, Any] | None:
    """NMI, chance and number of the clips that two clusterings (N,) both have; None where there are none."""
    both = (one >= 0) & (other >= 0)
    if not both.any():
        return None
    choice = choose_head(np.stack([one[both], other[both]], 1))
    agreement = float(choice.scores["agreement"][0])
    return {"agreement": agreement, "chance": choice.chance, "clips": int(both.sum())}


def coarser(
    clusters: np.ndarray, labels: list[str | None], head: int, num_clusters: int, num_groups: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """Merge clusters to fewer, for several k: how well the heads then agree, without labels, and what labels say.

    Args:
        clusters: (N, H), two heads or more.
        labels: human label of each clip or None.
        head: whose clusters are merged.
        num_clusters: K.
        num_groups: the k, each in [1, K].
        seed: of the halves that agreement_over_k draws.

    Returns:
        For each k: num_groups, agreement (nmi, ami and ari between the merged heads), size_entropy, groups (the group
        of each of the head's clusters), and where there are labels the scores of the merged head.

    Raises:
        UsageError: one head, or a k outside [1, K].
    """
    if clusters.shape[1] < 2:
        raise UsageError("clusters are merged by what other heads make of them, and the run has one head")
    outside = [k for k in num_groups if not 1 <= k <= num_clusters]
    if outside:
        raise UsageError(
            f"the run has {num_clusters} clusters: they can be merged to 1 to so many, not to {outside[0]}"
        )
    tree = merge_tree(co_occurrence_profiles(clusters, head, num_clusters))
    is_labelled = np.array([label is not None for label in labels])
    named = [label for label in labels if label is not None]
    entries = []
    for coarse in agreement_over_k(clusters, num_clusters, num_groups, seed=seed):
        groups = tree.cut(coarse.num_groups)
        entry = asdict(coarse) | {"groups": groups.tolist()}
        if is_labelled.any():
            entry["scores"] = evaluate_clusters(named, groups[clusters[is_labelled, head]], coarse.num_groups)
        entries.append(entry)
    return entries


def yardsticks(
    features: dict[str, np.ndarray], labels: list[str | None], num_clusters: int, seed: int
) -> dict[str, float]:
    """NMI of K-means on each of some crude features, with as many clusters as the run has."""
    is_labelled = np.array([label is not None for label in labels])
    named = [label for label in labels if label is not None]
    return {
        name: kmeans_nmi(values[is_labelled], named, min(num_clusters, len(named)), seed)
        for name, values in features.items()
    }


def write_metrics(result: dict[str, Any], run_dir: Path) -> Path:
    """Write RUN/eval/metrics_SPLIT.json."""
    path = RunFolder(run_dir).figures(result["split"])
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
        *((f"  {name} alone", entry) for name, entry in result["alone"].items()),
        *((name, result[name]) for name in ("consensus",) if name in result),
        (f"oracle (head {result['oracle']['head']})", result["oracle"]),
    ]
    lines = [
        f"{result['chosen']['n']} clips of split {result['split']}",
        f"{'':18}" + _header(),
    ]
    for name, entry in rows:
        lines.append(f"{name:18}" + _figures(entry))
    lines += _format_intervals(result)
    lines.append(f"chosen: without labels, {reason_of_choice(result)}")
    lines.append("consensus: what all heads agree on, without labels")
    lines.append("oracle: the best NMI, known only with labels")
    lines += _format_agreement(result) + _format_shared(result) + _format_coarser(result) + _format_yardsticks(result)
    return "\n".join(lines + _format_undecodable(result) + _format_verdict(result))


def reason_of_choice(result: dict[str, Any]) -> str:
    """Why the chosen head was chosen, with the scores of all."""
    criterion = result["chosen_by"]
    scores = [entry[criterion] for entry in result["heads"]]
    shown = " ".join("-" if score is None else f"{score:.3f}" for score in scores)
    return REASONS[criterion] + (f": {shown} by head" if len(scores) > 1 else "")


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


def _format_coarser(result: dict[str, Any]) -> list[str]:
    lines = []
    for entry in result.get("coarser", []):
        agreement, scores = entry["agreement"], entry.get("scores")
        scored = f"; nmi {scores['nmi']:.3f}, accuracy {scores['accuracy']:.3f}" if scores else ""
        lines.append(
            f"merged to {entry['num_groups']:5}: heads agree by ami {agreement['ami']:.3f}, sizes' entropy "
            f"{entry['size_entropy']:.3f}{scored}"
        )
    return lines


def _format_agreement(result: dict[str, Any]) -> list[str]:
    agreement, chance = result["chosen"].get("agreement"), result.get("chance_agreement")
    if agreement is None or chance is None:
        return []
    head = result["chosen"]["head"]
    return [f"head {head} agrees {agreement:.3f} with the others: {describe_agreement(agreement, chance)}"]


def _format_shared(result: dict[str, Any]) -> list[str]:
    """Whether the modalities tell the same, each by itself."""
    shared = result.get("shared")
    if shared is None:
        return []
    agreement, chance = shared["agreement"], shared["chance"]
    text = f"modalities alone agree {agreement:.3f} (NMI over {shared['clips']} clips; chance {chance:.3f})"
    if agreement < AT_CHANCE * chance:
        text += f": no more than by chance; {_whom_labels_follow(shared['follows'])}"
    return [text]


def _whom_labels_follow(follows: Mapping[str, Mapping[str, float]]) -> str:
    """What the labels are where the modalities alone agree by chance."""
    leaders = [name for name, pair in follows.items() if pair["agreement"] >= AT_CHANCE * pair["chance"]]
    if not leaders:
        return "nothing is shared, and the labels follow none of them"
    figures = " and ".join(f"{name} (NMI {follows[name]['agreement']:.3f})" for name in leaders)
    if len(leaders) == 1:
        return f"nothing is shared, so the labels are what one of them tells, {figures}"
    return (
        f"but the labels follow {figures}, so each tells something that the others do not: parts of one set of "
        "classes, which is good, or classes of its own, which is not; what the gallery shows, or labels, can tell"
    )


def _format_verdict(result: dict[str, Any]) -> list[str]:
    """What the end of the training said of the labels; nothing of runs that did not keep it."""
    return [f"training: {result['verdict']}"] if result.get("verdict") else []


def _format_undecodable(result: dict[str, Any]) -> list[str]:
    undecodable = result.get("undecodable", {})
    if not undecodable:
        return []
    path, reason = next(iter(undecodable.items()))
    return [f"{len(undecodable)} clips could not be decoded and are left out, such as {path} ({reason})"]


def _format_intervals(result: dict[str, Any]) -> list[str]:
    intervals = result["intervals"]
    ends = ", ".join(f"{name} {intervals[name]['low']:.3f} to {intervals[name]['high']:.3f}" for name in WITH_INTERVALS)
    return [f"{intervals['level']:.0%} interval, chosen head: {ends}"]


def _header() -> str:
    return "".join(f"{name:>{_width(name)}}" for name in COLUMNS)


def _figures(entry: dict[str, Any]) -> str:
    return "".join(f"{_figure(name, entry[name]):>{_width(name)}}" for name in COLUMNS)


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
            f"{f'head {number}':18}"
            + "".join(f"{_figure(name, entry[name]):>14}" for name in columns)
            + f"{agreement:>14}"
        )
    lines.append(f"chosen: head {result['chosen']['head']}, {reason_of_choice(result)}")
    lines += _format_agreement(result) + _format_shared(result) + _format_coarser(result)
    return "\n".join(lines + _format_undecodable(result) + _format_verdict(result))


def _figure(name: str, value: float) -> str:
    """Counts as whole numbers, means and medians of them with what follows the point; all else with three digits."""
    is_count = name in ("used_clusters", "size_min", "size_median", "size_max")
    return f"{round(value, 1):g}" if is_count else f"{value:.3f}"
