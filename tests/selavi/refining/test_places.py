import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selavi.errors import UsageError
from selavi.refining.places import make_places, sizes_of
from selavi.results.naming import HeadNames, Names, named_head

IDS = ["a", "b", "c", "d", "e", "f"]
CLUSTERS = torch.tensor([0, 1, 2, 3, 4, 4])


def row(cluster: int, clip_id: str | None = None, name: str = "", into: int | None = None, rejected: bool = False):
    return {"head": 0, "cluster": cluster, "id": clip_id, "name": name, "into": into, "rejected": rejected}


def decided(*rows) -> HeadNames:
    return Names(list(rows)).of(0)


def test_one_name_is_one_place_and_a_moved_clip_is_an_answer() -> None:
    names = [row(0, name="dog"), row(2, name="dog"), row(3, name="cat"), row(4, rejected=True), row(3, "d", into=0)]
    places = make_places(decided(*names), IDS, CLUSTERS)
    assert places.names == ["cat", "dog", "", ""] and places.rejected == [False, False, False, True]
    assert places.start.tolist() == [1, 2, 1, 0, 3, 3]
    assert places.answers.tolist() == [-1, -1, -1, 1, -1, -1]
    assert not places.is_confirmed.any()


def test_merges_are_followed_and_places_without_clips_left_out() -> None:
    names = [row(0, name="dog"), row(1, into=0), row(2, into=1), row(3, name="cat"), row(4, name="cat")]
    places = make_places(decided(*names), IDS, CLUSTERS)
    assert places.names == ["cat", "dog"] and places.start.tolist() == [1, 1, 1, 0, 0, 0]
    emptied = [row(0, name="dog"), row(1, "b", into=0), row(1, name="cow"), row(3, name="cat")]
    assert "cow" in make_places(decided(*emptied), IDS, CLUSTERS).names, "the clip may still go back there"


def test_a_new_cluster_that_clips_were_moved_to_is_a_place() -> None:
    places = make_places(decided(row(0, name="dog"), row(4, "f", into=9), row(9, name="owl")), IDS, CLUSTERS)
    assert places.names[int(places.answers[5])] == "owl"


def test_a_clip_that_stays_is_confirmed_one_that_is_rejected_turned_away_and_strangers_are_counted() -> None:
    names = [row(0, name="dog"), row(0, "a", into=0), row(4, "e", rejected=True), row(4, "zzz", into=0)]
    places = make_places(decided(*names), IDS, CLUSTERS, answered={"b"})
    assert places.is_confirmed.tolist() == [True, True, False, False, False, False]
    assert places.turned_away.tolist() == [False, False, False, False, True, False]
    assert places.num_unknown == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([row(k, name="dog") for k in range(5)], "all clips are in one place"),
        ([row(0, name="dog"), row(3, "a", into=0)], "says? that a was in cluster 3, and this run has it in 0"),
    ],
)
def test_what_cannot_be_learned_is_refused(names: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_places(decided(*names), IDS, CLUSTERS)


def test_the_head_with_names_is_learned() -> None:
    rows = [row(0, name="dog") | {"head": 1}, row(1, name="cat") | {"head": 1}, row(0, name="cow")]
    assert named_head(Names(rows), 3) == 1
    with pytest.raises(UsageError, match="no cluster has a name"):
        named_head(Names([row(0, rejected=True)]), 3)


@given(
    clusters=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    called=st.dictionaries(st.integers(0, 4), st.sampled_from(["dog", "cat", "cow"]), min_size=1),
    moved=st.dictionaries(st.sampled_from(IDS), st.integers(0, 6)),
)
def test_a_run_of_the_places_says_the_same(clusters: list[int], called: dict, moved: dict) -> None:
    """Written as names of the new run, and read with its own labels, nothing has changed."""
    rows = [row(cluster, name=name) for cluster, name in called.items()]
    rows += [row(clusters[IDS.index(clip)], clip, into=into) for clip, into in moved.items()]
    try:
        places = make_places(decided(*rows), IDS, torch.tensor(clusters))
    except UsageError:
        return
    labels = torch.where(places.is_answered, places.answers, places.start)
    if len(labels.unique()) == 1:
        return  # all clips were moved into one of them
    answered = [clip for clip, known in zip(IDS, places.is_answered, strict=True) if known]
    again = make_places(places.as_names(IDS, labels).of(0), IDS, labels, answered)
    first = [places.names[place] for place in labels]
    assert [again.names[place] for place in again.start] == first
    assert again.is_confirmed.tolist() == places.is_answered.tolist()
    assert sizes_of(again).sum() == pytest.approx(1)
