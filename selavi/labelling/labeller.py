"""One labelling of all clips: features -> a labelling method -> label bank (SeLaVi, section 3).

SeLaVi's relatives differ in two settings.  `labelling.source` says whose features make a label and who learns it (the
label sets, selavi/config/label_sets.py); `labelling.method` says how (selavi/labelling/methods):

    joint, transport    SeLaVi; of one modality SeLa      own, kmeans     DeepCluster (each modality alone)
    concat, transport   SeLa on concatenated features     cross, kmeans   XDC
    own, transport      a SeLa for each modality          concat, kmeans  XDC's variant on concatenated features
    cross, transport    XDC with SeLa's labels          own, cliques    CliqueCNN
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selavi.config import Config, LabelSet, make_label_sets
from selavi.distributed import all_sum, fail_together, gather_rows, rank, world_size
from selavi.labelling.alignment import align_all
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import FeatureTable
from selavi.labelling.methods import METHODS
from selavi.labelling.methods.interface import HeadLabels, HeadTask
from selavi.labelling.probe import probe_scores
from selavi.labelling.race import Race, mean_race, measure_race
from selavi.labelling.rule import LabelRule
from selavi.labelling.schedule import labelled_fraction
from selavi.labelling.statistics import ClipStatistics, describe_votes, empty_statistics, read_statistics
from selavi.labelling.votes import HeadLogits, Votes
from selavi.randomness import mix
from selavi.runs.stored import read_shared
from selavi.shared_tensor import Shared, share, wait_for_all

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class LabellingReport:
    """What a labelling did, over all heads."""

    number: int
    num_passes: int
    """Most passes that a head needed."""
    marginal_error: float | None
    """Largest of the heads; None where the method promises no sizes."""
    converged: bool
    used_clusters: float
    """Mean over heads of the clusters that hold a clip."""
    churn: float
    """Share of (clip, head) pairs whose label changed; nan the first time."""
    seconds: float
    race: Race
    """Mean over heads."""
    keeps_first: bool = False
    """Whether the labels that were given first are kept, because a modality has not learned them yet."""
    least_learned: float = float("nan")
    """How far that one agrees with them: 0 by chance, 1 for all of them; nan where nobody asked."""
    num_unseen: int = 0
    """Clips that kept their labels because no step of this epoch and the one before had them."""


@dataclass(frozen=True)
class HeadReport:
    """What labelling one head did."""

    num_passes: int
    marginal_error: float | None
    converged: bool
    race: Race


class Draft:
    """Labels, rule and statistics of a labelling under way, of all ranks' clips; the bank is as it was until the end.

    A label is -2 until the clip's features have come, then -1 until somebody labels it.  The processes of a machine
    hold the labels together, and one of them writes: every process makes, takes up and hands over a draft, and what
    `gather` gives the others is empty.
    """

    def __init__(self, bank: LabelBank, statistics_in: Path | None = None, saved: Shared | None = None) -> None:
        """Begin.

        Args:
            bank: of the clips and heads.
            statistics_in: of a last labelling, the run's folder: where large statistics lie.
            saved: labels of a draft that is taken up.
        """
        labels = saved or share(torch.tensor(-2, dtype=bank.labels.dtype).expand(bank.labels.shape))
        self.labels, self._writes = labels.values, labels.is_writer
        self.rule = deepcopy(bank.rule)
        self.probe = torch.full_like(bank.probe, torch.nan)
        # (4, N, H), which the first process alone keeps: it writes them down.
        self.statistics: Tensor | None = None
        if statistics_in is not None and rank() == 0:
            num_clips, num_heads = bank.labels.shape
            self.statistics = empty_statistics(num_clips, num_heads, statistics_in)
        self.heads: list[HeadReport] = []
        self.num_groups = 0  # of heads, that are done
        self.keeps_first = False
        self.least_learned = float("nan")
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Everything, fit for torch.load(weights_only=True)."""
        return {
            "labels": self.labels,
            "probe": self.probe,
            "statistics": self.statistics,
            "heads": [asdict(head) for head in self.heads],
            "num_groups": self.num_groups,
            "keeps_first": self.keeps_first,
            "least_learned": self.least_learned,
            "seconds": self.seconds,
            **self.rule.tensors(),
        }

    @classmethod
    def from_state(cls, bank: LabelBank, state: Mapping[str, Any], folder: Path) -> Draft:
        """Take up a saved draft, whose labels and statistics may still lie in a file; `folder` is the run's.

        Raises:
            UsageError: a process cannot read them.
        """
        draft = cls(bank, saved=read_shared({"labels": state["labels"]})["labels"])
        draft.probe = state["probe"]
        with fail_together():
            if state["statistics"] is not None and rank() == 0:
                draft.statistics = read_statistics({"all": state["statistics"]}, folder)["all"]
        draft.rule = LabelRule.from_tensors(state)
        draft.heads = [HeadReport(**head | {"race": Race.from_dict(head["race"])}) for head in state["heads"]]
        draft.num_groups, draft.seconds = state["num_groups"], state["seconds"]
        draft.keeps_first, draft.least_learned = state["keeps_first"], state["least_learned"]
        return draft

    def gather(self, values: Tensor) -> Tensor:
        """The (n, ...) values of all ranks, on the host, if this process writes them down; if not, none of them."""
        every = gather_rows(values)
        return (every if self._writes else every[:0]).cpu()

    def note_collected(self, rows: Tensor, columns: list[int]) -> None:
        """Note that the features of some clips have come, for some columns."""
        self.labels[rows[:, None], torch.tensor(columns)] = -1

    def put(self, rows: Tensor, column: int, labels: Tensor) -> None:
        """Write the labels (n,) of some clips."""
        self.labels[rows, column] = labels.to(self.labels.dtype)

    def fill(self, rows: Tensor, column: int, guesses: Tensor) -> None:
        """Write the labels (n,) of those among some clips that have none."""
        labels = self.labels[rows, column]
        self.labels[rows, column] = torch.where(labels < 0, guesses.to(labels.dtype), labels)

    def keep(self, columns: list[int], bank: LabelBank) -> None:
        """Leave all clips the labels that they have in some columns."""
        if self._writes:
            for column in columns:
                self.labels[:, column] = bank.labels[:, column]

    def keep_unseen(self, bank: LabelBank) -> int:
        """Leave clips whose features have not come the labels that they have; return how many clips that are."""
        wait_for_all()
        num_unseen = sum(int((some == -2).any(1).sum()) for some in self.labels.split(_BLOCK_ROWS))
        wait_for_all()  # with the count
        if self._writes:
            for new, old in self._beside(bank):
                new.copy_(torch.where(new == -2, old, new))
        return num_unseen

    def hand_over(self, bank: LabelBank) -> float:
        """Make the labels those of the bank; return the share of those before that changed, nan without any."""
        wait_for_all()
        num_before, num_changed = 0, 0
        for new, old in self._beside(bank):
            assert (new >= -1).all(), "a clip was left without a label"
            had = old >= 0
            num_before += int(torch.count_nonzero(had))
            num_changed += int(torch.count_nonzero((new != old) & had))
        churn = num_changed / num_before if num_before else float("nan")
        bank.labels, bank.rule, bank.probe = self.labels, self.rule, self.probe
        bank.num_labellings += 1
        return churn

    def _beside(self, bank: LabelBank) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of the labels, (n, H), and of those of the bank: what is made of all at once takes as much again."""
        return zip(self.labels.split(_BLOCK_ROWS), bank.labels.split(_BLOCK_ROWS), strict=True)


class Labeller:
    """Labels every clip under every head; the only writer of the label bank.

    Attributes:
        draft: the labelling that is under way, or that was when an error ended it; `relabel` goes on with it after the
            last group of heads that is done.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.method = METHODS[config.labelling.method]
        self.draft: Draft | None = None

    def head_groups(self, number: int) -> list[list[int]]:
        """Split the heads at random, anew for each labelling; every group sees a view of its own."""
        generator = np.random.default_rng(mix(self.config.seed, "heads", number))
        order = generator.permutation(self.config.heads.num_heads).tolist()
        num_groups = self.config.labelling.head_groups
        return [order[group::num_groups] for group in range(num_groups)]

    def relabel(
        self,
        bank: LabelBank,
        collect: Callable[[int], FeatureTable],
        head_logits: HeadLogits,
        permute_clusters: Callable[[str, int, Tensor], None],
        statistics: bool = False,
    ) -> tuple[LabellingReport, ClipStatistics | None]:
        """Renew the bank.

        Args:
            bank: where the labels go, the same on every rank afterwards.
            collect: pass number -> features of this rank's clips, from views that belong to that number; called before
                each group of heads, when the draft is whole.
            head_logits: applies the heads.
            permute_clusters: (branch, head, permutation) reorders the outputs of one head; called before the
                first labelling, for every branch but the first, where branches vote together.
            statistics: also return, to the first process, how confident each label is, and score the heads by probe;
                every clip is then labelled, whatever the fraction, and one that lacks the modality that labels gets
                what the heads of the other one say.
        """
        number, settings = bank.num_labellings, self.config.labelling
        fraction = 1.0 if statistics else labelled_fraction(number, settings.num_labellings, settings.fraction)
        draft = self.draft = self.draft or Draft(bank, Path(self.config.run_dir) if statistics else None)
        groups = self.head_groups(number)
        while draft.num_groups < len(groups):
            began = time.monotonic()
            # Nothing here may keep the clips: those of the next group take as much memory again.
            heads, pass_number = groups[draft.num_groups], number * settings.head_groups + draft.num_groups
            self._label_group(
                heads, collect(pass_number), fraction, bank, draft, head_logits, permute_clusters, statistics=statistics
            )
            draft.num_groups += 1
            draft.seconds += time.monotonic() - began
        num_unseen = draft.keep_unseen(bank) if settings.features == "kept" else 0
        churn = draft.hand_over(bank)
        bank.keeps_first = draft.keeps_first
        self.draft = None
        if self.method.weigh is not None:
            bank.weights = self.method.weigh(bank.labels, self.config.heads.num_clusters)
        kept = draft.statistics if statistics else None
        return _report(number, draft, churn, num_unseen), None if kept is None else ClipStatistics(*kept)

    def _label_group(
        self,
        heads: list[int],
        clips: FeatureTable,
        fraction: float,
        bank: LabelBank,
        draft: Draft,
        head_logits: HeadLogits,
        permute_clusters: Callable[[str, int, Tensor], None],
        *,
        statistics: bool,
    ) -> None:
        """Label every clip under some heads; see relabel."""
        rows = draft.gather(clips.index)
        if bank.num_labellings == 0 and any(map(self._aligns, self.config.label_sets)):
            # All branches at once: under cross a head votes in several sets.
            together = make_label_sets("joint", self.config.branches, self.config.heads.num_heads)[0]
            everyone = self._votes(clips.with_any(together.voters), together, draft, head_logits)
            _align(everyone, heads, permute_clusters)
        keeps = bank.keeps_first and not statistics and self._keep_first(clips, heads, bank, draft, head_logits)
        for label_set in () if keeps else self.config.label_sets:
            draft.note_collected(rows, [label_set.learning_columns[head] for head in heads])
            votes = self._votes(clips.with_any(label_set.voters), label_set, draft, head_logits)
            labelled = self._label(votes, label_set, heads, fraction, bank, draft)
            for head, result in zip(heads, labelled, strict=True):
                race = measure_race(votes, head, label_set.learners, result.labels)
                draft.heads.append(HeadReport(result.num_passes, result.marginal_error, result.converged, race))
        if statistics:
            for label_set in self.config.label_sets:
                votes = self._votes(clips, label_set, draft, head_logits)
                self._describe(votes, label_set, heads, draft)
            if self.config.has_comparable_heads:
                wait_for_all()
                labels = draft.labels[clips.index.cpu()][:, heads].long()
                draft.probe[heads] = probe_scores(clips, labels, self.config.heads.num_clusters)

    def _votes(self, clips: FeatureTable, label_set: LabelSet, draft: Draft, head_logits: HeadLogits) -> Votes:
        return Votes(
            clips,
            label_set.voters,
            self.config.branch_weights,
            num_clips=len(draft.labels),
            num_clusters=self.config.heads.num_clusters,
            memory_gb=self.config.labelling.memory_gb,
            head_logits=head_logits,
            rule=draft.rule,
            columns=label_set.voting_columns,
        )

    def _keep_first(
        self, clips: FeatureTable, heads: list[int], bank: LabelBank, draft: Draft, head_logits: HeadLogits
    ) -> bool:
        """Leave a group's labels as they are while a modality has not learned them; return whether they are kept.

        The first group of heads decides for all.
        """
        if draft.num_groups and not draft.keeps_first:
            return False
        columns, races = list[int](), list[Race]()
        for label_set in self.config.label_sets:
            votes = self._votes(clips.with_any(label_set.learners), label_set, draft, head_logits)
            index = votes.clips.index.cpu()
            for head in heads:
                column = label_set.learning_columns[head]
                columns.append(column)
                races.append(measure_race(votes, head, label_set.learners, bank.labels[index, column].long()))
        if not draft.num_groups:
            draft.least_learned = _least_learned(races, bank.labels[:, columns])
            draft.keeps_first = draft.least_learned < self.config.labelling.first_learned
        if draft.keeps_first:
            draft.keep(columns, bank)
            draft.heads += [HeadReport(0, None, True, race) for race in races]
        return draft.keeps_first

    def _aligns(self, label_set: LabelSet) -> bool:
        """Whether heads that vote together must come to name the same clusters first."""
        has_plan = self.config.labelling_method.has_plan
        return has_plan and self.config.labelling.align_modalities and len(label_set.voters) > 1

    def _equalises(self, label_set: LabelSet) -> bool:
        """Whether all voters are to have the same say."""
        has_plan = self.config.labelling_method.has_plan
        return has_plan and self.config.labelling.votes == "equal" and len(label_set.voters) > 1

    def _label(
        self, votes: Votes, label_set: LabelSet, heads: list[int], fraction: float, bank: LabelBank, draft: Draft
    ) -> list[HeadLabels]:
        """Label the clips that a voting set can judge, under some heads."""
        index = votes.clips.index.cpu()
        rows = draft.gather(votes.clips.index)
        label_head = self.method.begin(self.config, votes)
        is_first = bank.num_labellings == 0
        results = []
        for head in heads:
            column, voting_column = label_set.learning_columns[head], label_set.voting_columns[head]
            task = HeadTask(
                head,
                column,
                fraction,
                labels=None if is_first else bank.labels[index, column].long(),
                potentials=None if is_first else draft.rule.potentials[voting_column],
            )
            if self._equalises(label_set):
                votes.equalise(head)
            result = label_head(task)
            draft.put(rows, column, draft.gather(result.labels))
            if result.potentials is not None:
                draft.rule.potentials[voting_column] = result.potentials.cpu()
            results.append(result)
        return results

    def _describe(self, votes: Votes, label_set: LabelSet, heads: list[int], draft: Draft) -> None:
        """Add what a voting set says of every clip, and its guess for each clip that nobody labels."""
        rows = draft.gather(votes.clips.index)
        for head in heads:
            column = label_set.voting_columns[head]
            likeliest, statistics = describe_votes(
                votes, head, draft.rule.potentials[column], self.config.plan_sharpness
            )
            gathered = draft.gather(statistics.T).T
            if draft.statistics is not None:
                draft.statistics[:, rows, column] = gathered
            draft.fill(rows, column, draft.gather(likeliest))


def _least_learned(races: list[Race], labels: Tensor) -> float:
    """How far the modality that knows the labels (N, H) least agrees with them: 0 by chance, 1 for all of them."""
    chance = float(np.mean([_largest_share(column) for column in labels.T]))
    shares = [one.own_share for one in mean_race(races).modalities.values() if np.isfinite(one.own_share)]
    return (min(shares) - chance) / (1 - chance) if shares and chance < 1 else 1.0


def _largest_share(labels: Tensor) -> float:
    """Share of the labels (N,) that the largest cluster has: what one who always says that one is right about."""
    sizes = torch.bincount(labels[labels >= 0].long())
    return float(sizes.max() / sizes.sum()) if len(sizes) else 1.0


def _align(votes: Votes, heads: list[int], permute_clusters: Callable[[str, int, Tensor], None]) -> None:
    """Let the heads of all voters name the same clusters as the first one's.

    Each process solves the assignment of another head, as many heads at a time as there are processes.
    """
    others = votes.voters[1:]
    for first in range(0, len(heads), world_size()):
        some, own = heads[first : first + world_size()], None
        for number, head in enumerate(some):
            costs = votes.alignment_costs(head)
            own = costs if number == rank() else own
        orders = torch.zeros(len(some), len(others), votes.num_clusters, dtype=torch.int64)
        if own is not None:
            permutations = align_all(own, votes.voters)
            orders[rank()] = torch.stack([permutations[name].cpu() for name in others])
        orders = all_sum(orders.to(votes.clips.index.device))
        for head, of_head in zip(some, orders, strict=True):
            for branch, order in zip(others, of_head, strict=True):
                permute_clusters(branch, head, order)


def _num_used(labels: Tensor) -> int:
    """How many clusters hold a clip, of labels (N,); -1 for none."""
    return int(torch.count_nonzero(torch.bincount(labels + 1)[1:]))


def _report(number: int, draft: Draft, churn: float, num_unseen: int) -> LabellingReport:
    errors = [head.marginal_error for head in draft.heads if head.marginal_error is not None]
    return LabellingReport(
        number=number,
        num_passes=max(head.num_passes for head in draft.heads),
        marginal_error=max(errors, default=None),
        converged=all(head.converged for head in draft.heads),
        used_clusters=float(np.mean([_num_used(column) for column in draft.labels.T])),
        churn=churn,
        seconds=draft.seconds,
        race=mean_race([head.race for head in draft.heads]),
        keeps_first=draft.keeps_first,
        least_learned=draft.least_learned,
        num_unseen=num_unseen,
    )
