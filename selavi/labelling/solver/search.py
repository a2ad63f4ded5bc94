"""The search for the potentials: Newton's method on the dual, and what stands in where it is not the best.

Newton's method converges in a few reads of all rows from near the optimum.  Three things bring it near:

- a sample.  Many rows are first solved on every n-th row, then on more of them, so that few reads of all are left;
- continuation.  Where the scores are far apart, the problem is first solved at a low sharpness, which then rises in
  stages.  A stage is left as soon as its Newton step is short:

      sharpness   s ────▶ 2.5 s ────▶ 6.25 s ────▶ ... ────▶ the final one
                  steps   steps       steps                  steps until the error is below the tolerance

- potentials of an earlier labelling.

Where a cluster is so far from the clips that its mass does not answer to its potential, the Hessian says nothing of
how far it has to go, and many steps are needed.  They are taken over each clip's likeliest clusters (`candidates`),
which are a small part of the scores; then all rows are read to see what that was worth, and to take the candidates
anew.  So each rise of the sharpness costs about one read of all rows:

      all rows     read ─┐          ┌─ read ─┐          ┌─ read: solved
      candidates         └─ steps ──┘        └─ steps ──┘

These small reads count, for each cluster, how many nats each clip is away (`gaps`), which gives the way after which
its mass would be right if all others stayed.  Several clusters that hang together may have to go further than each
alone: there steps grow until the mass answers.

Where scores are mild and clips few, or scores very mild and clusters few, scaling with Anderson's mixing takes less
time; where Newton makes no progress, plain scaling is slow and sure.  Where short steps gain little, `secants` correct
the Hessian; where the shortest gain nothing, float32 is at its end and the rows are read in float64.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from selavi.labelling.solver.candidates import CandidateTable
from selavi.labelling.solver.dual import Dual, NewtonEquation, Sums
from selavi.labelling.solver.level import Level, Patience
from selavi.labelling.solver.newton import NewtonRun
from selavi.labelling.solver.problem import marginal_error
from selavi.labelling.solver.tables import Table
from selavi.labelling.solver.tuning import TUNING


class Search:
    """Finds the potentials; they and their error are in `all_rows`.

    Args:
        dual: what is minimised.
        table: the scores of this process's rows.
        tol: marginal error at which to stop.
        max_passes: most reads of all rows.
    """

    def __init__(self, dual: Dual, table: Table, tol: float, max_passes: int) -> None:
        self.dual, self.max_passes, self.tuning = dual, max_passes, TUNING
        self.equation = NewtonEquation(dual)
        self.num_reads = 0.0
        self.num_candidate_reads = 0.0  # of num_reads
        self.num_hessians = 0
        self.level = self.all_rows = Level(table, dual.overview.num_rows, 1.0, tol, dual.sharpness)

    def run(self, initial_potentials: Tensor | None) -> None:
        """Try what is fast first, and what is sure in the end."""
        warm = self._warm_start(initial_potentials)
        if warm is not None:
            fraction = self.tuning.warm_fraction if self.is_hard() else 1.0
            self._newton(self.dual.proportional(warm, fraction), fraction, warm=True)
        if not self.all_rows.is_solved():
            self._by_samples(warm)
        if not self.all_rows.is_solved():
            self._cold_start()
        if not self.all_rows.is_solved():
            self._scaling(self.best())

    def _by_samples(self, warm: Tensor | None) -> None:
        """Solve ever larger samples, each from the potentials of the one before, and then all rows."""
        start = warm
        for stride in self._sample_strides():
            self.level = self._sample(stride)
            if start is not None:
                self._from_sample(start, 1.0, warm=True)
            if not self.level.is_solved():
                self._cold_start()
            start = self.level.best
        self.level = self.all_rows
        if start is not None and start is not warm:
            # The clips between two clusters of a sample are few: at the final sharpness they say little about all.
            is_mild = self.dual.overview.spread <= self.tuning.mild_spread
            self._from_sample(start, 1.0 if is_mild else 1 / self.tuning.sharpness_ratio)

    def _from_sample(self, start: Tensor, fraction: float, *, warm: bool = False) -> None:
        """Go on from the potentials of a sample, with Newton's method from a fraction of the sharpness."""
        if self.is_for_scaling():
            self._anderson(start)
        if not self.level.is_solved():
            self._newton(self.dual.proportional(start, fraction), fraction, warm=warm)

    def _warm_start(self, initial_potentials: Tensor | None) -> Tensor | None:
        if initial_potentials is None:
            return None
        start = initial_potentials.double()[self.dual.active]
        finite = start.isfinite()
        # A cluster that had no mass at the earlier labelling starts beside the one with the lowest potential.
        return torch.where(finite, start, start[finite].min()) if finite.any() else None

    def _sample_strides(self) -> list[int]:
        """Which rows to try first: every n-th, for falling n, each set a small part of the next."""
        tuning = self.tuning
        fewest = max(tuning.sample_rows, tuning.sample_rows_per_cluster * len(self.dual.full_target))
        largest = self.dual.overview.num_rows // fewest
        strides = [largest // tuning.sample_growth**i for i in range(12)]
        return [stride for stride in strides if stride >= tuning.sample_growth]

    def _sample(self, stride: int) -> Level:
        assert not isinstance(self.all_rows.table, CandidateTable)
        table = self.all_rows.table.sample(stride)
        num_rows = int(self.dual.sum_ranks(self.dual.target.new_tensor([float(table.num_rows)])).item())
        tol = self.tuning.sample_error * (len(self.dual.full_target) / num_rows) ** 0.5
        share = num_rows / self.dual.overview.num_rows
        return Level(table, num_rows, share, max(tol, self.all_rows.tol), self.dual.sharpness)

    def _cold_start(self) -> None:
        if self.is_for_scaling():
            self._anderson(self.dual.start(1.0))
            if self.level.is_solved():
                return
        overview, tuning = self.dual.overview, self.tuning
        fraction = tuning.start_spread / overview.spread if overview.spread > tuning.mild_spread else 1.0
        if self.has_few_rows():
            fraction = min(fraction, tuning.start_range / max(overview.furthest, tuning.start_range))
        self._newton(self.dual.start(fraction), fraction)

    def _newton(self, potentials: Tensor, fraction: float, *, warm: bool = False) -> None:
        """Newton's method from a fraction of the sharpness; a warm start is given up early."""
        run = NewtonRun(self, potentials, fraction * self.dual.sharpness, is_warm=warm)
        run.run()
        if run.hands_over() and not self.level.is_solved():
            self._by_candidates(run.potentials, run.sharpness)
            if not self.level.is_solved():
                run.resume()

    def _by_candidates(self, potentials: Tensor, sharpness: float) -> None:
        """Solve the problem over each clip's likeliest clusters, read all rows there, and so on.

        A round costs one read of all rows, and those of its candidates, which are counted by their share of a row.
        """
        dual, tuning, level = self.dual, self.tuning, self.level
        assert not isinstance(level.table, CandidateTable)
        fewer = max(tuning.fewest_candidates, int(tuning.first_share * len(dual.active)))
        num_candidates = min(tuning.num_candidates, fewer, self.most_candidates())
        patience = Patience(tuning.candidate_rounds, 0.5, 0)
        last_error, last_sharpness = math.inf, 0.0
        for num_rounds in itertools.count():
            if not self.may_read():
                return
            if self.is_last_read():
                # It must tell the error of what is returned.
                potentials = dual.proportional(potentials, level.sharpness / sharpness)
                sharpness = level.sharpness
            table = CandidateTable(level.table, dual.offsets(potentials), sharpness, num_candidates, dual.sum_ranks)
            sums = dual.slope(dual.sum_ranks(table.true_masses.clone()), potentials)
            self.num_reads += level.share
            is_final = sharpness == level.sharpness
            if is_final:
                level.note(potentials, sums)
            if level.is_solved() or (is_final and patience.is_out(sums.error, num_rounds)):
                return
            if sharpness == last_sharpness and sums.error > tuning.candidate_gain * last_error:
                num_candidates = min(2 * num_candidates, self.most_candidates())
            last_error, last_sharpness = sums.error, sharpness
            following = min(level.sharpness, tuning.candidate_ratio * sharpness)
            tol = max(0.1 * level.tol, 0.01 * sums.error) if is_final else tuning.candidate_error
            share = level.share * num_candidates / len(dual.full_target)
            self.level = Level(table, level.num_rows, share, tol, following, reserve=level.share)
            reads_before = self.num_reads
            NewtonRun(self, potentials, sharpness, is_warm=False).run()
            self.num_candidate_reads += self.num_reads - reads_before
            self.level, best = level, self.level.best
            if best is None:
                return
            potentials, sharpness = best, following

    def most_candidates(self) -> int:
        """How many clusters of each clip may be held and are worth while."""
        tuning = self.tuning
        per_row = tuning.most_candidates * self.dual.overview.num_ranks // self.level.num_rows
        return min(per_row, int(tuning.last_share * len(self.dual.active)))

    def has_few_rows(self) -> bool:
        """Whether a Hessian costs much compared with a pass."""
        return self.level.num_rows < self.tuning.few_rows_per_cluster * len(self.dual.target)

    def is_for_scaling(self) -> bool:
        """Whether scaling with Anderson's mixing is tried first: a Hessian would cost more than the reads it saves."""
        spread, tuning = self.dual.overview.spread, self.tuning
        if spread <= tuning.very_mild_spread and len(self.dual.active) <= tuning.dense_clusters:
            return True
        return spread <= tuning.mild_spread and self.has_few_rows() and not self.has_tails()

    def has_tails(self) -> bool:
        """Whether some score lies far out: alike log-probabilities are -log K."""
        alike = self.dual.sharpness * math.log(len(self.dual.full_target))
        return self.dual.overview.furthest > alike + self.tuning.tail

    def is_hard(self) -> bool:
        """Whether Newton converges over short ways only."""
        is_spread = self.dual.overview.spread > self.tuning.hard_spread
        return self.level is self.all_rows and is_spread and self.has_few_rows()

    def read(self, potentials: Tensor, sharpness: float, *, curvature: bool) -> Sums:
        """Read all rows of the level once, and keep the potentials if they are the best."""
        level = self.level
        sums = self.dual.read(level.table, level.num_rows, potentials, sharpness, curvature=curvature)
        self.num_reads += level.share
        level.num_reads += 1
        self.num_hessians += curvature and level is self.all_rows
        if sharpness == level.sharpness:
            level.note(potentials, sums)
        return sums

    def may_read(self) -> bool:
        """Whether another read is within max_passes."""
        return self.num_reads + self.level.share + self.level.reserve <= self.max_passes

    def is_last_read(self) -> bool:
        """Whether the next read is the last one."""
        return self.num_reads + 2 * self.level.share + self.level.reserve > self.max_passes

    def best(self) -> Tensor:
        """The potentials of the active clusters with the least error."""
        return self.dual.start(1.0) if self.all_rows.best is None else self.all_rows.best

    def masses(self) -> Tensor:
        """(K,) masses at the best potentials; 0 where nothing was read."""
        sums = self.all_rows.best_sums
        return self.dual.full_masses(torch.zeros_like(self.dual.target) if sums is None else sums.masses)

    def error(self) -> float:
        """L1 distance of the masses from their target, clusters that no clip may have included."""
        if self.dual.size_strength < math.inf:
            return self.all_rows.best_error
        return marginal_error(self.masses(), self.dual.full_target)

    def reason(self) -> str:
        """Why the tolerance was not met."""
        dual = self.dual
        unreachable = ((dual.full_target > 0) & ~dual.overview.reachable).nonzero()[:, 0].tolist()
        if unreachable:
            named = ", ".join(map(str, unreachable[:5])) + (", ..." if len(unreachable) > 5 else "")
            return f"{len(unreachable)} cluster(s) with a positive marginal are -inf for every clip: {named}"
        if self.num_reads > self.max_passes - 1:
            return f"max_passes = {self.max_passes} reads of all rows were not enough"
        return (
            "no step lowers the error any more: the clips' forbidden clusters leave no plan with these sizes, "
            "or the scores are too coarse for the tolerance"
        )

    def _anderson(self, potentials: Tensor) -> None:
        """Scaling, each step of it mixed with the last ones so that the residual is least (Anderson 1965).

        It is left where it stalls: Newton then takes over.
        """
        points: list[Tensor] = []
        residuals: list[Tensor] = []
        patience = Patience(self.tuning.anderson_patience * self.level.share, 0.5, self.num_reads)
        memory = self.tuning.anderson_memory
        weights = self.dual.target.sqrt()[:, None]
        while self.may_read():
            sums = self.read(potentials, self.dual.sharpness, curvature=False)
            if sums.error <= self.level.tol or patience.is_out(sums.error, self.num_reads):
                return
            points = [*points[-memory:], potentials]
            residuals = [*residuals[-memory:], self.dual.scaling_step(sums)]
            step = residuals[-1]
            if len(points) > 1:
                moves, changes = torch.stack(points, 1).diff(dim=1), torch.stack(residuals, 1).diff(dim=1)
                mix = torch.linalg.lstsq(weights * changes, weights * step[:, None]).solution
                step = step - ((moves + changes) @ mix)[:, 0]
            step = self.dual.agreed(step)
            if not bool((step.max() - step.min()) <= self.tuning.anderson_range):
                # The last steps hardly differ, so their mix is anything.
                points, residuals = [], []
                step = self.dual.scaling_step(sums)
            if not bool(step.isfinite().all()):
                return
            potentials = potentials + step

    def _scaling(self, potentials: Tensor) -> None:
        """Plain log-domain scaling at the final sharpness: slow, and monotone from any start."""
        patience = Patience(self.tuning.scaling_patience, 0.99, self.num_reads)
        while self.may_read():
            sums = self.read(potentials, self.dual.sharpness, curvature=False)
            if sums.error <= self.level.tol or patience.is_out(sums.error, self.num_reads):
                return
            potentials = potentials + self.dual.scaling_step(sums)
