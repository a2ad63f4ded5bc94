import numpy as np
import pytest

from selavi.errors import UsageError
from selavi.evaluation.report import COLUMNS, coarser, evaluate_heads, format_comparison, format_table
from selavi.scores.consensus import consensus
from selavi.scores.contingency import contingency_matrix
from selavi.scores.head_choice import choose_head
from selavi.scores.metrics import bootstrap_intervals, evaluate_clusters

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
    result = evaluate_heads("test", clusters, labels, choose_head(clusters), K, {})
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
    result = evaluate_heads("test", clusters, labels, choose_head(clusters), K, {})
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
    result = evaluate_heads("test", clusters, [None] * 200, choose_head(clusters), K, {})
    assert "intervals" not in result and "oracle" not in result
    table = format_table(result)
    assert "none has a label" in table
    row = next(line for line in table.splitlines() if line.startswith("head 0")).split()
    chosen = result["heads"][0]
    assert row[2:6] == ["4", f"{chosen['size_min']}", f"{chosen['size_median']:g}", f"{chosen['size_max']}"]
    assert row[6:] == [f"{chosen['size_entropy']:.3f}", f"{chosen['agreement']:.3f}"]
    said = f"head 1 agrees {result['chosen']['agreement']:.3f} with the others: unsure (independent clusters of"
    assert said in table


def test_the_verdict_of_the_training_is_repeated_where_the_run_kept_one() -> None:
    clusters, labels = heads()
    for known in (labels, [None] * 200):
        result = evaluate_heads("test", clusters, known, choose_head(clusters), K, {})
        assert "training:" not in format_table(result)
        result["verdict"] = "The labels are settled: the last labelling changed 0.4% of them."
        assert format_table(result).splitlines()[-1] == f"training: {result['verdict']}"


def test_each_modality_alone_is_scored_on_the_clips_that_have_it_and_the_consensus_beside_it() -> None:
    clusters, labels = heads()
    silent = np.arange(len(clusters)) % 3 == 0
    alone = {"video": clusters, "audio": np.where(silent[:, None], -1, clusters)}
    result = evaluate_heads("test", clusters, labels, choose_head(clusters), K, alone)
    heard = [clip for clip, label in enumerate(labels) if label is not None and not silent[clip]]
    assert result["alone"]["audio"] == evaluate_clusters([labels[clip] for clip in heard], clusters[heard, 1], K)
    assert result["alone"]["video"].items() <= result["chosen"].items()
    known = [clip for clip, label in enumerate(labels) if label is not None]
    agreed = consensus(clusters, K).clusters[known]
    assert result["consensus"] == evaluate_clusters([labels[clip] for clip in known], agreed, K)
    table = format_table(result)
    assert [name for name in ("  video alone", "  audio alone", "consensus ") if f"\n{name}" not in table] == []


def test_it_is_said_whether_the_modalities_share_anything() -> None:
    """Nothing where they agree as far as chance gives, however large that is."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 8, 400)
    texts = {}
    for name, other in (("alike", first), ("strangers", generator.integers(0, 8, 400)), ("no clip", np.full(400, -1))):
        alone = {"video": first[:, None], "audio": other[:, None]}
        result = evaluate_heads("test", first[:, None], [None] * 400, choose_head(first[:, None]), 8, alone)
        texts[name] = format_table(result)
    assert "modalities alone agree 1.000 (NMI over 400 clips; chance 0.0" in texts["alike"]
    assert "by chance" not in texts["alike"]
    assert "nothing is shared, so the labels are what one of them tells, video (NMI 1.000)" in texts["strangers"]
    assert "modalities alone agree" not in texts["no clip"]


def test_modalities_that_each_know_half_of_the_classes_are_not_said_to_share_nothing() -> None:
    """Each guesses where the other knows, so that alone they agree by chance, and the labels follow both."""
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 8, 1000)
    guesses = generator.integers(0, 4, (2, 1000))
    one = np.where(classes < 4, classes, guesses[0])
    two = np.where(classes >= 4, classes, guesses[1] + 4)
    alone = {"one": one[:, None], "two": two[:, None]}
    result = evaluate_heads("test", classes[:, None], [None] * 1000, choose_head(classes[:, None]), 8, alone)
    table = format_table(result)
    assert "no more than by chance; but the labels follow one" in table
    assert "the labels follow one (NMI 0." in table
    assert " and two (NMI 0." in table


def test_labels_that_follow_no_modality_are_called_that() -> None:
    generator = np.random.default_rng(0)
    clusters, *alone = generator.integers(0, 8, (3, 2000, 1))
    named = dict(zip(("one", "two"), alone, strict=True))
    result = evaluate_heads("test", clusters, [None] * 2000, choose_head(clusters), 8, named)
    assert "the labels follow none of them" in format_table(result)


@pytest.mark.parametrize("criterion", ["agreement", "modalities", "probe"])
def test_the_table_says_how_the_head_was_chosen(criterion: str) -> None:
    clusters, labels = heads()
    inputs = {"modality_agreement": np.full(clusters.shape, 0.5), "probe": np.linspace(0, 1, clusters.shape[1])}
    choice = choose_head(clusters, criterion, **inputs)
    result = evaluate_heads("test", clusters, labels, choice, K, {})
    told = {"agreement": "other heads", "modalities": "both modalities", "probe": "linear classifier"}[criterion]
    assert told in format_table(result)
    assert (result["chosen_by"], result["chosen"]["head"]) == (criterion, choice.head)
    assert all(entry["modalities"] == 0.5 for entry in result["heads"])


def test_merged_clusters_are_those_of_the_tree_and_are_scored() -> None:
    clusters, labels = heads(400)
    split = clusters * 2 + np.random.default_rng(1).integers(0, 2, clusters.shape)  # each cluster cut in two at random
    [fine, coarse] = coarser(split, labels, 1, 2 * K, [2 * K, K], seed=0)
    known = [clip for clip, label in enumerate(labels) if label is not None]
    assert fine["groups"] == list(range(2 * K))
    assert coarse["groups"] == [0, 0, 1, 1, 2, 2, 3, 3]  # the halves find each other again
    assert coarse["scores"] == evaluate_clusters([labels[clip] for clip in known], clusters[known, 1], K)
    assert coarse["agreement"]["ami"] > fine["agreement"]["ami"]
    table = format_table(evaluate_heads("test", clusters, labels, choose_head(clusters), K, {}) | {"coarser": [coarse]})
    assert f"merged to     4: heads agree by ami {coarse['agreement']['ami']:.3f}" in table
    assert "scores" not in coarser(split, [None] * 400, 1, 2 * K, [K], seed=0)[0]


def test_what_cannot_be_merged_is_refused() -> None:
    clusters, labels = heads()
    with pytest.raises(UsageError, match="the run has one head"):
        coarser(clusters[:, :1], labels, 0, K, [2], seed=0)
    with pytest.raises(UsageError, match="merged to 1 to so many, not to 9"):
        coarser(clusters, labels, 0, K, [2, 9], seed=0)
