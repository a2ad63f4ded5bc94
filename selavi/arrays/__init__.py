"""Vectors of clips that something else has made: files of many formats, read by id, a block of rows at a time."""

from selavi.arrays.rows import ArrayRows, Rows
from selavi.arrays.vectors import Vectors, open_vectors

__all__ = ["ArrayRows", "Rows", "Vectors", "open_vectors"]
