"""Marginals: how much of the data each cluster should get, and which cluster gets which share.

Axes: K clusters.  Every marginal is (K,) float64 and sums to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

MarginalKind = Literal["uniform", "gaussian", "zipf"]
MarginalOrder = Literal["aligned", "inverse", "none"]

# A Gaussian draw far out at a large sd may ask for a negative size; it becomes this fraction of the mean
# size.
_SMALLEST_GAUSSIAN = 1e-3


def make_marginal(
    kind: MarginalKind | Tensor,
    num_clusters: int,
    *,
    gaussian_sd: float = 0.1,
    zipf_exponent: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Target masses of the clusters, in no particular order (see `order_marginal`).

    Args:
        kind: "uniform": 1/K each; "gaussian": ``(1 + gaussian_sd * normal) / K``, kept positive and
            renormalised; "zipf": proportional to ``rank ** -zipf_exponent``; or a given (K,) vector of
            non-negative sizes (counts will do), which is normalised.
        num_clusters: K.
        gaussian_sd: standard deviation of the sizes relative to their mean (paper: 0.1).
        zipf_exponent: 0 is uniform, larger is steeper.
        generator: source of the Gaussian draw; required for it.

    Raises:
        ValueError: for an unknown kind, num_clusters < 1, a negative or non-finite setting, a missing
            generator, or a given vector that is not (K,), not finite, negative somewhere or all 0.
    """
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
    if isinstance(kind, Tensor):
        return _given(kind, num_clusters)

    def uniform() -> Tensor:
        return torch.ones(num_clusters, dtype=torch.float64)

    def gaussian() -> Tensor:
        _check_setting("gaussian_sd", gaussian_sd)
        if generator is None:
            raise ValueError("a gaussian marginal is drawn at random: pass a torch.Generator as generator")
        normal = torch.randn(num_clusters, dtype=torch.float64, generator=generator, device=generator.device)
        return (1 + gaussian_sd * normal).clamp(min=_SMALLEST_GAUSSIAN)

    def zipf() -> Tensor:
        _check_setting("zipf_exponent", zipf_exponent)
        return torch.arange(1, num_clusters + 1, dtype=torch.float64) ** -zipf_exponent

    sizes: dict[str, Callable[[], Tensor]] = {"uniform": uniform, "gaussian": gaussian, "zipf": zipf}
    if kind not in sizes:
        raise ValueError(f"unknown marginal {kind!r}: choose one of {', '.join(sizes)}, or give a vector")
    unnormalised = sizes[kind]()
    return unnormalised / unnormalised.sum()


def estimate_marginal(masses: Tensor, smoothing: float) -> Tensor:
    """The clusters' current masses, drawn towards equal sizes so that none dies out.

    Args:
        masses: (K,) current soft masses of the clusters, in any unit.
        smoothing: share of the uniform marginal in the mixture, in (0, 1].

    Returns:
        (K,) float64, sums to 1, each at least smoothing / K.

    Raises:
        ValueError: masses that are negative, not finite or all 0; a smoothing outside (0, 1].
    """
    if not 0 < smoothing <= 1:
        raise ValueError(f"smoothing must be in (0, 1], got {smoothing}")
    own = _given(masses, masses.numel())
    mixed = (1 - smoothing) * own + smoothing / len(own)
    return mixed / mixed.sum()


def order_marginal(marginal: Tensor, masses: Tensor, order: MarginalOrder) -> Tensor:
    """Decide which cluster gets which share.

    With free pairing one minimises KL(plan || rows x marginal), that is, maximises ``sum_k masses_k * log
    marginal_k`` over permutations; by the rearrangement inequality both must then be sorted the same way.

    Args:
        marginal: (K,) shares.
        masses: (K,) current soft masses of the clusters, in any unit.
        order: "aligned": the largest share goes to the cluster with the largest mass; "inverse": what the
            official code really imposes, one over the aligned shares, renormalised, so that the cluster with
            the largest mass gets the smallest share; "none": as given.  Equal masses are ranked by cluster
            number.

    Returns:
        (K,) float64, sums to 1 like the marginal.

    Raises:
        ValueError: for an unknown order, shapes that differ, masses with NaN, or "inverse" with a share of 0.
    """
    if order not in get_args(MarginalOrder):
        raise ValueError(f"unknown order {order!r}: choose one of {', '.join(get_args(MarginalOrder))}")
    if marginal.ndim != 1 or marginal.shape != masses.shape:
        raise ValueError(
            f"expected marginal (K,) and masses (K,), got {tuple(marginal.shape)} and {tuple(masses.shape)}"
        )
    if masses.isnan().any():
        raise ValueError(f"masses must not be NaN, entry {int(masses.isnan().nonzero()[0])} is")
    if order == "none":
        return marginal.double()
    aligned = torch.empty_like(marginal, dtype=torch.float64)
    aligned[masses.argsort(descending=True, stable=True)] = marginal.double().sort(descending=True).values
    if order == "aligned":
        return aligned
    if not (aligned > 0).all():
        raise ValueError('order "inverse" divides by the shares, but one is 0: choose "aligned" or "none"')
    return aligned.reciprocal() / aligned.reciprocal().sum()


def _given(vector: Tensor, num_clusters: int) -> Tensor:
    if vector.shape != (num_clusters,):
        raise ValueError(f"expected a marginal vector (K,) = ({num_clusters},), got {tuple(vector.shape)}")
    sizes = vector.double()
    if not sizes.isfinite().all() or (sizes < 0).any() or not (sizes > 0).any():
        raise ValueError(f"a marginal vector must be finite, not negative and not all 0, got {sizes.tolist()}")
    return sizes / sizes.sum()


def _check_setting(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and not negative, got {value}")
