"""What the heads learn: the terms of a training step's loss, added.

`loss.kind` names the first one.  A further kind is a file here with its entry in OBJECTIVES, and its name in
selavi/config/sections.py; a term that comes beside the first is appended by make_terms.
"""

from collections.abc import Callable

from selavi.config import Config
from selavi.training.objectives import cross_entropy, mutual_information, neighbours
from selavi.training.objectives.term import Term

OBJECTIVES: dict[str, Callable[[Config], Term]] = {
    "cross_entropy": cross_entropy.make_term,
    "mutual_information": mutual_information.make_term,
    "neighbours": neighbours.make_term,
}


def make_terms(config: Config) -> list[Term]:
    """The terms of a run's loss."""
    return [OBJECTIVES[config.loss.kind](config)]
