"""What is said of pairs of clusters and of pairs of heads, on clips few enough to count by hand."""

import numpy as np
import pytest

from selavi.results.gallery import alike
from selavi.results.gallery.alike import ask_other_heads, cross, find_pairs
from selavi.results.gallery.select import Head, HeadClusters, Places, Selector
from tests.selavi.results.gallery.synthetic_gallery import synthetic_clips

FIRST = np.array([0, 0, 0, 0, 3, 3, 5, 5], np.int32)
SECOND = np.array([1, 1, 2, 2, 1, 2, 7, 7], np.int32)  # tells 5 from the others, and not 0 from 3


def head_of(number: int, cluster: np.ndarray) -> Head:
    known = np.full(len(cluster), 0.5, np.float32)
    return Head(number, cluster, known, known, known, known)


def clusters_of(num_clips: int, num_clusters: int) -> tuple[HeadClusters, list[Head]]:
    clips, heads, features = synthetic_clips(num_clips, num_clusters)
    return Selector(clips, Places(), features).select(heads[0]), heads


def test_a_crossing_counts_the_clips_that_both_hold() -> None:
    crossing = cross(FIRST, SECOND)
    assert crossing.largest == [[(1, 2), (2, 2)], [(1, 1), (2, 1)], [(7, 2)]]
    assert crossing.shares.toarray().tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    assert crossing.kept.tolist() == [0.5] * 6 + [1.0] * 2
    assert crossing.nmi == pytest.approx(cross(SECOND, FIRST).nmi)
    assert cross(FIRST, FIRST).nmi == pytest.approx(1) and 0 < crossing.nmi < 1


def test_other_heads_put_clips_together_as_often_as_drawing_shows() -> None:
    heads = [head_of(0, FIRST), head_of(1, SECOND), head_of(2, FIRST[::-1].copy())]
    others = ask_other_heads(heads[0], heads)
    assert others is not None and list(others.crossings) == [1, 2]
    together = (others.profiles @ others.profiles.T).toarray()
    for one, other in ((0, 3), (0, 5), (3, 3)):
        mine, yours = one == FIRST, other == FIRST
        drawn = [np.mean(head.cluster[mine][:, None] == head.cluster[yours]) for head in heads[1:]]
        places = np.searchsorted([0, 3, 5], [one, other])
        assert together[tuple(places)] == pytest.approx(np.mean(drawn))
    assert ask_other_heads(heads[0], heads[:1]) is None


def test_the_tree_merges_the_most_alike_first_and_names_a_pair_of_each_merge() -> None:
    clusters, heads = clusters_of(400, 12)
    pairs = find_pairs(clusters, ask_other_heads(heads[0], heads))
    assert pairs is not None and pairs.tree is not None and pairs.joined is not None and pairs.alike is not None
    assert len(pairs.places) == 66 and (pairs.places[:, 0] < pairs.places[:, 1]).all()
    assert len(pairs.tree) == 11 and (np.diff(pairs.joined) <= 1e-6).all()
    assert pairs.tree[0] == pairs.alike.argmax()
    assert pairs.joined[0] == pytest.approx(pairs.alike.max(), abs=1e-3)
    group = np.arange(12)
    for one, other in pairs.places[pairs.tree]:  # each merge joins two groups, until there is one
        assert group[one] != group[other]
        group[group == group[other]] = group[one]
    assert len(set(group)) == 1
    nearest = dict(clusters.clusters[0].nearest)
    for place, (one, other) in enumerate(pairs.places.tolist()):
        if one == 0 and other in nearest:
            assert pairs.alike[place] == pytest.approx(nearest[other], abs=2e-3)


def test_of_many_clusters_only_near_ones_are_paired_and_there_is_no_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "ALL_PAIRS", 10)
    monkeypatch.setattr(alike, "MOST_IN_TREE", 10)
    monkeypatch.setattr(alike, "ROWS", 7)
    monkeypatch.setattr(alike, "DENSE_NUMBERS", 0)
    clusters, heads = clusters_of(900, 40)
    others = ask_other_heads(heads[0], heads)
    pairs = find_pairs(clusters, others)
    assert pairs is not None and others is not None and pairs.tree is None and pairs.joined is None
    assert 40 <= len(pairs.places) <= 40 * 12
    together = (others.profiles @ others.profiles.T).toarray()
    assert pairs.together == pytest.approx(together[tuple(pairs.places.T)], abs=1e-6)
    assert pairs.within == pytest.approx(together.diagonal(), abs=1e-6)


def test_what_is_not_known_is_left_out() -> None:
    clips, heads, _ = synthetic_clips(60, 5)
    bare = Selector(clips, Places()).select(heads[0])
    assert find_pairs(bare, None) is None
    pairs = find_pairs(bare, ask_other_heads(heads[0], heads))
    assert pairs is not None and pairs.alike is None and pairs.tree is None and pairs.together is not None
