"""Newton's method on the dual, damped, on one level: how long steps are, and what is learned from each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selavi.labelling.solver.candidates import CandidateTable
from selavi.labelling.solver.dual import Sums
from selavi.labelling.solver.level import Patience
from selavi.labelling.solver.secants import Secants

if TYPE_CHECKING:
    from selavi.labelling.solver.search import Search


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
