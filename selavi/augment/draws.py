"""Which of a clip's uniform numbers serves what.

Every clip comes with the same NUM_DRAWS numbers (ClipBatch.draws), whatever modalities a run has.  Each augmentation
names those that it reads, by their place among them; no place has two names, and a place keeps its meaning for ever:
equal seeds then give equal runs.

    0 to 8    video
    9 to 18   audio
    19, 20    features; 21 chooses one of several vectors of a clip where they are read
    22, 23    free
    24 to 36  image
"""

from collections.abc import Mapping

from torch import Tensor


def named(draws: Tensor, places: Mapping[str, int]) -> dict[str, Tensor]:
    """The numbers of B clips, (B, NUM_DRAWS) -> (B,) each, by the names of an augmentation."""
    return {name: draws[:, place] for name, place in places.items()}
