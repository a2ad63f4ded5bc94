import itertools
import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from selavi.labelling import alignment
from selavi.labelling.alignment import align, align_all, alignment_cost


def probabilities(seed: int, num_clips: int, num_clusters: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(num_clips, num_clusters, generator=generator)).softmax(1)


@pytest.mark.parametrize("size", [(1, 2), (7, 5), (40, 12)])
def test_cost_is_the_l1_distance_of_columns(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reference, other = probabilities(0, *size), probabilities(1, *size)
    expected = torch.tensor(
        [[(reference[:, i] - other[:, j]).abs().sum().item() for j in range(size[1])] for i in range(size[1])]
    )
    for rows in (alignment.BLOCK_ROWS, 3):
        monkeypatch.setattr(alignment, "BLOCK_ROWS", rows)
        cost = alignment_cost(reference, other)
        assert cost.dtype == torch.float64
        torch.testing.assert_close(cost, expected.double(), atol=1e-5, rtol=0)


def test_costs_of_parts_add_up() -> None:
    reference, other = probabilities(0, 50, 4), probabilities(1, 50, 4)
    parts = alignment_cost(reference[:20], other[:20]) + alignment_cost(reference[20:], other[20:])
    torch.testing.assert_close(parts, alignment_cost(reference, other), atol=1e-5, rtol=0)
    assert alignment_cost(reference[:0], other[:0]).tolist() == [[0.0] * 4] * 4


@pytest.mark.parametrize("num_clusters", [2, 10, 60])
def test_a_planted_permutation_is_found(num_clusters: int) -> None:
    reference = probabilities(2, 300, num_clusters)
    planted = torch.randperm(num_clusters, generator=torch.Generator().manual_seed(3))
    noise = 0.01 / num_clusters * probabilities(4, 300, num_clusters)
    permutation = align(alignment_cost(reference, reference[:, planted] + noise))
    assert permutation.dtype == torch.int64
    assert torch.equal(permutation, planted.argsort())
    torch.testing.assert_close(reference[:, planted][:, permutation], reference)


def test_the_permutation_applies_to_the_outputs_of_a_layer() -> None:
    layer, features = torch.nn.Linear(8, 6), torch.randn(200, 8, generator=torch.Generator().manual_seed(5))
    reference = (3 * layer(features)[:, [4, 2, 0, 5, 1, 3]]).softmax(1).detach()
    other = (3 * layer(features)).softmax(1).detach()
    permutation = align(alignment_cost(reference, other))
    permuted = features @ layer.weight[permutation].T + layer.bias[permutation]
    torch.testing.assert_close((3 * permuted).softmax(1), reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_clusters", [1, 2, 3, 4, 5, 6])
def test_no_permutation_is_better(num_clusters: int) -> None:
    for seed in range(5):
        cost = alignment_cost(probabilities(seed, 30, num_clusters), probabilities(seed + 100, 30, num_clusters))
        best = min(sum(cost[i, j].item() for i, j in enumerate(p)) for p in itertools.permutations(range(num_clusters)))
        permutation = align(cost)
        assert sorted(permutation.tolist()) == list(range(num_clusters))
        assert cost[torch.arange(num_clusters), permutation].sum().item() == pytest.approx(best)


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference \(4, 3\) and other \(4, 2\)"):
        alignment_cost(torch.ones(4, 3), torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"square cost \(K, K\), got \(2, 3\)"):
        align(torch.ones(2, 3))
    with pytest.raises(ValueError, match="finite"):
        align(torch.tensor([[0.0, math.nan], [0.0, 0.0]]))


def test_three_modalities_agree_after_alignment() -> None:
    tables = {"video": torch.rand(200, 6, generator=torch.Generator().manual_seed(0))}
    for seed, name in enumerate(("audio", "text"), 1):
        shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        tables[name] = tables["video"][:, shuffled]
    names = list(tables)
    costs = {pair: alignment_cost(tables[pair[0]], tables[pair[1]]) for pair in combinations(names, 2)}
    found = align_all(costs, names)
    assert set(found) == {"audio", "text"}
    for name, permutation in found.items():
        assert torch.equal(tables[name][:, permutation], tables["video"])
    assert align_all({}, ["video"]) == {}
