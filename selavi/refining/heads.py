"""Heads on frozen features that learn names: answers stay as they are, all other clips are labelled again and again.

Axes: N clips, H heads, P places, V views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from selavi.config import Config, make_label_sets
from selavi.labelling.features import FeatureTable
from selavi.labelling.rule import LabelRule
from selavi.labelling.solver.transport import assign
from selavi.labelling.votes import Votes
from selavi.randomness import mix
from selavi.refining.places import NO_PLACE, Places, sizes_of
from selavi.training.first.teacher import Teacher
from selavi.training.first.views import CachedViews
from selavi.training.refit import scaled_encoders

FIRST_SHARE = 0.2
"""Share of the steps in which the clusters that a person saw are learned as they are."""
SIZE_STEP = 0.1
"""How far the sizes of the places go towards what the heads see, at each labelling."""
ANSWERS_A_PLACE = 3
"""With so many answers a place all other clips are labelled again; with fewer a share, those most in doubt.

On AV-stamps all of them with 18 answers lost a third of what twelve names alone got right.
"""
SHARE_OF_ANSWERS = 0.5
"""Clips of a step that are drawn from the answers, over those drawn from all clips."""


class NamedHeads(Teacher):
    """Trains H heads for P places on cached features.

    After a first share of the steps each head's labels are renewed an epoch: by optimal transport of the joint scores
    of one view of each clip, with the sizes of the places, where a clip that a person put somewhere is a fixed row.
    Without such clips nothing says that a cluster is wrong, and its clips are learned as they are; with a few, most.

    Args:
        config: of the new run: H heads of P clusters.
        views: of the run's training clips.
        ids: of them.
        device: that trains.
        places: what to learn.
        fold_of: (N,) int64; head h does not learn the answers of fold h.  No fold (-1): it learns all.
    """

    def __init__(
        self,
        config: Config,
        views: CachedViews,
        ids: Sequence[str],
        device: torch.device,
        places: Places,
        fold_of: Tensor,
    ) -> None:
        what = "names" if (fold_of == -1).all() else "names, to see how sure they are"
        super().__init__(config, views, ids, device, lambda: None, scaled_encoders(views), what)
        self.places = places
        heads = torch.arange(config.heads.num_heads)
        self.is_fixed = places.is_answered[:, None] & (fold_of[:, None] != heads)
        answers, start = places.answers[:, None], places.start[:, None]
        self.bank.labels = torch.where(self.is_fixed, answers, start).int()
        self.bank.num_labellings = 1
        self.sizes = torch.from_numpy(sizes_of(places))
        self.answered = places.is_answered.nonzero()[:, 0]
        self.share_in_doubt = min(1.0, len(self.answered) / (ANSWERS_A_PLACE * len(places.names)))

    @property
    def labelling_steps(self) -> set[int]:
        """Those of a run after the first share; none without an answer."""
        if not len(self.answered):
            return set()
        return {step for step in super().labelling_steps if step >= FIRST_SHARE * self.num_steps}

    def _end(self) -> None:
        """The labels stay those of the last labelling."""
        self.model.eval()

    @torch.no_grad()
    def votes(self) -> Votes:
        """Plain votes of all branches about all clips that have one, by the mean features over a clip's views."""
        return self._votes(self._collect_mean(0))

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """A step's clips and their views, and some of those that a person put somewhere."""
        rows, views = super()._batch(step)
        if not len(self.answered):
            return rows, views
        generator = np.random.default_rng(mix(self.config.seed, self.what, "answers", step))
        count = max(1, round(SHARE_OF_ANSWERS * len(rows)))
        chosen = self.answered[torch.from_numpy(generator.integers(len(self.answered), size=count))]
        shown = torch.from_numpy(generator.integers(self.views.num_views, size=count))
        return torch.cat([rows, chosen]), torch.cat([views, shown])

    @torch.no_grad()
    def _label(self, collect: Callable[[int], FeatureTable]) -> None:
        """Renew the labels that no person gave, head by head."""
        self.model.eval()
        table = collect(self.bank.num_labellings)
        self.bank.num_labellings += 1
        sizes = self.sizes * len(self.bank.ids)
        seen = torch.zeros_like(sizes)
        everyone = self._votes(table)
        for head in range(self.config.heads.num_heads):
            fixed = self.is_fixed[:, head]
            fixed = fixed | self._at_home(everyone, head, int((~fixed).sum() * self.share_in_doubt))
            labels = torch.where(self.is_fixed[:, head], self.places.answers, self.places.start)
            self.bank.labels[fixed, head] = labels[fixed].int()
            taken = torch.bincount(labels[fixed], minlength=len(sizes))
            seen += taken
            if fixed.all():
                continue
            left = (sizes - taken).clamp(min=1)
            votes = self._votes(_only(table, ~fixed[table.index.cpu()]))
            scores = votes.scores(head)
            result = assign(
                scores,
                (left / left.sum()).to(self.device),
                sharpness=self.config.labelling.sharpness,
                tol=self.config.labelling.tol,
            )
            self.bank.labels[votes.clips.index.cpu(), head] = result.labels.cpu().int()
            seen += scores.masses(torch.zeros_like(result.potentials), float(len(votes.voters))).cpu()
        self.sizes = (1 - SIZE_STEP) * self.sizes + SIZE_STEP * seen / seen.sum()
        self.model.train()

    def _at_home(self, votes: Votes, head: int, num_in_doubt: int) -> Tensor:
        """(N,) bool, all clips but the `num_in_doubt` of whose clusters the heads are least sure."""
        if num_in_doubt >= len(self.bank.ids) - len(self.answered):
            return torch.zeros(len(self.bank.ids), dtype=torch.bool)
        certainty = torch.full((len(self.bank.ids),), torch.inf)
        for rows, scores in votes.scores(head).blocks():
            clips = votes.clips.index[rows].cpu()
            certainty[clips] = scores.float().cpu().log_softmax(1).gather(1, self.places.start[clips, None])[:, 0]
        certainty[self.is_fixed[:, head]] = torch.inf
        at_home = torch.ones(len(self.bank.ids), dtype=torch.bool)
        at_home[certainty.argsort(stable=True)[:num_in_doubt]] = False
        return at_home

    def _votes(self, table: FeatureTable) -> Votes:
        config = self.config
        together = make_label_sets("joint", config.branches, config.heads.num_heads)[0]
        return Votes(
            table.with_any(together.voters),
            together.voters,
            config.branch_weights,
            num_clips=len(self.bank.ids),
            num_clusters=config.heads.num_clusters,
            memory_gb=config.labelling.memory_gb,
            head_logits=self.model.logits,
            rule=LabelRule.plain(config.heads.num_heads, config.heads.num_clusters),
            columns=together.voting_columns,
        )


def _only(table: FeatureTable, kept: Tensor) -> FeatureTable:
    """Some clips of a table whose features are kept."""
    features: Mapping[str, Tensor] = table.whole
    return FeatureTable(
        table.index[kept],
        {name: values[kept] for name, values in features.items()},
        {name: present[kept] for name, present in table.present.items()},
    )


def folds_of_answers(places: Places, num_heads: int, seed: int) -> Tensor:
    """(N,) for each answer the head that does not learn it, as even as can be; NO_PLACE for other clips."""
    answered = places.is_answered.nonzero()[:, 0]
    order = np.random.default_rng(mix(seed, "folds of answers")).permutation(len(answered))
    folds = torch.full_like(places.answers, NO_PLACE)
    folds[answered] = torch.from_numpy(order % num_heads)
    return folds
