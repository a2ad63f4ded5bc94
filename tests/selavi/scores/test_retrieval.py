import numpy as np
import pytest
import torch
from torch import Tensor

from selavi.scores.retrieval import nearest, recall_at, vote


def features(num: int, seed: int) -> Tensor:
    return torch.randn(num, 6, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    queries, gallery = features(40, 0), features(90, 1)
    rows, similarities = nearest(queries, gallery, 7)
    distances, expected = NearestNeighbors(n_neighbors=7, metric="cosine").fit(gallery.numpy()).kneighbors(queries)
    assert np.array_equal(rows.numpy(), expected)
    assert similarities.numpy() == pytest.approx(1 - distances, abs=2e-6)


@pytest.mark.parametrize("blocks", [(1, 1), (7, 13), (64, 1000)])
def test_blocks_do_not_matter(blocks: tuple[int, int]) -> None:
    queries, gallery = features(30, 0), features(50, 1)
    expected = nearest(queries, gallery, 9)
    found = nearest(queries, gallery, 9, query_block=blocks[0], gallery_block=blocks[1])
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("gallery_block", [2, 3, 100])
def test_of_equal_similarities_the_lower_row_comes_first(gallery_block: int) -> None:
    one = features(1, 0)
    gallery = torch.cat([-one, one, one * 3, -one, one * 0.5, torch.zeros_like(one)])
    rows, similarities = nearest(one * 7, gallery, 6, gallery_block=gallery_block)
    assert rows.tolist() == [[1, 2, 4, 5, 0, 3]]
    assert similarities[0].tolist() == pytest.approx([1, 1, 1, 0, -1, -1], abs=1e-6)


def test_recall_counts_any_of_the_first_k() -> None:
    labels = torch.tensor([[0, 1, 2, 0, 0], [1, 1, 0, 0, 2], [0, 0, 0, 0, 1]])
    found = recall_at(labels, torch.tensor([0, 2, 3]), ranks=(1, 2, 5, 10))
    assert found == {"R@1": pytest.approx(1 / 3), "R@2": pytest.approx(1 / 3), "R@5": pytest.approx(2 / 3)}


def test_votes_weigh_by_similarity_and_ties_go_to_the_lowest_class() -> None:
    labels = torch.tensor([[2, 1, 1], [2, 1, 1], [1, 0, 2]])
    similarities = torch.tensor([[0.9, 0.5, 0.5], [0.9, 0.89, 0.88], [0.5, 0.5, 0.1]], dtype=torch.float64)
    assert vote(labels, similarities, 3).tolist() == [2, 1, 0]


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 6\) and \(5, 3\)"):
        nearest(features(4, 0), features(5, 0)[:, :3], 1)
    with pytest.raises(ValueError, match="expected 1 to 5 nearest clips of a gallery of 5, got 6"):
        nearest(features(4, 0), features(5, 0), 6)
    broken = features(4, 0)
    broken[1, 2] = torch.nan
    with pytest.raises(ValueError, match="expected finite features"):
        nearest(broken, features(5, 0), 1)
