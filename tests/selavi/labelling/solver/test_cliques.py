"""Cliques are small groups of which all pairs are near, as a plain loop finds them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selavi.labelling.solver.cliques import find_cliques


def blobs(seed: int, num_blobs: int = 4, each: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.eye(num_blobs, 6)
    classes = torch.arange(num_blobs).repeat_interleave(each)
    return centres[classes] + 0.5 * torch.randn(len(classes), 6, generator=generator), classes


@given(st.integers(0, 50))
def test_cliques_are_pure_full_and_apart(seed: int) -> None:
    features, classes = blobs(seed)
    labels = find_cliques(features, 4, 5, torch.Generator().manual_seed(seed))
    members = [classes[labels == clique] for clique in range(4)]
    assert all(len(one) == 5 and len(one.unique()) == 1 for one in members)
    assert len({int(one[0]) for one in members}) == 4
    assert (labels == -1).sum() == len(classes) - 20


@given(st.integers(0, 50), st.integers(1, 5), st.integers(1, 4))
def test_every_clique_has_a_clip_and_its_pairs_are_nearer_than_the_median(seed: int, count: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count * size + 3, 4, generator=generator)
    labels = find_cliques(features, count, size, generator)
    distances = torch.cdist(features, features)
    one, other = torch.triu_indices(len(features), len(features), 1)
    median = distances[one, other].median()
    for clique in range(count):
        rows = (labels == clique).nonzero()[:, 0]
        assert 1 <= len(rows) <= size
        within = distances[rows][:, rows]
        assert (within[~torch.eye(len(rows), dtype=torch.bool)] < median + 1e-4).all()


def test_equal_clips_and_equal_seeds() -> None:
    labels = find_cliques(torch.ones(10, 3), 3, 2, torch.Generator().manual_seed(0))
    assert {0, 1, 2} <= set(labels.tolist())
    features, _ = blobs(0)
    drawn = [find_cliques(features, 4, 5, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*drawn)
    others = [find_cliques(features, 4, 5, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert any(not torch.equal(others[0], one) for one in others[1:]), "heads would all be one"


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 x 4 clips"):
        find_cliques(torch.ones(11, 2), 3, 4, torch.Generator())
