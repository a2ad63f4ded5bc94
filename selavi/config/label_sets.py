"""Who labels and who learns: the label sets of a run, and the columns of the label bank that hold them.

With H heads, by `labelling.source`:

    source    voting set       learning set     bank columns of the labels
    joint     video, audio     video, audio     0 to H - 1
    concat    concat           concat           0 to H - 1
    own       video            video            0 to H - 1
              audio            audio            H to 2H - 1
    cross     video            audio            H to 2H - 1
              audio            video            0 to H - 1

A bank column belongs to the heads that learn it.  The potentials of a plan belong to the scores of the heads that vote,
and so lie in the voting set's own columns.  Under cross with more than two modalities each learns from the next one in
their order, the last one from the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelSet:
    """The labels that one voting set makes and one learning set learns."""

    voters: tuple[str, ...]
    """The branches whose heads, or whose features, make the labels together."""
    learners: tuple[str, ...]
    """The branches whose heads learn them."""
    voting_columns: range
    """The bank columns that the voters' own heads learn, by number of the head: their potentials lie there."""
    learning_columns: range
    """The bank columns that the labels go to, by number of the head."""


def make_label_sets(source: str, branches: Sequence[str], num_heads: int) -> tuple[LabelSet, ...]:
    """The label sets of a run, in the order of their voters.

    Args:
        source: labelling.source.
        branches: what has heads of its own, or features where the method reads those.
        num_heads: H.
    """
    separate = source in ("own", "cross")
    groups = [(name,) for name in branches] if separate else [tuple(branches)]
    columns = [range(first * num_heads, (first + 1) * num_heads) for first in range(len(groups))]
    # Group i votes for itself, or under cross for the one before it, which so learns from the next one.
    step = -1 if source == "cross" else 0
    return tuple(
        LabelSet(
            voters=voters,
            learners=groups[(voting + step) % len(groups)],
            voting_columns=columns[voting],
            learning_columns=columns[(voting + step) % len(groups)],
        )
        for voting, voters in enumerate(groups)
    )
