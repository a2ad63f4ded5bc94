"""Vectors as the encoder reads them, and their random changes."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from selavi.augment.hashing import normals, uniforms
from selavi.config import FeaturesConfig


class FeaturesAugmentation(nn.Module):
    """Vectors (B, D) float32 -> (B, D), or (B, 3, D) where a view is random: vectors, noise, and what is kept.

    Noise is in standard deviations of each number, and what is dropped becomes its mean.  Only the encoder knows these,
    so both travel beside the vectors, and the view of a clip depends on nothing but its numbers.
    """

    draws: ClassVar[Mapping[str, int]] = {"noise": 19, "drop": 20}
    expects: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.config = config

    def plain(self, values: Tensor) -> Tensor:
        """The vectors as they are."""
        return values.float()

    def random(self, values: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Noise on every number, and some numbers dropped."""
        config = self.config
        if config.noise == config.drop == 0:
            return self.plain(values)
        noise = config.noise * normals(draws["noise"], values.shape[1])
        kept = (uniforms(draws["drop"], values.shape[1]) >= config.drop).float()
        return torch.stack([values.float(), noise, kept], 1)
