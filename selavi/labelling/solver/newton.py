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

Where scores are mild and clips few, scaling with Anderson's mixing needs fewer reads; where Newton makes no progress,
plain scaling is slow and sure.  Where short steps gain little, `secants` correct the Hessian; where the shortest gain
nothing, float32 is at its end and the rows are read in float64.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from selavi.labelling.solver.candidates import CandidateTable
from selavi.labelling.solver.dual import Dual, NewtonEquation, Sums
from selavi.labelling.solver.problem import marginal_error
from selavi.labelling.solver.secants import Secants
from selavi.labelling.solver.tables import Table


@dataclass(frozen=True)
class Tuning:
    """Numbers that decide how fast the search is, not what it finds.

    Steps are measured by their range (max - min over the clusters, in nats), because the dual is near its quadratic
    model over a few nats of any potential.  The values had nearly the fewest passes in total over golden, random and
    N = K tables.
    """

    sample_rows: int = 8192
    """A problem is first solved on every n-th row: this many rows in all, or ..."""
    sample_rows_per_cluster: int = 16
    """... this many times K."""
    sample_growth: int = 4
    """Each sample has this many times the rows of the one before, as long as it is a small part of all."""
    sample_error: float = 0.1
    """Tolerance of a sample, in units of the noise that the choice of its rows makes in the masses."""

    mild_spread: float = 7.0
    """Spread of the scaled scores (nats) up to which there is no continuation."""
    tail: float = 60.0
    """Nats of a score beyond what log-probabilities without a tail have, from which scaling is not tried first."""
    start_spread: float = 3.0
    """The spread at which the continuation begins, ..."""
    start_range: float = 30.0
    """... or earlier, where clips are few and the furthest score is this far from the mean of its row: a spread says
    nothing of tails."""
    sharpness_ratio: float = 2.5
    """From one stage of the continuation to the next."""
    advance_range: float = 8.0
    """Longest Newton step with which a stage may be left."""
    hard_spread: float = 40.0
    """Spread from which, with few rows a cluster, Newton converges over short ways only: ..."""
    warm_fraction: float = 0.7
    """... so that potentials of an earlier labelling begin at this fraction of the sharpness."""
    few_rows_per_cluster: int = 32
    """With fewer, and mild scores, a Hessian costs more than the passes that it saves."""

    max_step_range: float = 6.0
    """How far a cluster goes that nothing holds; a longer Newton step is cut to this, ..."""
    step_spreads: float = 0.5
    """... or to this many spreads of the scaled scores, where clips are many."""
    straight: float = 0.7
    """A slope that keeps this share of itself over a step is straight: the next step may be twice as long, ..."""
    least_step_range: float = 1.0
    """... and halves the way to where one overshot, down to this."""
    many_rows_per_cluster: int = 4
    """Rows a cluster from which clips are many."""
    chord_error: float = 3e-3
    """Marginal error below which the Hessian is kept, ..."""
    chord_largest: float = 0.1
    """... with no cluster whose own error is a larger share of it, ..."""
    chord_error_large: float = 1e-5
    """... and where it is not formed, so that it costs little more than the masses."""
    num_secants: int = 4
    """Last steps whose changes of the gradient correct the Hessian, ..."""
    secant_range: float = 0.5
    """... none of them as long as this (nats): over a long way the Hessian itself changes."""
    rounding_range: float = 1e-3
    """A step as short as this (nats) that does not halve the error ..."""
    rounding_error: float = 1e-5
    """... below this is at the end of what float32 resolves: the rows are read in float64 from there on."""
    max_backtracks: int = 20
    """Steps in a row that may be shortened."""
    max_singular: int = 20
    """Solves that may be repeated with more damping."""
    patience: int = 25
    """Passes of one stage without the error falling by 10 %."""

    warm_error: float = 0.5
    """Marginal error above which given potentials are worse than a cold start."""
    warm_passes: int = 8
    """Passes from given potentials after which a cold start is the better bet, ..."""
    warm_close: float = 0.03
    """... but with this error or less."""
    warm_patience: int = 5
    """Passes from given potentials without the error falling by 10 %: where clusters are far apart, the masses hardly
    answer to the potentials at the final sharpness, and only a continuation moves clips between them."""

    anderson_memory: int = 8
    """Earlier steps that are mixed."""
    anderson_range: float = 100.0
    """Longest mixed step (nats); a plain one takes the place of a longer one."""
    anderson_patience: int = 4
    """Passes without the error falling by half."""
    scaling_patience: int = 200
    """Scaling passes without the error falling by 1 %."""

    candidate_reads: int = 5
    """Reads after which, where clusters have a long way to go, each clip's likeliest clusters are taken, ..."""
    candidate_patience: int = 12
    """... or this many where the error at the final sharpness is below ..."""
    candidate_close: float = 0.02
    """... this."""
    num_candidates: int = 16
    """Clusters that are taken of each clip at first, ..."""
    first_share: float = 0.125
    """... or this share of the clusters where that is fewer; in the end at most ..."""
    last_share: float = 0.5
    """... this share, ..."""
    most_candidates: int = 1 << 20
    """... and as many of all clips of a process, which take some 120 MB."""
    fewest_candidates: int = 3
    """With fewer of a clip they are not worth while."""
    candidate_gain: float = 0.1
    """A round that leaves more of the error than this doubles their number for the next one."""
    candidate_ratio: float = 6.3
    """How much the sharpness rises in a round."""
    candidate_error: float = 1e-4
    """Error over the candidates with which a round is left that is not at the final sharpness."""
    candidate_rounds: int = 4
    """Rounds without the error falling by half."""


TUNING = Tuning()


class Level:
    """What the dual problem is solved on, and the best potentials so far.

    Args:
        table: the scores of all rows, of a sample, or of each clip's candidates.
        num_rows: of them, over all processes.
        share: of all scores, what a read of the table is counted as.
        tol: marginal error at which the level is solved, ...
        sharpness: ... at this sharpness.
        reserve: passes that are kept for what follows.
    """

    def __init__(
        self,
        table: Table | CandidateTable,
        num_rows: int,
        share: float,
        tol: float,
        sharpness: float,
        reserve: float = 0.0,
    ) -> None:
        self.table, self.num_rows, self.share, self.tol, self.sharpness = table, num_rows, share, tol, sharpness
        self.best: Tensor | None = None
        self.best_error = math.inf
        self.best_sums: Sums | None = None
        self.is_exact = False
        self.reserve = reserve
        self.num_reads = 0

    def make_exact(self) -> None:
        """Read the rows in float64 from now on."""
        self.table, self.is_exact = self.table.exact(), True

    def is_solved(self) -> bool:
        """Whether the error came down to the tolerance."""
        return self.best_error <= self.tol

    def note(self, potentials: Tensor, sums: Sums) -> None:
        """Keep the potentials if they are the best at the final sharpness."""
        if sums.error < self.best_error:
            self.best, self.best_sums, self.best_error = potentials, sums, sums.error


class Patience:
    """Runs out after some reads in which the error has not fallen below `factor` times what it was."""

    def __init__(self, reads: float, factor: float, now: float) -> None:
        self.reads, self.factor = reads, factor
        self.renew(now)

    def renew(self, now: float) -> None:
        """Begin anew, at a number of reads."""
        self.mark_error, self.mark_read = math.inf, now

    def is_out(self, error: float, now: float) -> bool:
        """Take note of an error; whether it has not fallen for too long."""
        if error < self.factor * self.mark_error:
            self.mark_error, self.mark_read = error, now
            return False
        return now - self.mark_read >= self.reads


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
                self._newton(start, 1.0, warm=True)
            if not self.level.is_solved():
                self._cold_start()
            start = self.level.best
        self.level = self.all_rows
        if start is not None and start is not warm:
            # The clips between two clusters of a sample are few: at the final sharpness they say little about all.
            is_mild = self.dual.overview.spread <= self.tuning.mild_spread
            fraction = 1.0 if is_mild else 1 / self.tuning.sharpness_ratio
            self._newton(self.dual.proportional(start, fraction), fraction)

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
        steps_up = self.dual.overview.spread > self.tuning.mild_spread
        if not steps_up and self.has_few_rows() and not self.has_tails():
            self._anderson(self.dual.start(1.0))
            if self.level.is_solved():
                return
        overview, tuning = self.dual.overview, self.tuning
        fraction = tuning.start_spread / overview.spread if steps_up else 1.0
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


class NewtonRun:
    """Damped Newton on one level, from a sharpness up to the final one.

    Attributes:
        potentials, sharpness: where the run stands.
        step: the step that led here at this sharpness; None after a change of the sharpness.
        slope, error, gradient: slope of the dual along that step, marginal error and gradient, at its start.
        largest_error: there, of a cluster, of its mass and its target together.
        damping: added to the Hessian's diagonal, in units of the masses; 0 where steps are good.
        curved: the last sums at this sharpness that came with a Hessian.
        secants: short steps that led here.
        is_slow: whether a step with an earlier Hessian gained less than a digit.
        is_far: whether a step was as long as one may be: clusters have a long way to go.
        has_resumed: whether candidates have been tried and did not help.
        stretch: longest step, in units of the usual one.
        room: from where the last step began to where one overshot (nats); inf where none did.
    """

    def __init__(self, search: Search, potentials: Tensor, sharpness: float, *, is_warm: bool) -> None:
        self.search, self.dual, self.tuning = search, search.dual, search.tuning
        self.potentials, self.sharpness, self.is_warm = potentials, sharpness, is_warm
        self.step: Tensor | None = None
        self.slope = 0.0
        self.error = 0.0
        self.gradient = torch.zeros_like(potentials)
        self.damping = 0.0
        self.curved: Sums | None = None
        self.secants = Secants(self.tuning.num_secants)
        self.is_slow = self.is_far = self.has_resumed = False
        self.stretch, self.room = 1.0, math.inf
        self.largest_error = 0.0
        self.num_backtracks = 0
        self.num_singular = 0
        self.reads_before = search.num_reads
        patience = self.tuning.warm_patience if is_warm else self.tuning.patience
        self.patience = Patience(patience * search.level.share, 0.9, search.num_reads)

    def run(self) -> None:
        """Step until the level is solved, or nothing helps any more."""
        while self.search.may_read():
            if self.hands_over():
                return
            sums = self._read()
            if self._is_solved(sums) or self._is_hopeless(sums):
                return
            if self._is_rounding(sums):
                self.search.level.make_exact()
                self.step = None
            elif self.patience.is_out(sums.error, self.search.num_reads):
                if self._is_final():
                    return
                # Nothing moves at this stage: see whether the final sharpness does better before giving up.
                self._go_to(self.potentials, self.search.level.sharpness)
                self.patience.renew(self.search.num_reads)
            elif self._has_overshot(sums):
                if self.num_backtracks == self.tuning.max_backtracks:
                    return
                self._back_up(sums)
            else:
                self._learn_length(sums)
                self._learn_curvature(sums)
                step = self._next_step(sums)
                if step is None:
                    return
                self._take(step, sums)

    def hands_over(self) -> bool:
        """Whether clusters have so long a way to go that they should go it over each clip's likeliest clusters."""
        search, tuning = self.search, self.tuning
        if self.is_warm or self.has_resumed or not self.is_far or self.dual.relaxed.any():
            return False
        if isinstance(search.level.table, CandidateTable) or search.most_candidates() < tuning.fewest_candidates:
            return False
        is_close = self._is_final() and self.error < tuning.candidate_close
        return search.level.num_reads >= (tuning.candidate_patience if is_close else tuning.candidate_reads)

    def resume(self) -> None:
        """Go on to the end from where this was handed over."""
        self.has_resumed = True
        self.patience.renew(self.search.num_reads)
        self.run()

    def _is_final(self) -> bool:
        return self.sharpness == self.search.level.sharpness

    def _read(self) -> Sums:
        """Read the rows here; near the end without a Hessian, while each step with an earlier one gains a digit."""
        if self.search.is_last_read() and not self._is_final():
            # The last pass must tell the error of what is returned.
            self._go_to(self.potentials, self.search.level.sharpness)
        tuning = self.tuning
        close = tuning.chord_error if self.dual.forms_hessian else tuning.chord_error_large
        is_close = self.error < close and self.largest_error < tuning.chord_largest
        reuse = self.curved is not None and self.step is not None and is_close and not self.is_slow
        sums = self.search.read(self.potentials, self.sharpness, curvature=not reuse)
        if reuse:
            self.is_slow = sums.error > 0.1 * self.error
        else:
            self.curved = sums
        return sums

    def _is_solved(self, sums: Sums) -> bool:
        return sums.error <= self.search.level.tol and self._is_final()

    def _is_hopeless(self, sums: Sums) -> bool:
        """Whether a cold start is the better bet."""
        if not self.is_warm:
            return False
        is_young = self.search.num_reads - self.reads_before < self.tuning.warm_passes * self.search.level.share
        return sums.error > (self.tuning.warm_error if is_young else self.tuning.warm_close)

    def _go_to(self, potentials: Tensor, sharpness: float) -> None:
        """Change the sharpness, and the potentials in proportion to it."""
        self.potentials = self.dual.proportional(potentials, sharpness / self.sharpness)
        self.sharpness, self.step = sharpness, None
        self.stretch, self.room = min(1.0, self.stretch), math.inf

    def _slope_here(self, sums: Sums) -> float:
        assert self.step is not None
        return (sums.gradient @ self.step).item()

    def _has_overshot(self, sums: Sums) -> bool:
        """Whether the last step went so far beyond the minimum along it that the error rose."""
        if self.step is None:
            return False
        return self._slope_here(sums) > 0.5 * abs(self.slope) and sums.error > self.error

    def _back_up(self, sums: Sums) -> None:
        """Shorten the last step to where the secant of its slopes is 0: the dual is convex along it."""
        # slope of the dual
        #     │                      ╱ slope_here
        #     │               ╱
        #   0 ┼────────╱──────────────
        #     │ ╱      ↑
        #     │ slope  fraction of the step
        assert self.step is not None
        self.num_backtracks += 1
        secant = abs(self.slope) / (abs(self.slope) + self._slope_here(sums))
        fraction = min(max(secant, 0.1), 0.7)
        self.stretch, self.room = min(1.0, self.stretch) * fraction, _length(self.step)
        self.potentials = self.potentials - (1 - fraction) * self.step
        self.step = fraction * self.step
        self.slope *= fraction
        self.damping = max(4 * self.damping, 1e-8)

    def _learn_length(self, sums: Sums) -> None:
        """How far the next step may go, from what became of the last one.

        Where no clip wavers about a cluster, its mass does not answer to its potential until the next clip comes over,
        which may be thousands of nats away.  Steps along a straight slope become longer until one overshoots, and then
        halve what is left of the way:
        """
        #   mass                              ┌──────
        #   of the     target  ─ ─ ─ ─ ─ ─ ─ ─│─ ─ ─
        #   cluster   ──●─●───●───────●───●─●─┘  ●
        #               1 2   3       4   6 7    5: overshot
        if self.step is None:
            return
        if self._slope_here(sums) < self.tuning.straight * self.slope:
            self.stretch *= 2
            self.room -= _length(self.step)
            if self.room < self.tuning.least_step_range * self._scale():
                # Up to where an earlier step overshot, this way is straight: that one went another way.
                self.room = math.inf
        else:
            self.stretch, self.room = min(1.0, 2 * self.stretch), math.inf

    def _learn_curvature(self, sums: Sums) -> None:
        """Correct the Hessian by the last step, if it was short and still gained less than a digit."""
        longest = self.tuning.secant_range * self._scale()
        if self.step is not None and _length(self.step) < longest and sums.error > 0.1 * self.error:
            self.secants.add(self.step, sums.gradient - self.gradient)
        else:
            self.secants.clear()

    def _is_rounding(self, sums: Sums) -> bool:
        """Whether the error is what rounding leaves: rows that are alike round alike, and their errors add up."""
        if self.step is None or not self._is_final() or self.search.level.is_exact:
            return False
        is_short = _length(self.step) < self.tuning.rounding_range * self._scale()
        return is_short and self.tuning.rounding_error > sums.error > 0.5 * self.error

    def _next_step(self, sums: Sums) -> Tensor | None:
        """The Newton step from here, with more damping where the system is singular; None where that does not help."""
        assert self.curved is not None
        if self.step is not None:  # it was a good one
            self.num_backtracks = 0
            self.damping = self.damping / 10 if self.damping > 1e-12 else 0.0
        usual = self.tuning.max_step_range if self.search.has_few_rows() else self._usual_length()
        reach = torch.full_like(sums.masses, usual)
        if self.curved.ways is not None:
            reach = self.curved.ways.clamp(min=self.tuning.max_step_range)
        reach = reach * max(1.0, self.stretch)
        step = self.search.equation.solve(sums, self.damping, self.curved, reach, self.secants)
        while step is None and self.num_singular < self.tuning.max_singular:
            self.num_singular += 1
            self.damping = max(10 * self.damping, 1e-10)
            step = self.search.equation.solve(sums, self.damping, self.curved, reach, self.secants)
        return step

    def _take(self, step: Tensor, sums: Sums) -> None:
        """Go on to the next stage if the step is short; else go at most as far as the quadratic model holds."""
        length = _length(step)
        if not self._is_final() and length <= self.tuning.advance_range:
            following = min(self.search.level.sharpness, self.sharpness * self.tuning.sharpness_ratio)
            self._go_to(self.potentials + step, following)
            self.patience.renew(self.search.num_reads)
            return
        longest = self._longest_step()
        # Where nothing holds a cluster, its own error lets it go so far and no further.
        self.is_far |= length > 0.9 * self.tuning.max_step_range
        if length > longest:
            step = self._shortened(step, longest, sums)
        self.step, self.error, self.gradient = step, sums.error, sums.gradient
        self.largest_error = (sums.gradient.abs() / (sums.masses + sums.target)).max().item()
        self.slope = self._slope_here(sums)
        self.potentials = self.potentials + step

    def _shortened(self, step: Tensor, longest: float, sums: Sums) -> Tensor:
        """A step of at most a given range, along which the dual falls.

        Where clusters are far apart, few of them have a long way to go, and the others shall not wait for these.
        """
        limit = torch.full_like(step, longest / 2)
        if sums.ways is not None:
            limit = limit.maximum(min(1.0, self.stretch) * sums.ways)
        cut = (step - step.median()).clamp(-limit, limit)
        falls = (sums.gradient @ cut).item() < 0
        return cut if falls else step * (longest / _length(step))

    def _longest_step(self) -> float:
        """How far the next step may go, by what became of the last ones."""
        usual = self._usual_length()
        longest = max(usual * self.stretch, min(usual, self.tuning.max_step_range))
        return min(longest, max(0.5 * self.room, self.tuning.least_step_range))

    def _scale(self) -> float:
        """What a nat is here: a relaxed target changes by as many as the potentials do in units of size_strength."""
        return min(1.0, self.dual.size_strength) if self.dual.relaxed.any() else 1.0

    def _usual_length(self) -> float:
        """Over which the dual is near its quadratic model: a few nats, or with many clips a part of their spread."""
        tuning, dual = self.tuning, self.dual
        longest = tuning.max_step_range
        if self.search.level.num_rows >= tuning.many_rows_per_cluster * len(dual.target):
            longest = max(longest, tuning.step_spreads * dual.overview.spread * self.sharpness / dual.sharpness)
        # A relaxed target changes by as many nats as the potentials do in units of size_strength.
        return min(longest, tuning.max_step_range * dual.size_strength) if dual.relaxed.any() else longest


def _length(step: Tensor) -> float:
    """Range of a step, in nats."""
    return (step.max() - step.min()).item()
