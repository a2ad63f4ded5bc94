"""What the last steps of Newton's method say about the Hessian, beyond what was summed of it.

Axes: K clusters.  The Hessian is exact in the large entries of the plan alone, and near the end it is kept for some
reads.  Where a step went by s and the gradient changed by y, the true one maps s to y.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Secants:
    """The last few steps and the changes of the gradient along them.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """Keep a step (K,) and the change (K,) of the gradient along it, unless the dual is straight along it."""
        if (step @ change).item() > 0:
            self._pairs = [*self._pairs, (step, change)][-self.most :]

    def clear(self) -> None:
        """Forget all steps: they were too far from here."""
        self._pairs = []

    def step(self, gradient: Tensor, newton: Callable[[Tensor], Tensor]) -> Tensor:
        """The step (K,) against a gradient (K,): the Newton step of the Hessian once it maps each s to its y.

        Args:
            gradient: of the dual.
            newton: the Newton step (K,) against any gradient, by the Hessian as it was summed.
        """
        # The two loops of limited-memory BFGS (Nocedal 1980), begun with Newton's step in place of a diagonal.
        shares = []
        for along, change in reversed(self._pairs):
            share = (along @ gradient) / (along @ change)
            shares.append(share)
            gradient = gradient - share * change
        step = newton(gradient)
        for (along, change), share in zip(self._pairs, reversed(shares), strict=True):
            step = step - (share + (change @ step) / (along @ change)) * along
        return step
