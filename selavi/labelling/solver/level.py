"""What the dual problem is solved on: all rows, a sample of them, or each clip's likeliest clusters."""

from __future__ import annotations

import math

from torch import Tensor

from selavi.labelling.solver.candidates import CandidateTable
from selavi.labelling.solver.dual import Sums
from selavi.labelling.solver.tables import Table


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
