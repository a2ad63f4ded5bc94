"""selavi/augment/colours.py against what its formulas say."""

import pytest
import torch
from torch import nn

from selavi.augment.colours import Normalise, channels_first

MEAN, STD = (0.43, 0.39, 0.38), (0.23, 0.22, 0.21)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (2, 4, 5, 7, 3)], ids=["pictures", "clips"])
def test_colours_come_first_and_are_normalised(shape: tuple[int, ...]) -> None:
    colours = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    first = channels_first(colours)
    assert first.is_contiguous() and first.dtype == torch.float32
    for number in range(3):
        assert torch.equal(first[:, number], colours[..., number].float())
        expected = (colours[..., number].double() / 255 - MEAN[number]) / STD[number]
        result = Normalise(MEAN, STD, len(shape) - 2)(first)[:, number]
        torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)


def test_normalise_adds_nothing_to_a_checkpoint() -> None:
    assert not nn.Sequential(Normalise(MEAN, STD, 3)).state_dict()
