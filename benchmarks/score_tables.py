"""Score tables of many kinds, each a pure function of a seed: what the solver may meet, rather than what it likes.

`draw(seed)` draws the kind, the size, the spread, the precision and the marginal; `KINDS` and `MARGINALS` say of what.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_ENTRIES = 20_000_000
"""Of a table; a few are ten times as large, see draw."""
CLIPS = (1_000, 1_000_000)
CLUSTERS = (10, 3_000)
SPREADS = (0.02, 5.0)
"""Deviation of the logits, which the sharpness multiplies by 20."""


@dataclass(frozen=True)
class Drawn:
    """A table and the sizes that its clusters shall have."""

    name: str
    kind: str
    """One of KINDS."""
    sizes: str
    """One of MARGINALS."""
    scores: Tensor
    """(N, K) log-probabilities."""
    marginal: Tensor
    """(K,) float64."""


def normal(rng: torch.Generator, n: int, k: int) -> Tensor:
    """Independent normal logits."""
    return torch.randn(n, k, generator=rng)


def classes(rng: torch.Generator, n: int, k: int) -> Tensor:
    """Noise, and a class of each clip two deviations above it; classes of skewed sizes."""
    logits = torch.randn(n, k, generator=rng)
    logits[torch.arange(n), _own_classes(rng, n, k)] += 2
    return logits


def low_rank(rng: torch.Generator, n: int, k: int) -> Tensor:
    """Features around the centres of their classes, times the centres: what a linear head says."""
    rank = int(2 ** torch.randint(2, 8, (), generator=rng))
    centres = torch.randn(k, rank, generator=rng)
    own = _own_classes(rng, n, k)
    return (centres[own] + torch.randn(n, rank, generator=rng)) @ centres.T


def _own_classes(rng: torch.Generator, n: int, k: int) -> Tensor:
    """(n,) the class of each clip; sizes are skewed."""
    return torch.multinomial(torch.arange(1, k + 1).float() ** -0.7, n, replacement=True, generator=rng)


def student(rng: torch.Generator, n: int, k: int) -> Tensor:
    """Student's t of two degrees of freedom: tails without a variance."""
    chi = torch.rand(n, k, generator=rng).log_().neg_()  # half a chi-squared of two degrees
    return torch.randn(n, k, generator=rng) / chi.sqrt_()


def pareto(rng: torch.Generator, n: int, k: int) -> Tensor:
    """Pareto logits of index 1 to 3: a few entries are thousands of times the median."""
    index = 1 + 2 * torch.rand((), generator=rng)
    return (1 - torch.rand(n, k, generator=rng)).pow_(-1 / index)


def repeated(rng: torch.Generator, n: int, k: int) -> Tensor:
    """Each row some thirty times: clips that no solver can tell apart."""
    rows = torch.randn(max(1, n // 30), k, generator=rng)
    return rows[torch.randint(len(rows), (n,), generator=rng)]


def identity(rng: torch.Generator, n: int, k: int) -> Tensor:
    """One cluster a clip, in turn, and all others alike."""
    logits = torch.zeros(n, k)
    logits[torch.arange(n), torch.arange(n) % k] = 6.0
    return logits


def sparse(rng: torch.Generator, n: int, k: int) -> Tensor:
    """A handful of possible clusters a clip, the others far away."""
    far = torch.full((n, k), -8.0)
    near = torch.randint(k, (n, min(k, 5)), generator=rng)
    return far.scatter_(1, near, torch.randn(near.shape, generator=rng))


KINDS: dict[str, Callable[[torch.Generator, int, int], Tensor]] = {
    kind.__name__: kind for kind in (normal, classes, low_rank, student, pareto, repeated, identity, sparse)
}


def uniform(rng: np.random.Generator, k: int) -> np.ndarray:
    """All alike."""
    return np.ones(k)


def gaussian(rng: np.random.Generator, k: int) -> np.ndarray:
    """Sizes that vary by a tenth, as published."""
    return np.clip(1 + 0.1 * rng.standard_normal(k), 0.01, None)


def zipf(rng: np.random.Generator, k: int) -> np.ndarray:
    """One over the rank."""
    return 1 / np.arange(1, k + 1)


def exponential(rng: np.random.Generator, k: int) -> np.ndarray:
    """Sizes of a Dirichlet distribution of parameter 1."""
    return rng.exponential(size=k) + 1e-3


MARGINALS = {marginal.__name__: marginal for marginal in (uniform, gaussian, zipf, exponential)}
PRECISIONS = {"float32": 0.8, "float16": 0.1, "bfloat16": 0.1}


def draw(seed: int) -> Drawn:
    """Draw a table; one in twenty has ten times the entries."""
    rng = np.random.default_rng(seed)
    kind, sizes = str(rng.choice(list(KINDS))), str(rng.choice(list(MARGINALS)))
    precision = rng.choice(list(PRECISIONS), p=list(PRECISIONS.values()))
    most = MOST_ENTRIES * (10 if rng.random() < 0.05 else 1)
    k = _between(rng, *CLUSTERS)
    n = _between(rng, max(CLIPS[0], k), max(k, CLIPS[0], min(CLIPS[1], most // k)))
    spread = float(np.exp(rng.uniform(*np.log(SPREADS))))
    logits = KINDS[kind](torch.Generator().manual_seed(seed), n, k).mul_(spread)
    if kind == "low_rank":
        logits = logits.mul_(spread / logits.std())
    scores = logits.log_softmax(1)
    if precision != "float32":
        scores = scores.clamp_(min=-30_000).to(getattr(torch, precision))
    marginal = torch.from_numpy(MARGINALS[sizes](rng, k).astype(np.float64))
    name = f"{seed}: {kind}, {n:,} x {k:,}, spread {spread:.2g}, {sizes}, {precision}"
    return Drawn(name, kind, sizes, scores, marginal / marginal.sum())


def _between(rng: np.random.Generator, least: int, most: int) -> int:
    """Evenly in the logarithm."""
    return round(float(np.exp(rng.uniform(np.log(least), np.log(most)))))
