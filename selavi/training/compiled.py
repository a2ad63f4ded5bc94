"""A function in the form that torch's compiler gives it, where the compiler can."""

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

from selavi.meter import say

P = ParamSpec("P")
R = TypeVar("R")


class Compiled(Generic[P, R]):
    """Compiles a function at its first call, for the shapes that it then has; as it is where that fails, said once.

    Args:
        function: what is compiled; what it changes, such as statistics of batch norm, it changes just so.
        name: for the message.
    """

    def __init__(self, function: Callable[P, R], name: str) -> None:
        self.function, self.name = function, name
        self.current: Callable[P, R] = torch.compile(function)
        self.has_run = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it."""
        try:
            result = self.current(*args, **kwargs)
        except Exception as error:
            if self.has_run or self.current is self.function:
                raise
            say(f"{self.name} cannot be compiled, and run as they are ({_first_line(error)}); trainer.compile=false")
            self.current = self.function
            return self.function(*args, **kwargs)
        self.has_run = True
        return result


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
