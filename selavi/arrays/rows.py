"""Rows of numbers that lie in a file and are read a block at a time."""

from typing import Protocol

import numpy as np


class Rows(Protocol):
    """(R, D) numbers."""

    num_rows: int
    num_dims: int

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Some rows (n,), in any order and any number of times -> (n, D) float32."""
        ...


class ArrayRows:
    """Rows of an array, which may be a memory map: only what is asked for is read.

    Args:
        values: (R, D) of floats or integers, in any byte order.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.num_rows, self.num_dims = values.shape

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read some rows (n,) -> (n, D) float32, from one end of the file to the other."""
        order = np.argsort(rows, kind="stable")
        values = np.empty((len(rows), self.num_dims), np.float32)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, which counts as no vector
            values[order] = self.values[rows[order]]
        return values
