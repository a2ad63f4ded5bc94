"""What a labelling leaves behind, so that clips which it did not see are labelled as it would have done.

Axes: H columns of the label bank, K clusters, N clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class LabelRule:
    """How the last labelling turned the log-probabilities of heads into clusters.

    With l the log-probabilities of modality m, the score of a clip is the weighted mean over its modalities of
    gain_m * (l - centre_m), and its cluster the argmax over k of sharpness * score + potential.
    """

    potentials: Tensor
    """(H, K) float64; 0 under K-means."""
    centres: dict[str, Tensor] = field(default_factory=dict)
    """(H, K) float64 a modality whose votes are scaled: its mean over clips, of which the mean over clusters is 0."""
    gains: dict[str, Tensor] = field(default_factory=dict)
    """(H,) float64 a modality whose votes are scaled."""

    @classmethod
    def plain(cls, num_heads: int, num_clusters: int) -> LabelRule:
        """Potentials of 0 and votes as they are."""
        return cls(torch.zeros(num_heads, num_clusters, dtype=torch.float64))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> LabelRule:
        """Take up what `tensors` gave, perhaps among others; votes are as they are where it says nothing of them."""
        rule = cls(tensors["potentials"].clone())
        for key, values in tensors.items():
            kind, _, name = key.partition(".")
            if kind in ("centres", "gains"):
                getattr(rule, kind)[name] = values.clone()
        return rule

    def tensors(self) -> dict[str, Tensor]:
        """Everything, flat: potentials, centres.NAME, gains.NAME."""
        centres = {f"centres.{name}": values for name, values in self.centres.items()}
        gains = {f"gains.{name}": values for name, values in self.gains.items()}
        return {"potentials": self.potentials} | centres | gains

    def set_scale(self, column: int, centres: Mapping[str, Tensor], gains: Mapping[str, float]) -> None:
        """Note how the votes of some modalities are scaled under one head: centres (K,) and gains."""
        for name, centre in centres.items():
            if name not in self.gains:
                self.centres[name] = torch.zeros_like(self.potentials)
                self.gains[name] = torch.ones(len(self.potentials), dtype=torch.float64)
            self.centres[name][column] = centre.cpu()
            self.gains[name][column] = gains[name]

    def scale(self, column: int, log_probabilities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scale the log-probabilities (N, K) of modalities under one head; those that it has no scale for stay."""
        return {
            name: (values - self.centres[name][column].to(values)) * float(self.gains[name][column])
            if name in self.gains
            else values
            for name, values in log_probabilities.items()
        }

    def without_sizes(self) -> LabelRule:
        """The same votes with no liking for any cluster: neither potentials nor centres."""
        centres = {name: torch.zeros_like(values) for name, values in self.centres.items()}
        return LabelRule(torch.zeros_like(self.potentials), centres, dict(self.gains))


def take_rule(tensors: dict[str, Tensor]) -> LabelRule | None:
    """Take the tensors of a LabelRule out of others; None where there are none."""
    keys = [key for key in tensors if key.partition(".")[0] in ("potentials", "centres", "gains")]
    taken = {key: tensors.pop(key) for key in keys}
    return LabelRule.from_tensors(taken) if taken else None
