"""Vectors as the encoder reads them, and their random changes."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from selavi.config import FeaturesConfig

_ODD, _LOW = 0x9E3779B1, 0xFFFFFFFF


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


def normals(seeds: Tensor, num: int) -> Tensor:
    """Normal numbers (B, num) that follow from seeds (B,) in [0, 1) (Box and Muller 1958)."""
    radius, angle = uniforms(seeds, 2 * num).split(num, 1)
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)


def uniforms(seeds: Tensor, num: int) -> Tensor:
    """Uniform numbers (B, num) in [0, 1) that follow from seeds (B,) in [0, 1): a hash of seed and place."""
    keys = (seeds.double() * 2**32).long()[:, None]
    mixed = keys + _ODD * torch.arange(1, num + 1, device=seeds.device)
    for factor in (0x85EBCA6B, 0xC2B2AE35):  # murmur3's finaliser (Appleby), on 32 bits in 64
        mixed = mixed & _LOW
        mixed = ((mixed ^ (mixed >> 16)) * factor) & _LOW
        mixed = mixed ^ (mixed >> 13)
    return ((mixed & _LOW) >> 8).float() * 2.0**-24
