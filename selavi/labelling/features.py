"""What the encoders say of clips: the table that a labelling reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureTable:
    """Features of this rank's clips, from one view of each."""

    index: Tensor
    """(n,) rows in the label bank."""
    features: Mapping[str, Tensor]
    """(n, D) a branch: a modality, or their concatenation where heads read that."""
    present: Mapping[str, Tensor]
    """(n,) bool a branch."""

    def with_any(self, branches: Sequence[str]) -> FeatureTable:
        """The clips that have at least one of the branches."""
        kept = torch.stack([self.present[name] for name in branches]).any(0)
        if kept.all():
            return self
        return FeatureTable(
            self.index[kept],
            {name: features[kept] for name, features in self.features.items()},
            {name: present[kept] for name, present in self.present.items()},
        )


def collect_features(
    batches: Iterable[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]],
    num_features: Mapping[str, int],
    device: torch.device,
) -> FeatureTable:
    """Join (index, features, present) of batches; a rank without clips gives an empty table."""
    indices: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=device)]
    features = {name: [torch.zeros(0, size, device=device)] for name, size in num_features.items()}
    present = {name: [torch.zeros(0, dtype=torch.bool, device=device)] for name in num_features}
    for index, batch_features, batch_present in batches:
        indices.append(index)
        for name in num_features:
            features[name].append(batch_features[name].float())
            present[name].append(batch_present[name])
    return FeatureTable(
        torch.cat(indices),
        {name: torch.cat(parts) for name, parts in features.items()},
        {name: torch.cat(parts) for name, parts in present.items()},
    )
