"""Vectors of clips that something else has made: files of many formats, read by id, a block of rows at a time."""

from selavi.arrays.rows import ArrayRows, Rows
from selavi.arrays.vectors import Selected, Vectors, open_vectors

__all__ = ["ArrayRows", "Rows", "Selected", "Vectors", "open_vectors"]
