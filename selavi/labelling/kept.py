"""Features that the training steps leave behind: a labelling from them needs no pass over the clips."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from selavi.distributed import gather_rows
from selavi.labelling.features import FeatureTable


class KeptFeatures:
    """What the steps of this epoch and of the one before made of this process's clips.

    A clip's newest features count, so they are at most as old as an epoch is long:

        epoch before   [ a  b  c  d  e  f  g  h ]
        this epoch     [ f  b  h                 the next step
        the table        f  b  h                 and from before  a  c  d  e  g

    Processes draw other clips in each epoch; which of them have come by in this one, they tell one another.

    Args:
        num_features: D of each branch.
        num_clips: of an epoch, on this process.
        device: of the features.
    """

    def __init__(self, num_features: Mapping[str, int], num_clips: int, device: torch.device) -> None:
        self.now, self.before = (EpochFeatures(num_features, num_clips, device) for _ in range(2))

    def begin_epoch(self) -> None:
        """Go on to the next epoch."""
        self.now, self.before = self.before, self.now
        self.now.num_clips = 0

    def note(self, index: Tensor, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        """Keep what a step made of its clips.

        Args:
            index: (B,) rows in the label bank.
            features: (B, D) a branch.
            present: (B,) bool a branch.
        """
        self.now.append(index, features, present)

    def is_whole(self) -> bool:
        """Whether all clips of an epoch are here: not in the first one, nor after a run was taken up within one."""
        return self.now.is_full() or self.before.is_full()

    def table(self) -> FeatureTable:
        """The newest features of every clip that has come by, each on one process."""
        now, before = self.now.table(), self.before.table()
        seen = gather_rows(now.index)
        older = ~torch.isin(before.index, seen)
        return FeatureTable(
            torch.cat([now.index, before.index[older]]),
            {name: torch.cat([now.whole[name], before.whole[name][older]]) for name in now.features},
            {name: torch.cat([now.present[name], before.present[name][older]]) for name in now.present},
        )


class EpochFeatures:
    """Features of an epoch's clips, as the steps make them.

    Args:
        num_features: D of each branch.
        most: clips that there is room for.
        device: of the features.
    """

    def __init__(self, num_features: Mapping[str, int], most: int, device: torch.device) -> None:
        self.num_clips = 0
        self.index = torch.empty(most, dtype=torch.int64, device=device)
        self.features = {name: torch.empty(most, size, device=device) for name, size in num_features.items()}
        self.present = {name: torch.empty(most, dtype=torch.bool, device=device) for name in num_features}

    def is_full(self) -> bool:
        """Whether the epoch is over."""
        return self.num_clips == len(self.index)

    def append(self, index: Tensor, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        """Add clips; those whose features are not finite, as in a step that was left out, count as lacking them."""
        some = slice(self.num_clips, self.num_clips + len(index))
        self.index[some] = index
        for name, values in features.items():
            is_finite = values.isfinite().all(1)
            self.features[name][some] = torch.where(is_finite[:, None], values, 0)
            self.present[name][some] = present[name] & is_finite
        self.num_clips = some.stop

    def table(self) -> FeatureTable:
        """All of them."""
        return FeatureTable(
            self.index[: self.num_clips],
            {name: values[: self.num_clips] for name, values in self.features.items()},
            {name: values[: self.num_clips] for name, values in self.present.items()},
        )
