import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavi.scores.verdict import judge_training

GOOD = {"num_clusters": 8, "used_clusters": 8.0, "num_clips": 800, "max_epochs": 45}


def test_settled_labels_are_said_to_be_settled_and_nothing_is_to_be_changed() -> None:
    verdict = judge_training([math.nan, 0.9, 0.2, 0.004], 0.3, **GOOD)
    assert verdict.state == "settled"
    assert verdict.text == "The labels are settled: the last labelling changed 0.4% of them."


def test_nearly_settled_labels_want_a_longer_training() -> None:
    verdict = judge_training([0.5, 0.05], 0.8, **GOOD)
    assert verdict.state == "nearly settled"
    assert "trainer.max_epochs=90" in verdict.text and "Do not read" not in verdict.text


def test_the_run_that_ended_with_a_plain_done() -> None:
    """80 clips in 20 clusters, churn 69 %, loss 2.82 where ln 20 is 3.00: nothing was learned, and nothing said so."""
    verdict = judge_training([0.9, 0.694], 2.82, num_clusters=20, used_clusters=20.0, num_clips=80, max_epochs=40)
    assert verdict.state == "not settled"
    for words in (
        "NOT settled: the last labelling changed 69.4%",
        "The loss is 2.82, and a network that says nothing has ln 20 = 3.00",
        "80 clips are 4 for each of 20 clusters",
        "trainer.max_epochs=80",
        "fewer clusters (heads.num_clusters=3)",
        "Do not read much into the clusters yet.",
    ):
        assert words in verdict.text


def test_stuck_labels_are_not_praised() -> None:
    verdict = judge_training([0.004], 2.05, **GOOD)
    assert verdict.state == "settled"
    assert "stuck" in verdict.text and "Do not read much into the clusters yet." in verdict.text


def test_empty_clusters_are_counted() -> None:
    verdict = judge_training([0.004], 0.1, **{**GOOD, "used_clusters": 5.5})
    assert "Only 5.5 of 8 clusters hold a clip" in verdict.text and "lower optim.lr" in verdict.text


@pytest.mark.parametrize("churn", [[], [math.nan]])
def test_one_labelling_says_nothing_about_churn(churn: list[float]) -> None:
    verdict = judge_training(churn, 0.5, **GOOD)
    assert verdict.state == "unknown" and "labelling.num_labellings" in verdict.text


@given(
    churn=st.lists(st.floats(0, 1) | st.just(math.nan), max_size=5),
    loss=st.floats(0, 10) | st.just(math.nan),
    num_clusters=st.integers(2, 500),
    used=st.floats(0, 1),
    num_clips=st.integers(2, 10**6),
)
def test_every_verdict_is_whole_sentences_without_nan(
    churn: list[float], loss: float, num_clusters: int, used: float, num_clips: int
) -> None:
    verdict = judge_training(
        churn, loss, num_clusters=num_clusters, used_clusters=used * num_clusters, num_clips=num_clips, max_epochs=10
    )
    assert all(sentence.endswith(".") for sentence in verdict.sentences)
    assert "nan" not in verdict.text
    if verdict.state == "not settled":
        assert "What may help" in verdict.text
