"""The smooth convex dual of a labelling at one point: its slope, its curvature, and the Newton step from there.

Axes: N clips, K clusters.  In the K potentials g the dual is

    phi(g) = mean_n logsumexp_k(sharpness * scores[n, k] + g[k]) - <marginal, g>

Its gradient is ``masses - marginal``, where masses is the mean of the plan's rows, and its Hessian is
``diag(masses) - rows^T rows / N``.  The rows of the plan sum to 1, so the Hessian is the Laplacian of a graph whose
nodes are the clusters: two of them are coupled as strongly as clips waver between them.

                 k1    k2    k3
         k1  [  a+b   -a    -b  ]      off the diagonal: minus the coupling
         k2  [  -a    a+c   -c  ]      on it: the sum of the coupling of the row, so that rows sum to 0
         k3  [  -b    -c    b+c ]      (a constant added to all potentials changes nothing)

Everything that crosses rows is a K- or K x K-sized sum, which is all that processes have to exchange.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from selavi.labelling.solver.candidates import CandidateTable
from selavi.labelling.solver.gaps import GAP_BINS, ways
from selavi.labelling.solver.problem import Overview, Problem, SumRanks, marginal_error
from selavi.labelling.solver.secants import Secants
from selavi.labelling.solver.tables import MAX_DENSE_CLUSTERS, Curvature, LargeEntries, Table

CG_REDUCTION = 1e-6
"""Squared residual, in the preconditioner's norm, down to which conjugate gradients are taken."""
MAX_CG = 200
"""Most conjugate gradients of a step."""

_SMALLEST_DIAGONAL = 1e-14  # of the system, relative to the masses: keeps clusters without curvature solvable


class Sums(NamedTuple):
    """Sums over all rows at one point, for the active clusters; the same on every process but for `large`."""

    masses: Tensor
    """(K,) mean row of the plan."""
    target: Tensor
    """(K,) what the masses should be here."""
    gradient: Tensor
    """(K,) masses - target."""
    error: float
    """L1 norm of the gradient."""
    hessian: Tensor | None
    """(K, K) for few clusters, where the curvature was asked for."""
    tails: Tensor
    """(3, K) row sums of coupling that is known by them alone, see Curvature."""
    large: PlanEntries | None
    """For many clusters, where the curvature was asked for."""
    ways: Tensor | None
    """(K,) nats that each cluster has to go until its mass is right while all others stay, where gaps are counted."""


class PlanEntries:
    """This process's large entries of the plan, Q: the product ``Q^T Q v``.

    Args:
        entries: of this process's rows.
        num_clusters: K, active or not.
        num_rows: N of all processes.
    """

    def __init__(self, entries: LargeEntries, num_clusters: int, num_rows: int) -> None:
        self.entries, self.num_clusters, self.num_rows = entries, num_clusters, num_rows
        counts = entries.row_starts.diff()
        self.rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        self.num_own_rows = len(counts)

    def product(self, vector: Tensor) -> Tensor:
        """(K,) float64; compiled on a CPU, since conjugate gradients take a hundred of them."""
        if vector.device.type == "cpu":
            from selavi.labelling.solver.kernels import entries_product  # late, since Numba takes a second

            return torch.from_numpy(entries_product(*(part.numpy() for part in (*self.entries, vector))))
        _, clusters, values = self.entries
        along = vector.new_zeros(self.num_own_rows).index_add_(0, self.rows, values * vector[clusters])
        return self.columns(values * along[self.rows])

    def columns(self, values: Tensor) -> Tensor:
        """Sums of values, one for each entry, by cluster."""
        return values.new_zeros(self.num_clusters).index_add_(0, self.entries.clusters, values)


class Dual:
    """The dual over the active clusters, those of positive mass that some clip may have.

    Args:
        problem: what is asked.
        overview: of all rows.
        sum_ranks: adds over processes.

    Attributes:
        full_target: (K,) what the masses shall be, of all clusters.
        active: (A,) numbers of the active ones; every other tensor here is over them.
        target: (A,) their share of the target, sums to 1.
        relaxed: (A,) bool, whether this size may float.
        response: (A,) how much of a change of sizes the potentials make; a relaxed target makes the rest itself.
    """

    def __init__(self, problem: Problem, overview: Overview, sum_ranks: SumRanks) -> None:
        self.sharpness, self.size_strength = problem.sharpness, problem.size_strength
        self.overview, self.sum_ranks = overview, sum_ranks
        self.full_target = problem.target()
        self.active = ((self.full_target > 0) & overview.reachable).nonzero()[:, 0]
        self.target = self.full_target[self.active] / self.full_target[self.active].sum()
        self.log_target = self.target.log()
        relaxed = torch.zeros_like(self.full_target, dtype=torch.bool)
        relaxed[: problem.num_clusters] = problem.is_relaxed  # left-out mass is not: the fraction is kept
        self.relaxed = relaxed[self.active]
        share = self.size_strength / (1 + self.size_strength) if problem.is_relaxed else 1.0
        self.response = torch.where(self.relaxed, share, 1.0).to(self.full_target)

    @property
    def forms_hessian(self) -> bool:
        """Whether the clusters are so few that the Hessian is a matrix."""
        return len(self.full_target) <= MAX_DENSE_CLUSTERS

    def start(self, fraction: float) -> Tensor:
        """Potentials at a fraction of the sharpness that are right where all clips have the mean scores."""
        return self.response * (self.log_target - fraction * self.overview.column_means[self.active])

    def proportional(self, potentials: Tensor, ratio: float) -> Tensor:
        """The potentials moved in proportion to the sharpness, which is exact in the limit of hard plans."""
        base = self.response * self.log_target
        return base + (potentials - base) * ratio

    def scaling_step(self, sums: Sums) -> Tensor:
        """One round of scaling: the rows are exact by construction, and this moves the columns to their target."""
        return -self.response * (sums.masses / sums.target).log()

    def target_at(self, potentials: Tensor) -> Tensor:
        """What the masses should be at these potentials; the marginal itself unless it is relaxed."""
        if not self.relaxed.any():
            return self.target
        target = self.target.clone()
        logits = (self.log_target - potentials / self.size_strength)[self.relaxed]
        target[self.relaxed] = logits.softmax(0) * self.target[self.relaxed].sum()
        return target

    def full_potentials(self, potentials: Tensor) -> Tensor:
        """(K,) of all clusters, centred: -inf where the marginal is 0, 0 for a cluster that no clip may have."""
        full = torch.zeros_like(self.full_target).masked_fill(self.full_target == 0, -torch.inf)
        full[self.active] = potentials - (self.target * potentials).sum()
        return full

    def full_masses(self, masses: Tensor) -> Tensor:
        """(K,) of all clusters, 0 for those that are not active."""
        full = torch.zeros_like(self.full_target)
        full[self.active] = masses
        return full

    def agreed(self, step: Tensor) -> Tensor:
        """The mean of a step over processes, which may differ in its last bits: the same number on all."""
        return self.sum_ranks(step) / self.overview.num_ranks

    def read(
        self,
        table: Table | CandidateTable,
        num_rows: int,
        potentials: Tensor,
        sharpness: float,
        *,
        curvature: bool,
    ) -> Sums:
        """Read all rows of a table once, `num_rows` over all processes."""
        num_clusters = len(self.full_target)
        offsets = self.offsets(potentials)
        if not curvature:
            total = self.sum_ranks(table.masses(offsets, sharpness))
            return self.slope(total, potentials)
        own = table.curvature(offsets, sharpness)
        counts = own.masses.new_zeros(0) if own.gaps is None else own.gaps.flatten()
        parts = [own.masses, own.tails.flatten(), counts, own.pairs.flatten()]
        masses, tails, counts, pairs = self.sum_ranks(torch.cat(parts)).split([len(part) for part in parts])
        sums = self.slope(masses, potentials)
        sums = sums._replace(tails=tails.view(3, -1)[:, self.active] / num_rows)
        if len(counts):
            counts = counts.view(2, num_clusters, GAP_BINS)[:, self.active]
            sums = sums._replace(ways=ways(counts, sums.masses, sums.gradient, num_rows))
        return self._with_curvature(sums, own, pairs, num_rows)

    def offsets(self, potentials: Tensor) -> Tensor:
        """(K,) of all clusters, as tables take them: -inf for those that are not active."""
        offsets = torch.full_like(self.full_target, -torch.inf)
        offsets[self.active] = potentials
        return offsets

    def slope(self, masses: Tensor, potentials: Tensor) -> Sums:
        """Sums without curvature, of the masses (K,) of all clusters, in any unit."""
        masses = masses[self.active]
        masses = masses / masses.sum()  # takes away what rounding did to the sums of the rows
        target = self.target_at(potentials)
        error = marginal_error(masses, target)
        return Sums(masses, target, masses - target, error, None, masses.new_zeros(3, 0), None, None)

    def _with_curvature(self, sums: Sums, own: Curvature, pairs: Tensor, num_rows: int) -> Sums:
        num_clusters = len(self.full_target)
        if not self.forms_hessian:
            assert own.large is not None
            return sums._replace(large=PlanEntries(own.large, num_clusters, num_rows))
        coupling = pairs.view(num_clusters, num_clusters)
        if len(self.active) < num_clusters:
            coupling = coupling[self.active][:, self.active]
        return sums._replace(hessian=self._laplacian(sums, coupling.div_(num_rows)))

    def _laplacian(self, sums: Sums, coupling: Tensor) -> Tensor:
        """The Hessian, in the place of the coupling.

        Its diagonal is the sum of the coupling off it, which keeps all digits where the plan is almost hard.
        """
        for left, right, strength in self.low_rank(sums):
            coupling.addr_(left, right, alpha=strength)
            coupling.addr_(right, left, alpha=strength)
        coupling.fill_diagonal_(0.0)
        row_sums = coupling.sum(1)
        coupling.neg_()
        coupling.diagonal().copy_(row_sums)
        return coupling

    def low_rank(self, sums: Sums) -> list[tuple[Tensor, Tensor, float]]:
        """Coupling ``strength * (left right^T + right left^T)``: what small entries do, and what relaxed sizes do.

        Of small entries the row sums alone are known; the coupling is taken as proportional to them, which is exact
        where all rows of the plan are alike.
        """
        large, small, both_small = sums.tails
        terms = [(large, small, 1 / large.sum().item())] if large.sum() > 0 else []
        if both_small.sum() > 0:
            terms.append((both_small, both_small, 0.5 / both_small.sum().item()))
        if self.relaxed.any():
            weights = sums.target * self.relaxed
            terms.append((weights, weights, 0.5 / (self.size_strength * weights.sum().item())))
        return terms


@dataclass
class NewtonEquation:
    """Solves ``(Hessian + damping * diagonal) step = -gradient``; keeps the last undamped factor."""

    dual: Dual
    _factor_of: Sums | None = field(default=None, init=False)
    _factor: Tensor = field(init=False)
    _failed: Tensor = field(init=False)

    def solve(self, sums: Sums, damping: float, curved: Sums, reach: Tensor | float, secants: Secants) -> Tensor | None:
        """The step with the gradient of `sums` and the Hessian of `curved`; None where the system is singular.

        The secants correct the Hessian.

        A cluster that no clip wavers about has no curvature, and Newton's method would send it anywhere.  Its own error
        is its damping, which takes it `reach` nats (one number, or one for each) and no further; clusters that are
        coupled hardly feel theirs, and it fades with the error.
        """
        dual = self.dual
        diagonal = (damping + _SMALLEST_DIAGONAL) * (dual.target + curved.masses) + curved.gradient.abs() / reach

        def newton(gradient: Tensor) -> Tensor:
            if curved.large is not None:
                return conjugate_gradients(dual, gradient, curved, curved.large, diagonal)
            return self._cholesky(gradient, damping, curved, diagonal)

        step = dual.agreed(secants.step(sums.gradient, newton))
        return step if bool(step.isfinite().all()) else None

    def _cholesky(self, gradient: Tensor, damping: float, curved: Sums, diagonal: Tensor) -> Tensor:
        assert curved.hessian is not None
        if damping or self._factor_of is not curved:
            target = self.dual.target
            matrix = torch.addr(curved.hessian, target, target, alpha=_anchor(curved))
            matrix.diagonal().add_(diagonal)
            self._factor, self._failed = torch.linalg.cholesky_ex(matrix)
            self._factor_of = None if damping else curved
        step = torch.cholesky_solve(-gradient[:, None], self._factor)[:, 0]
        return torch.where(self._failed > 0, torch.nan, step)


def _anchor(sums: Sums) -> float:
    """How strongly <target, step> is held at 0, for a constant in the potentials changes nothing.

    Weaker than the damping, else all clusters would follow those that go far.
    """
    return 0.02 * sums.error + 1e-8


def conjugate_gradients(dual: Dual, gradient: Tensor, sums: Sums, large: PlanEntries, diagonal: Tensor) -> Tensor:
    """The Newton step where the Hessian is not formed: K-sized sums over the processes alone."""
    times, preconditioner = _hessian_product(dual, sums, large, diagonal)
    step = torch.zeros_like(gradient)
    residual = -gradient
    goal = CG_REDUCTION * (residual @ (preconditioner * residual)).item()
    direction = preconditioner * residual
    product = (residual @ direction).item()
    for _ in range(MAX_CG):
        moved = times(direction)
        curvature = (direction @ moved).item()
        if not curvature > 0:
            break
        step = step + (product / curvature) * direction
        residual = residual - (product / curvature) * moved
        following = (residual @ (preconditioner * residual)).item()
        if following <= goal:
            break
        direction = preconditioner * residual + (following / product) * direction
        product = following
    return step


def _hessian_product(
    dual: Dual, sums: Sums, large: PlanEntries, diagonal: Tensor
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Multiplication by the system's matrix, and one over its diagonal: (A,) -> (A,), and (A,)."""
    num_rows, num_clusters, anchor = large.num_rows, len(dual.full_target), _anchor(sums)

    def embed(vector: Tensor) -> Tensor:
        full = vector.new_zeros(num_clusters)
        full[dual.active] = vector
        return full

    ones = torch.ones(num_clusters, dtype=torch.float64, device=diagonal.device)
    own = torch.cat([large.product(ones), large.columns(large.entries.values.square())])
    row_sums, squares = (half[dual.active] for half in (dual.sum_ranks(own) / num_rows).chunk(2))
    # What else is coupled, and the anchor, is left @ right: a product for all terms together.
    terms, target = dual.low_rank(sums), dual.target
    columns = [strength * side for one, other, strength in terms for side in (one, other)]
    left = torch.stack([*columns, -anchor * target], 1)
    right = torch.stack([*(side for one, other, _ in terms for side in (other, one)), target])
    fixed = row_sums + diagonal + left[:, :-1] @ right[:-1].sum(1)

    def times(vector: Tensor) -> Tensor:
        coupled = dual.sum_ranks(large.product(embed(vector)))[dual.active] / num_rows
        return fixed * vector - coupled - left @ (right @ vector)

    preconditioner = fixed - squares - (left * right.T).sum(1)
    return times, 1 / preconditioner.clamp(min=1e-300)
