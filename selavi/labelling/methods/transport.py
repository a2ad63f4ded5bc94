"""Labels by optimal transport of the heads' scores, with given cluster sizes (SeLa, SeLaVi, P2OT)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from selavi.config import Config
from selavi.distributed import all_sum
from selavi.labelling.memory import describe_scores, score_bytes
from selavi.labelling.methods.interface import HeadLabels, HeadTask, Method
from selavi.labelling.solver.marginals import estimate_marginal, make_marginal, order_marginal
from selavi.labelling.solver.tables import Table
from selavi.labelling.solver.transport import assign
from selavi.labelling.votes import Votes
from selavi.randomness import mix


def begin(config: Config, votes: Votes) -> Callable[[HeadTask], HeadLabels]:
    """Heads share nothing: each is a problem of its own."""
    settings, num_clusters = config.labelling, config.heads.num_clusters

    def label(task: HeadTask) -> HeadLabels:
        scores = votes.scores(task.head)
        # A partial labelling has one more potential, which the bank does not keep.
        start = task.potentials if task.fraction == 1 else None
        result = assign(
            scores,
            _ordered_marginal(config, scores, task.head).to(scores.device),
            sharpness=settings.sharpness,
            tol=settings.tol,
            initial_potentials=None if start is None else start.to(scores.device),
            size_strength=settings.size_strength or math.inf,
            fraction=task.fraction,
            sum_ranks=all_sum,
        )
        potentials = result.potentials[:num_clusters]  # without that of being left out
        return HeadLabels(result.labels, result.num_passes, result.converged, result.marginal_error, potentials)

    return label


def marginal_of_head(config: Config, head: int) -> Tensor | None:
    """(K,) the shares that one head's clusters shall have, in no order; None where they are estimated."""
    settings = config.labelling
    if settings.marginal == "estimated":
        return None
    kind = settings.marginal
    return make_marginal(
        torch.tensor(kind, dtype=torch.float64) if isinstance(kind, list) else kind,
        config.heads.num_clusters,
        gaussian_sd=settings.gaussian_sd,
        zipf_exponent=settings.zipf_exponent,
        generator=torch.Generator().manual_seed(mix(config.seed, "marginal", head)),
    )


def _ordered_marginal(config: Config, scores: Table, head: int) -> Tensor:
    settings = config.labelling
    marginal = marginal_of_head(config, head)
    if marginal is not None and settings.marginal_order == "none":
        return marginal
    # How large the clusters are now: the probabilities' own masses, no sharpness, no potentials.
    masses = all_sum(scores.masses(torch.zeros(scores.num_clusters, device=scores.device).double(), 1.0))
    masses = masses / masses.sum()
    if marginal is None:
        return estimate_marginal(masses, settings.estimate_smoothing)
    return order_marginal(marginal.to(scores.device), masses, settings.marginal_order)


def describe_memory(config: Config, num_rows: int) -> str:
    """What the scores of a head hold."""
    num_voters = len(config.label_sets[0].voters)
    return describe_scores(num_rows, config.heads.num_clusters, num_voters, config.labelling.memory_gb)


def memory_bytes(config: Config, num_rows: int, num_features: int) -> float:
    """Most bytes that the scores of a head take."""
    num_voters = len(config.label_sets[0].voters)
    return score_bytes(num_rows, config.heads.num_clusters, num_voters, config.labelling.memory_gb)


METHOD = Method(begin, describe_memory=describe_memory, memory_bytes=memory_bytes)
