import numpy as np
import pytest

from selavi.evaluation.metrics import bootstrap_intervals, contingency_matrix, evaluate_clusters
from selavi.evaluation.report import COLUMNS, evaluate_heads, format_comparison, format_table

K = 4


def heads(num_clips: int = 200) -> tuple[np.ndarray, list[str | None]]:
    """(N, 3) clusters, the second closest to the labels; every tenth clip has no label."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, K, num_clips)
    columns = [
        np.where(rng.random(num_clips) < noise, rng.integers(0, K, num_clips), truth) for noise in (0.5, 0.1, 0.3)
    ]
    labels = [None if clip % 10 == 0 else f"label {label}" for clip, label in enumerate(truth.tolist())]
    return np.stack(columns, axis=1), labels


def test_every_head_is_scored_on_the_labelled_clips() -> None:
    clusters, labels = heads()
    result = evaluate_heads("test", clusters, labels, clusters, K)
    known = [clip for clip, label in enumerate(labels) if label is not None]
    named = [labels[clip] for clip in known]
    for head, entry in enumerate(result["heads"]):
        assert evaluate_clusters(named, clusters[known, head], K).items() <= entry.items()
    assert result["unlabelled_clips"] == 20
    assert (result["chosen"]["head"], result["oracle"]["head"]) == (1, 1)
    expected = bootstrap_intervals(contingency_matrix(named, clusters[known, 1], K))
    found = result["intervals"]
    assert found.pop("level") == 0.95
    assert {name: (ends["low"], ends["high"], ends["bias"]) for name, ends in found.items()} == {
        name: (interval.low, interval.high, interval.bias) for name, interval in expected.items()
    }


def test_the_table_shows_every_column_under_its_name() -> None:
    clusters, labels = heads()
    result = evaluate_heads("test", clusters, labels, clusters, K)
    lines = format_table(result).splitlines()
    header = next(line for line in lines if "nmi" in line)
    assert header.split() == list(COLUMNS)
    assert max(map(len, lines[:-1])) <= 120
    row = next(line for line in lines if line.startswith("chosen (head 1)"))
    ends = [header.index(name) + len(name) for name in COLUMNS]
    for begin, end, name in zip([18, *ends], ends, COLUMNS, strict=False):
        assert float(row[begin:end]) == pytest.approx(result["chosen"][name], abs=0.0006)
    low, high = (result["intervals"]["nmi"][end] for end in ("low", "high"))
    assert f"95% interval, chosen head: nmi {low:.3f} to {high:.3f}, ari " in "\n".join(lines)
    compared = format_comparison({"runs/one": result, "runs/second": result}).splitlines()
    assert compared[1].split() == list(COLUMNS)
    assert compared[2].split()[1:] == compared[3].split()[1:] == row.split()[3:]


def test_without_labels_there_are_sizes_and_no_intervals() -> None:
    clusters, _ = heads()
    result = evaluate_heads("test", clusters, [None] * 200, clusters, K)
    assert "intervals" not in result and "oracle" not in result
    assert "none has a label" in format_table(result)
