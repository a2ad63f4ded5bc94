import json

import numpy as np
import pytest

from selavi.evaluation.num_clusters import as_figures, describe_suggestion, how_sure
from selavi.scores.num_clusters import Stability, Suggestion


def suggestion(
    best: int = 8, *, as_good: tuple[int, ...] = (8,), at_end: bool = False, agreement: float = 0.8, left_out: int = 0
) -> Suggestion:
    tried = [Stability(k, np.full(6, 0.5), np.full(6, agreement - abs(k - best) / 100)) for k in (4, 6, 8, 9, 12, 16)]
    return Suggestion(best, tried, "modalities", as_good, at_end, 100, left_out)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (suggestion(), "clear; "),
        (suggestion(as_good=(8, 9)), "roughly; K from 8 to 9 are as good"),
        (suggestion(as_good=(6, 8, 9, 12)), "little; the splits cannot tell which K from 6 to 12 is best"),
        (suggestion(at_end=True), "little; it is the last K that was tried on this side"),
        (suggestion(agreement=0.02), "not at all; "),
    ],
)
def test_how_sure_it_is(given: Suggestion, words: str) -> None:
    assert how_sure(given).startswith(words)


def test_the_figures_go_through_json_into_words() -> None:
    figures = json.loads(json.dumps(as_figures(suggestion(left_out=7), 9)))
    lines = describe_suggestion(figures)
    assert lines[1].split() == ["4", "0.760", "±", "0.000", "0.500", "±", "0.000"]
    assert lines[3].endswith("suggested")
    assert lines[4].endswith("this run")
    assert lines[7].startswith("suggested K: 8, where the clusters that one modality makes alone agree most")
    assert "(0.800; 0 by chance" in lines[7]
    assert "the encoders learned 9 clusters" in "\n".join(lines)
    assert lines[-1].startswith("100 clips were clustered; 7 were left out")


def test_modalities_that_share_nothing_are_named() -> None:
    tried = [Stability(k, np.full(6, 0.9), np.full(6, 0.0)) for k in (4, 6, 8)]
    shared_nothing = Suggestion(6, tried, "halves", (6,), False, 100, 0)
    assert "the modalities alone agree no better than chance" in "\n".join(
        describe_suggestion(as_figures(shared_nothing, 6))
    )
    one_modality = [Stability(k, np.full(6, 0.9), np.array([])) for k in (4, 6, 8)]
    lines = describe_suggestion(as_figures(Suggestion(6, one_modality, "halves", (6,), False, 100, 0), 6))
    assert "the modalities alone" not in "\n".join(lines)
    assert lines[1].split() == ["4", "-", "0.900", "±", "0.000"]
