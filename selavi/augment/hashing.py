"""Random numbers that follow from one number of a clip."""

import math

import torch
from torch import Tensor

_ODD, _LOW = 0x9E3779B1, 0xFFFFFFFF


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
