"""Alignment: the permutation that makes the heads of two modalities name the same clusters.

Axes: N clips, K clusters.  The L1 objective ``sum_nk |reference[n, k] - other[n, permutation[k]]|`` separates
over columns, so its exact minimum is a linear assignment problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

BLOCK_ROWS = 4096  # short enough for float32 sums, long enough for the fixed cost of a call to vanish


@torch.no_grad()
def alignment_cost(reference: Tensor, other: Tensor) -> Tensor:
    """L1 distances between the columns of two tables: ``cost[i, j] = sum_n |reference[n, i] - other[n, j]|``.

    Args:
        reference: (N, K) probabilities of one modality's head.
        other: (N, K) probabilities of another's.

    Returns:
        (K, K) float64.  It is a plain sum over clips, so the costs of parts of the data (or of processes) add
        up.

    Raises:
        ValueError: where the shapes differ or are not (N, K).
    """
    if reference.ndim != 2 or reference.shape != other.shape:
        raise ValueError(
            f"expected two tables (N, K), got reference {tuple(reference.shape)} and other {tuple(other.shape)}"
        )
    if reference.device.type == "cpu":
        from selavi.labelling.solver.kernels import column_distances  # late, since Numba takes a second
    num_clips, num_clusters = reference.shape
    cost = torch.zeros(num_clusters, num_clusters, dtype=torch.float64, device=reference.device)
    for first in range(0, num_clips, BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        one, two = (table[rows].T.float().contiguous() for table in (reference, other))
        if cost.device.type == "cpu":
            column_distances(one.numpy(), two.numpy(), cost.numpy())
        else:
            cost += torch.cdist(one, two, p=1.0)
    return cost


def align(cost: Tensor) -> Tensor:
    """The permutation of least total cost: ``other[:, permutation]`` matches ``reference`` column by column.

    To make it permanent, index the output rows of the other head's last layer with it:
    ``weight[permutation]``, ``bias[permutation]``.

    Args:
        cost: (K, K) from `alignment_cost`: rows are the reference's clusters, columns the other's.

    Returns:
        (K,) int64 on the device of the cost.

    Raises:
        ValueError: where the cost is not square or not finite.
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(f"expected a square cost (K, K), got {tuple(cost.shape)}")
    if not cost.isfinite().all():
        raise ValueError("alignment costs must be finite: check the probabilities of both modalities for NaN")
    _, permutation = linear_sum_assignment(cost.detach().cpu().numpy())
    return torch.as_tensor(permutation, dtype=torch.int64, device=cost.device)


def align_all(costs: Mapping[tuple[str, str], Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Permutations that make the heads of all modalities agree: those of all but the first, which stays.

    With two modalities this is the exact optimum.  With more, the sum over all pairs is an assignment problem that
    is hard in general: each modality is aligned exactly to all that are aligned already, then in turns to all
    others until no turn lowers the total.

    Args:
        costs: (K, K) from `alignment_cost` for every pair (one, other) in the order of the modalities.
        modalities: their names.

    Returns:
        (K,) int64 by name, as `align` returns.
    """
    if len(modalities) < 2:
        return {}
    some = next(iter(costs.values()))
    identity = torch.arange(len(some), device=some.device)
    permutations = {modalities[0]: identity}

    def towards(name: str) -> Tensor:
        """(K, K) cost of giving the named modality's cluster (column) the place of a row, against the others."""
        total = torch.zeros_like(some)
        for other, permutation in permutations.items():
            if other != name:
                ordered = (other, name) in costs
                cost = costs[other, name] if ordered else costs[name, other].T
                total += cost[permutation]
        return total

    for name in modalities[1:]:
        permutations[name] = align(towards(name))
    changed = len(modalities) > 2
    while changed:
        changed = False
        for name in modalities[1:]:
            cost = towards(name)
            better = align(cost)
            gain = cost[identity, permutations[name]].sum() - cost[identity, better].sum()
            if gain > 1e-9 * cost.sum() / len(cost):
                permutations[name], changed = better, True
    return {name: permutations[name] for name in modalities[1:]}
