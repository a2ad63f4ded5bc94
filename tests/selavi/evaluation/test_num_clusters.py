import json

import numpy as np
import pytest

from selavi.evaluation.num_clusters import as_figures, describe_suggestion, how_sure
from selavi.scores.num_clusters import Stability, Suggestion


def suggestion(
    best: int = 8,
    *,
    as_good: tuple[int, ...] = (8,),
    at_end: bool = False,
    agreement: float = 0.8,
    shared: float = 0.4,
    left_out: int = 0,
) -> Suggestion:
    tried = [
        Stability(k, np.full(6, agreement - abs(k - best) / 100), np.full(6, shared - abs(k - 9) / 100))
        for k in (4, 6, 8, 9, 12, 16)
    ]
    return Suggestion(best, tried, as_good, at_end, 100, left_out)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (suggestion(), "clear; "),
        (suggestion(as_good=(6, 8)), "roughly; with 6 clusters halves agree as well"),
        (suggestion(as_good=(4, 8)), "little; with fewer clusters, down to 4, "),
        (suggestion(at_end=True), "little; it is the last K that was tried on this side"),
        (suggestion(agreement=0.3), "not at all; "),
    ],
)
def test_how_sure_it_is(given: Suggestion, words: str) -> None:
    assert how_sure(given).startswith(words)


def test_the_figures_go_through_json_into_words() -> None:
    figures = json.loads(json.dumps(as_figures(suggestion(left_out=7), 9)))
    lines = describe_suggestion(figures)
    assert lines[1].split() == ["4", "0.760", "±", "0.000", "0.350", "±", "0.000"]
    assert lines[3].endswith("suggested")
    assert lines[4].endswith("this run")
    assert lines[7].startswith("suggested K: 8, the largest at which two halves of the clips give clusters as similar")
    assert "(0.800; 0 by chance" in lines[7]
    assert lines[9] == "modalities: the clusters that each makes alone agree most at K = 9 (0.400)"
    assert "the encoders learned 9 clusters" in lines[10]
    assert lines[-1].startswith("100 clips were clustered; 7 were left out")


def test_what_the_modalities_add() -> None:
    def said(given: Suggestion) -> str:
        return "\n".join(describe_suggestion(as_figures(given, 8)))

    assert "agree no better than chance; they share nothing" in said(suggestion(shared=0.01))
    assert "at K = 9 (0.400); beyond that, clusters are those of one modality" in said(suggestion(best=16))
    alone = [Stability(k, np.full(6, 0.9), np.array([])) for k in (4, 6, 8)]
    words = said(Suggestion(6, alone, (6,), False, 100, 0))
    assert "modalities:" not in words
    assert words.splitlines()[1].split() == ["4", "0.900", "±", "0.000", "-"]
