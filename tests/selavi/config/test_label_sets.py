"""Who labels, who learns, and which columns of the label bank hold it."""

import pytest

from selavi.config import LABELLING_METHODS, load_config, make_label_sets
from selavi.errors import UsageError


@pytest.mark.parametrize(
    ("overrides", "branches", "voters"),
    [
        ([], ["video", "audio"], [("video", "audio")]),
        (["modalities=[audio]"], ["audio"], [("audio",)]),
        (["modalities=[audio]", "labelling.source=own", "labelling.method=kmeans"], ["audio"], [("audio",)]),
        (["labelling.source=cross"], ["video", "audio"], [("video",), ("audio",)]),
        (["labelling.source=concat"], ["concat"], [("concat",)]),
        (["labelling.source=concat", "labelling.method=kmeans"], ["video", "audio"], [("video", "audio")]),
    ],
)
def test_who_has_heads_and_who_votes(overrides: list[str], branches: list[str], voters: list[tuple[str, ...]]) -> None:
    config = load_config(None, overrides)
    assert config.branches == branches
    assert [label_set.voters for label_set in config.label_sets] == voters
    assert config.num_label_heads == 10 * len(voters)
    assert list(config.branch_weights) == branches
    assert config.plan_sharpness == (1 if config.labelling.method == "kmeans" else 20)


@pytest.mark.parametrize("source", ["joint", "concat", "own", "cross"])
@pytest.mark.parametrize("num_branches", [1, 2, 3, 5])
def test_every_column_is_labelled_once_and_belongs_to_one_voting_set(source: str, num_branches: int) -> None:
    branches = [f"m{number}" for number in range(num_branches)]
    label_sets = make_label_sets(source, branches, 4)
    num_columns = 4 * len(label_sets)
    for columns in ("learning_columns", "voting_columns"):
        assert sorted(c for s in label_sets for c in getattr(s, columns)) == list(range(num_columns))
    assert sorted(name for s in label_sets for name in s.voters) == branches
    assert sorted(name for s in label_sets for name in s.learners) == branches
    own_columns = {label_set.voters: label_set.voting_columns for label_set in label_sets}
    for label_set in label_sets:
        assert label_set.learning_columns == own_columns[label_set.learners], "a column belongs to who learns it"


def test_under_cross_each_of_three_learns_from_the_next() -> None:
    label_sets = make_label_sets("cross", ["a", "b", "c"], 2)
    assert {s.learners[0]: s.voters[0] for s in label_sets} == {"a": "b", "b": "c", "c": "a"}
    assert {s.voters[0]: list(s.learning_columns) for s in label_sets} == {"b": [0, 1], "c": [2, 3], "a": [4, 5]}


def test_under_own_each_learns_from_itself() -> None:
    for label_set in make_label_sets("own", ["a", "b", "c"], 2):
        assert label_set.voters == label_set.learners
        assert label_set.voting_columns == label_set.learning_columns


def test_a_column_says_whose_head_it_is() -> None:
    joint, cross = load_config(None), load_config(None, ["labelling.source=cross"])
    assert joint.head_of_column(3) == (("video", "audio"), 3)
    assert [cross.head_of_column(column) for column in (0, 9, 10, 19)] == [
        (("video",), 0),
        (("video",), 9),
        (("audio",), 0),
        (("audio",), 9),
    ]


def test_an_unknown_method_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"Invalid value 'magic', expected one of .*'transport', 'kmeans'"):
        load_config(None, ["labelling.method=magic"])
    assert list(LABELLING_METHODS) == ["transport", "kmeans"]
