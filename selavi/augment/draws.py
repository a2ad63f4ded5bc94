"""Which of a clip's uniform numbers serves what.

Every clip comes with the same NUM_DRAWS numbers (ClipBatch.draws), whatever modalities a run has.  Each augmentation
names those that it reads, by their place among them; no place has two names, and a place keeps its meaning for ever:
equal seeds then give equal runs.

    0 to 8    video
    9 to 18   audio
    19, 20    features; 21 chooses one of several vectors of a clip where they are read
    22        seed of another view of the clip; 23 chooses one of its neighbours
    24 to 36  image
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from selavi.augment.hashing import uniforms
from selavi.batch import ClipBatch

_OTHER_VIEW, _WHICH = 22, 23


def named(draws: Tensor, places: Mapping[str, int]) -> dict[str, Tensor]:
    """The numbers of B clips, (B, NUM_DRAWS) -> (B,) each, by the names of an augmentation."""
    return {name: draws[:, place] for name, place in places.items()}


def other_view(batch: ClipBatch) -> ClipBatch:
    """The same clips, as they were decoded, with other numbers, which follow from those that they came with."""
    return replace(batch, draws=uniforms(batch.draws[:, _OTHER_VIEW], batch.draws.shape[1]))


def which_of(count: int, draws: Tensor) -> Tensor:
    """One of `count` for each of B clips, (B, NUM_DRAWS) -> (B,) int64."""
    return (draws[:, _WHICH].double() * count).long().clamp(max=count - 1)
