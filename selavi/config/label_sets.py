"""Who labels and who learns: the label sets of a run, and the columns of the label bank that hold them.

With H heads, by `labelling.source`:

    source    voting set       learning set     bank columns of the labels
    joint     video, audio     video, audio     0 to H - 1
    concat    concat           concat           0 to H - 1
    own       video            video            0 to H - 1
              audio            audio            H to 2H - 1
    cross     video            audio            H to 2H - 1
              audio            video            0 to H - 1
    a name    that modality    video, audio     0 to H - 1

A bank column belongs to the heads that learn it.  The potentials of a plan belong to the scores of the heads that vote,
and so lie in the voting set's own columns.  Under cross with more than two modalities the others together label each:

    cross     b, c             a                0 to H - 1
              a, c             b                H to 2H - 1
              a, b             c                2H to 3H - 1

and as no column is that of several voters' own heads, the potentials lie where the labels do.
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
        source: labelling.source; the name of a branch: that one labels for all.
        branches: what has heads of its own, or features where the method reads those.
        num_heads: H.
    """
    names = tuple(branches)
    if source not in ("own", "cross"):
        columns = range(num_heads)
        return (LabelSet((source,) if source in names else names, names, columns, columns),)
    own = {name: range(first * num_heads, (first + 1) * num_heads) for first, name in enumerate(names)}
    if source == "own" or len(names) == 1:
        return tuple(LabelSet((name,), (name,), own[name], own[name]) for name in names)
    if len(names) == 2:
        return tuple(LabelSet((name,), (other,), own[name], own[other]) for name, other in (names, names[::-1]))
    others = {name: tuple(other for other in names if other != name) for name in names}
    return tuple(LabelSet(others[name], (name,), own[name], own[name]) for name in names)
