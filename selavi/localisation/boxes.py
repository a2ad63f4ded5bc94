"""Maps of evidence and boxes that people drew, brought to the same grid: the square in the middle that the model sees.

frame  +--+--------+--+      the model sees the square of the shorter side in the middle;
|  | square |  |      boxes are drawn on the whole frame, of which only the square
+--+--------+--+      is compared: SIDE x SIDE cells
"""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F

from selavi.localisation.evidence import nearest_position, resize_positive

SIDE = 64
"""Cells along each side of the square."""
_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name,
    lambda name: PurePosixPath(name).stem,
)
"""The name of a clip: as it is, without its suffix, without its folders too."""


def places_of(names: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """Where clips are found that a list names: by the whole id, else without its suffix, else without its folders.

    Args:
        names: of n clips.
        ids: of N clips, all different.

    Returns:
        (n,) int64 place among the ids; -1 where there is none, or the shortened name is that of several.
    """
    places = np.full(len(names), -1, np.int64)
    for spell in _SPELLINGS:
        place_of: dict[str, int] = {}
        for place, clip_id in enumerate(ids):
            spelt = spell(clip_id)
            place_of[spelt] = -1 if spelt in place_of else place
        for number, name in enumerate(names):
            if places[number] < 0:
                places[number] = place_of.get(name, place_of.get(spell(name), -1))
    return places


def seen_square(truth: Callable[[int, int], np.ndarray], height: int, width: int) -> np.ndarray:
    """(SIDE, SIDE): the part of a truth that lies in the square.

    Args:
        truth: (h, w) -> the truth of the whole frame on so many cells.
        height: of the frame, in any unit.
        width: of the frame.
    """
    shorter = min(height, width)
    rows, columns = (max(SIDE, round(SIDE * length / shorter)) for length in (height, width))
    top, left = (rows - SIDE) // 2, (columns - SIDE) // 2
    return truth(rows, columns)[top : top + SIDE, left : left + SIDE]


def map_at(maps: np.ndarray, seen: Sequence[int], share: float) -> np.ndarray:
    """(SIDE, SIDE) float64: what is positive of a map of a window (T, h, w), at a moment of it, bilinear.

    Args:
        maps: (T, h, w).
        seen: (T, h, w) of the encoder's input, as selavi.localisation.evidence.input_shape gives it.
        share: of the window that has passed at that moment, in [0, 1].
    """
    nearest = nearest_position(share, len(maps), seen[0])
    return resize_positive(maps[nearest], seen[1:], SIDE, SIDE).astype(np.float64)


def frames_of(frames: np.ndarray) -> np.ndarray:
    """(T, SIDE, SIDE, channels) float32: the frames of a window (T, h, w, channels) on the same cells."""
    planes = torch.from_numpy(np.ascontiguousarray(frames)).float().movedim(3, 1)
    return F.interpolate(planes, (SIDE, SIDE), mode="bilinear", align_corners=False).movedim(1, 3).numpy()
