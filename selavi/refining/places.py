"""What a person decided about clusters, as something to learn: a place for each name, and for each cluster without one.

Two clusters of one name, or merged, are one place; a clip that was moved is known to be where it was moved to.

    clusters     0     1     2     3     4           clips    a.mp4 of cluster 3 moved to 0
    names        dog   -     dog   cat   rejected
    places       1     2     1     0     3           names of places: cat, dog, "" (cluster 1), "" (rejected)

Axes: N clips, P places.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selavi.errors import UsageError
from selavi.results.naming import REJECTED, HeadNames, Names, decision

NO_PLACE = -1


@dataclass(frozen=True)
class Places:
    """Where clips are to go.

    Attributes:
        names: of the P places, named ones first; "" for a cluster without a name.
        rejected: of the P places, whether it holds the rejected clusters.
        start: (N,) int64, the place of each clip's cluster.
        answers: (N,) int64, where a person put the clip itself; NO_PLACE where nobody did.
        turned_away: (N,) bool, clips that were rejected from their cluster, each by itself.
        num_unknown: decisions about clips that the run does not have.
    """

    names: list[str]
    rejected: list[bool]
    start: Tensor
    answers: Tensor
    turned_away: Tensor
    num_unknown: int = 0

    @property
    def is_answered(self) -> Tensor:
        """(N,) bool."""
        return self.answers != NO_PLACE

    @property
    def is_confirmed(self) -> Tensor:
        """(N,) bool, answers that leave a clip where its cluster is."""
        return self.answers == self.start

    def as_names(self, ids: Sequence[str], clusters: Tensor) -> Names:
        """The same decisions about head 0 of a run whose clusters are these places.

        All its heads have the same clusters, so head 0 is the one that pages show.  Names under each of them would let
        somebody decide one thing here and another there.

        Args:
            ids: of the N clips.
            clusters: (N,) the place that each clip has come to.
        """
        about_clusters = [decision(0, place, name) for place, name in enumerate(self.names) if name]
        about_clusters += [decision(0, place, rejected=True) for place, away in enumerate(self.rejected) if away]
        away = self.turned_away.nonzero()[:, 0].tolist()
        about_clips = [decision(0, int(clusters[row]), clip_id=ids[row], rejected=True) for row in away]
        return Names(about_clusters + about_clips)


def make_places(decisions: HeadNames, ids: Sequence[str], clusters: Tensor, answered: Collection[str] = ()) -> Places:
    """Turn decisions about one head into places.

    Args:
        decisions: about the head's clusters and clips.
        ids: of N clips.
        clusters: (N,) of the head, as the labelling gave them.
        answered: ids of clips whose cluster was somebody's answer already, in an earlier round.

    Raises:
        UsageError: fewer than two places are left, or a clip is said to have been in another cluster than it is in.
    """
    moved, num_unknown = _moves(decisions, ids, clusters)
    ends = sorted({int(cluster) for cluster in clusters} | {into for _, into in moved.values() if into != REJECTED})
    keys = {cluster: _key(decisions, cluster) for cluster in ends}
    order = {key: place for place, key in enumerate(sorted(set(keys.values())))}
    place_of = {cluster: order[key] for cluster, key in keys.items()}
    start = torch.tensor([place_of[int(cluster)] for cluster in clusters], dtype=torch.int64)
    answers, turned_away = torch.full_like(start, NO_PLACE), torch.zeros(len(ids), dtype=torch.bool)
    for row, clip_id in enumerate(ids):
        into = moved[clip_id][1] if clip_id in moved else None
        if into == REJECTED:
            turned_away[row] = True
        elif into is not None:
            answers[row] = place_of[into]
        elif clip_id in answered:
            answers[row] = start[row]
    kept = torch.unique(torch.cat([start, answers[answers != NO_PLACE]])).tolist()
    if len(kept) < 2:
        raise UsageError("all clips are in one place by these names; name at least two clusters, each with its own")
    renumbered = torch.full((len(order),), NO_PLACE).index_put((torch.tensor(kept),), torch.arange(len(kept)))
    given = list(sorted(order))
    return Places(
        [given[place][1] for place in kept],
        [given[place][0] == _REJECTED_LAST for place in kept],
        renumbered[start],
        torch.where(answers == NO_PLACE, answers, renumbered[answers.clamp(min=0)]),
        turned_away,
        num_unknown,
    )


_NAMED_FIRST, _THEN_UNNAMED, _REJECTED_LAST = range(3)


def _key(decisions: HeadNames, cluster: int) -> tuple[int, str, int]:
    """What clusters of one place have in common; in the order of places."""
    final = decisions.final(cluster)
    if final == REJECTED:
        return _REJECTED_LAST, "", 0
    name = decisions.name.get(final, "")
    return (_NAMED_FIRST, name, 0) if name else (_THEN_UNNAMED, "", final)


def _moves(decisions: HeadNames, ids: Sequence[str], clusters: Tensor) -> tuple[dict[str, tuple[int, int]], int]:
    """Decisions about single clips that the run has, and how many are about others."""
    rows = {clip_id: row for row, clip_id in enumerate(ids) if clip_id in decisions.clips}
    for clip_id, row in rows.items():
        was, cluster = decisions.clips[clip_id][0], int(clusters[row])
        if was != cluster:
            raise UsageError(
                f"the names say that {clip_id} was in cluster {was}, and this run has it in {cluster}; take the "
                "names.csv of this run's own page"
            )
    return {clip_id: decisions.clips[clip_id] for clip_id in rows}, len(decisions.clips) - len(rows)


def sizes_of(places: Places) -> np.ndarray:
    """(P,) float64 shares of the places: by the clips' clusters, and by answers where there are some."""
    current = torch.where(places.is_answered, places.answers, places.start)
    counts = np.bincount(current.numpy(), minlength=len(places.names)).astype(np.float64)
    return np.maximum(counts, 1) / np.maximum(counts, 1).sum()
