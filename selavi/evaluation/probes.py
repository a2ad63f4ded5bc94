"""What a run's features are worth: nearest neighbours, a linear classifier and retrieval, with frozen encoders.

Axes: N clips, B clips of a batch, D features, C classes.
"""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selavi.atomic import write_text
from selavi.config import Config
from selavi.errors import UsageError
from selavi.inference.encode import ClipFeatures, combinations_of
from selavi.runs.folder import RunFolder
from selavi.scores.retrieval import RANKS, nearest, recall_at, vote

log = logging.getLogger("selavi")

NEIGHBOURS = (1, 5, 10, 20, 50)
"""Numbers of neighbours to choose from."""
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C, scikit-learn's inverse of the L2 penalty, to choose from."""


def check_request(split: str, train_split: str, num_views: int) -> None:
    """Raise UsageError where there is nothing to measure: clips beside themselves, or no view."""
    if split == train_split:
        raise UsageError(f"--split {split} is what the probes learn from; measure on another split")
    if num_views < 1:
        raise UsageError(f"--views must be at least 1, got {num_views}")


def probe_features(
    train: Tensor, train_classes: np.ndarray, held_out: np.ndarray, test: Tensor, test_classes: np.ndarray
) -> dict[str, Any]:
    """Measure features: learn from the training clips, score the test clips.

    The number of neighbours and the penalty of the linear classifier are those that do best on the held-out training
    clips when learned from the others; both then learn from all training clips.  Test clips choose nothing.

    Args:
        train: (N, D) features, on the device that compares them.
        train_classes: (N,) integers.
        held_out: (N,) bool, the training clips to choose on.
        test: (M, D) features.
        test_classes: (M,) integers; a class without a training clip counts as wrong.

    Returns:
        knn and linear (accuracies), knn_neighbours and linear_c (what was chosen), R@k for k in RANKS (queries: test
        clips; gallery: training clips; cosine), classes, train, held_out and test (how many there are).

    Raises:
        ValueError: no training clip is held out or none is left, or there is no test clip.
    """
    if not 0 < held_out.sum() < len(held_out) or not len(test):
        raise ValueError(
            f"expected held-out clips, others to learn from, and test clips; got {int(held_out.sum())} held out of "
            f"{len(held_out)}, and {len(test)} test clips"
        )
    num_classes = int(max(train_classes.max(), test_classes.max())) + 1
    kept = torch.from_numpy(~held_out)

    def by_neighbours(
        queries: Tensor, gallery: Tensor, classes: np.ndarray, numbers: tuple[int, ...]
    ) -> tuple[Tensor, dict[int, np.ndarray]]:
        rows, similarities = nearest(queries, gallery, min(max(numbers), len(gallery)))
        labels = torch.from_numpy(classes)[rows]
        votes = {k: vote(labels[:, :k], similarities[:, :k], num_classes).numpy() for k in numbers if k <= len(gallery)}
        return labels, votes

    inner = kept.to(train.device)
    _, votes = by_neighbours(train[~inner], train[inner], train_classes[~held_out], NEIGHBOURS)
    scores = {k: float((found == train_classes[held_out]).mean()) for k, found in votes.items()}
    neighbours = max(scores, key=lambda k: (scores[k], -k))
    labels, votes = by_neighbours(test, train, train_classes, (neighbours, *RANKS))
    linear, penalty = _linear_probe(train, train_classes, held_out, test, test_classes)
    return {
        "knn": float((votes[neighbours] == test_classes).mean()),
        "linear": linear,
        **recall_at(labels, torch.from_numpy(test_classes)),
        "knn_neighbours": neighbours,
        "linear_c": penalty,
        "classes": len(np.unique(np.concatenate([train_classes, test_classes]))),
        "train": len(train),
        "held_out": int(held_out.sum()),
        "test": len(test),
    }


def probe_clips(
    train: ClipFeatures,
    train_labels: list[str | None],
    held_out: np.ndarray,
    test: ClipFeatures,
    test_labels: list[str | None],
    device: torch.device,
) -> dict[str, dict[str, Any]]:
    """Measure each modality and, where there are two, both together; see probe_features.

    Clips without a label, and for one modality those without it, take no part.

    Args:
        train: N clips.
        train_labels: (N,) None where there is none.
        held_out: (N,) bool, the training clips to choose settings on.
        test: M clips.
        test_labels: (M,).
        device: where features are compared.
    """
    is_labelled = [np.array([label is not None for label in labels]) for labels in (train_labels, test_labels)]
    _, classes = np.unique([label or "" for label in (*train_labels, *test_labels)], return_inverse=True)
    train_classes, test_classes = classes[: len(train_labels)], classes[len(train_labels) :]
    seen, unseen, results = combinations_of(train), combinations_of(test), {}
    for name, (features, present) in seen.items():
        kept, kept_unseen = present.numpy() & is_labelled[0], unseen[name][1].numpy() & is_labelled[1]
        results[name] = probe_features(
            features[kept].to(device),
            train_classes[kept],
            held_out[kept],
            unseen[name][0][kept_unseen].to(device),
            test_classes[kept_unseen],
        )
    return results


def format_probes(result: Mapping[str, Any]) -> str:
    """A table to read: a line for each fold and kind of features, and the mean over several folds."""
    ranks = [f"R@{rank}" for rank in RANKS if all(f"R@{rank}" in row for row in result["rows"])]
    columns = ["knn", "linear", *ranks]
    width = max(24, *(len(_row_name(row)) + 2 for row in (*result["rows"], *result["mean"])))
    lines = [
        f"{result['data'] or 'own clips'}: learned from split {result['train_split']}, measured on {result['split']}, "
        f"mean of {result['views']} views",
        " " * width + "".join(f"{name:>10}" for name in columns) + f"{'train':>10}{'test':>10}",
    ]
    for row in (*result["rows"], *result["mean"]):
        counts = "".join(f"{row[name]:10d}" for name in ("train", "test")) if "train" in row else ""
        lines.append(f"{_row_name(row):{width}}" + "".join(f"{row[name]:10.3f}" for name in columns) + counts)
    lines.append(
        "knn, linear: accuracy; R@k: a test clip counts where one of its k nearest training clips has its label. "
        "Settings were chosen on held-out training clips"
    )
    return "\n".join(lines)


def describe_probes(
    rows: list[dict[str, Any]], config: Config, settings: list[str], split: str, num_views: int
) -> dict[str, Any]:
    """What was measured, the rows, and their mean over several folds.

    Args:
        rows: results of probe_clips with fold, encoders and features.
        config: that the clips were read with.
        settings: in which it differs from the run's; where there are any, the name of the folder stands for the data.
        split: that was measured on.
        num_views: of each clip.
    """
    return {
        "data": Path(config.data.root).name if settings else "",
        "settings": settings,
        "train_split": config.data.train_split,
        "split": split,
        "views": num_views,
        "rows": rows,
        "mean": _mean_over_folds(rows),
    }


def write_probes(result: Mapping[str, Any], run_dir: Path) -> Path:
    """Write RUN/eval/probe_SPLIT.json, or probe_DATA_SPLIT.json of other clips."""
    path = RunFolder(run_dir).probes(result["data"], result["split"])
    write_text(path, json.dumps(result, indent=2) + "\n")
    return path


def _mean_over_folds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean of each kind of features over the folds; nothing where there is one fold."""
    if len({row["fold"] for row in rows}) < 2:
        return []
    means = []
    for encoders, features in dict.fromkeys((row["encoders"], row["features"]) for row in rows):
        same = [row for row in rows if (row["encoders"], row["features"]) == (encoders, features)]
        shared = [name for name in ("knn", "linear", *(f"R@{k}" for k in RANKS)) if all(name in row for row in same)]
        figures = {name: float(np.mean([row[name] for row in same])) for name in shared}
        means.append({"fold": "mean", "encoders": encoders, "features": features, **figures})
    return means


def _linear_probe(
    train: Tensor, train_classes: np.ndarray, held_out: np.ndarray, test: Tensor, test_classes: np.ndarray
) -> tuple[float, float]:
    """Multinomial logistic regression on standardised features; returns the accuracy and the C that was chosen."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    features, unseen = train.cpu().double().numpy(), test.cpu().double().numpy()
    inner = features[~held_out]

    def standardise(like: np.ndarray, values: np.ndarray) -> np.ndarray:
        spread = like.std(0)
        return (values - like.mean(0)) / np.where(spread > 1e-12, spread, np.inf)

    def fit(values: np.ndarray, classes: np.ndarray, penalty: float) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 200 iterations are enough to compare and to score
            return LogisticRegression(C=penalty, max_iter=200).fit(values, classes)

    if len(np.unique(train_classes[~held_out])) < 2:
        raise ValueError("expected training clips of at least two classes")
    scores = {}
    for penalty in PENALTIES:
        classifier = fit(standardise(inner, inner), train_classes[~held_out], penalty)
        scores[penalty] = classifier.score(standardise(inner, features[held_out]), train_classes[held_out])
    best = max(PENALTIES, key=lambda penalty: (scores[penalty], -penalty))
    classifier = fit(standardise(features, features), train_classes, best)
    return float(classifier.score(standardise(features, unseen), test_classes)), best


def _row_name(row: Mapping[str, Any]) -> str:
    fold = "" if row["fold"] is None else "mean, " if row["fold"] == "mean" else f"fold {row['fold']}, "
    return f"{fold}{row['features']}" + ("" if row["encoders"] == "trained" else f" ({row['encoders']})")
