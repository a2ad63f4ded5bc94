"""Who labels, who learns, and which columns of the label bank hold it."""

import pytest

from selavi.config import LABELLING_METHODS, LabelSet, load_config, make_label_sets
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
    assert sorted(name for s in label_sets for name in s.learners) == branches
    assert {name for s in label_sets for name in s.voters} == set(branches)
    own_columns = {label_set.learners: label_set.learning_columns for label_set in label_sets}
    for label_set in label_sets:
        if len(label_set.voters) == 1:
            assert label_set.voting_columns == own_columns[label_set.voters], "its potentials lie where its heads learn"


def test_under_cross_the_others_together_label_each_of_three() -> None:
    label_sets = make_label_sets("cross", ["a", "b", "c"], 2)
    assert {s.learners[0]: s.voters for s in label_sets} == {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}
    assert [list(s.learning_columns) for s in label_sets] == [[0, 1], [2, 3], [4, 5]]
    assert all(s.voting_columns == s.learning_columns for s in label_sets)


def test_one_may_label_for_all() -> None:
    assert make_label_sets("b", ["a", "b", "c"], 2) == (LabelSet(("b",), ("a", "b", "c"), range(2), range(2)),)
    config = load_config(None, ["modalities={eye: video, ear: audio}", "labelling.source=ear"])
    assert config.label_sets[0].voters == ("ear",) and config.label_sets[0].learners == ("eye", "ear")
    assert config.head_of_column(3) == (("ear",), 3) and config.num_label_heads == 10
    for wrong in ("nose", "audio"):
        with pytest.raises(UsageError, match=r"labelling.source must be joint, .* of a modality \(eye, ear\)"):
            load_config(None, ["modalities={eye: video, ear: audio}", f"labelling.source={wrong}"])


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
    assert list(LABELLING_METHODS) == ["transport", "kmeans", "cliques", "given", "none"]
