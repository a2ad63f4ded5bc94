"""selavi/encoders/fused.py: the same features, from an encoder without batch norms, while its own stays as it was."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selavi.encoders.fused import FusedEncoders, fuse
from selavi.encoders.r2plus1d import R2Plus1D
from selavi.encoders.resnet import ResNet
from selavi.encoders.vectors import VectorEncoder

CASES = {
    "video": (lambda: R2Plus1D(8, 10), (3, 3, 4, 32, 32)),
    "18 layers": (lambda: R2Plus1D(8, 18), (2, 3, 4, 32, 32)),
    "vmz": (lambda: R2Plus1D(8, 10, "vmz"), (2, 3, 4, 32, 32)),
    "motion": (lambda: R2Plus1D(8, 10, channels=1), (2, 1, 4, 32, 32)),
    "sound": (lambda: ResNet(1, 8, 9), (3, 1, 64, 60)),
    "pictures": (lambda: ResNet(3, 8, 18), (3, 3, 48, 48)),
    "small pictures": (lambda: ResNet(3, 8, 18, "plain"), (3, 3, 48, 48)),
    "vectors": (lambda: VectorEncoder(20, [16, 8]), (5, 20)),
}


def trained(encoder: nn.Module, inputs: Tensor) -> nn.Module:
    """In evaluation mode, with batch norms that are not as they were made."""
    for layer in encoder.modules():
        if isinstance(layer, _BatchNorm):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, _BatchNorm) and layer.affine:
            layer.weight.data.uniform_(-1, 2)
            layer.bias.data.normal_()
    return encoder.eval()


@pytest.mark.parametrize("name", CASES)
def test_features_are_the_same(name: str) -> None:
    torch.manual_seed(3)
    make, shape = CASES[name]
    inputs = torch.randn(shape)
    encoder = trained(make(), inputs)
    before = deepcopy(encoder.state_dict())
    with torch.no_grad():
        expected, result = encoder(inputs), fuse(encoder, inputs)(inputs)
    assert expected.std() > 0
    torch.testing.assert_close(result, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-5)
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", [name for name in CASES if name != "vectors"])
def test_no_batch_norm_is_left(name: str) -> None:
    make, shape = CASES[name]
    encoder = make().eval()
    fused = fuse(encoder, torch.randn(shape))
    assert any(isinstance(layer, _BatchNorm) for layer in encoder.modules())
    assert not any(isinstance(layer, _BatchNorm) for layer in fused.modules())


def test_what_has_no_convolution_is_not_copied() -> None:
    encoder = VectorEncoder(4, [3]).eval()
    assert fuse(encoder, torch.randn(2, 4)) is encoder


def test_encoders_are_those_of_the_first_call() -> None:
    encoder, inputs = trained(ResNet(1, 8, 9), torch.randn(2, 1, 64, 60)), torch.randn(2, 1, 64, 60)
    encode = FusedEncoders({"audio": encoder})
    with torch.no_grad():
        first = encode({"audio": inputs})["audio"]
        for parameter in encoder.parameters():
            parameter.mul_(2)
        assert torch.equal(encode({"audio": inputs})["audio"], first)
        assert not torch.allclose(encoder(inputs), first)
