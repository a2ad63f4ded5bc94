import pytest
import torch
from torchvision.models.resnet import BasicBlock, ResNet

from selavi.encoders.resnet import AudioResNet


def one_channel_resnet(blocks: int) -> ResNet:
    reference = ResNet(BasicBlock, [blocks] * 4)
    reference.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    reference.fc = torch.nn.Identity()
    return reference


@pytest.mark.parametrize(("depth", "blocks"), [(9, 1), (18, 2)])
def test_it_is_torchvisions_resnet_with_one_channel(depth: int, blocks: int) -> None:
    torch.manual_seed(0)
    reference, encoder = one_channel_resnet(blocks).eval(), AudioResNet(64, depth).eval()
    encoder.load_state_dict(reference.state_dict())  # strict: the same names and shapes
    spectrograms = torch.randn(2, 1, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(encoder(spectrograms), reference(spectrograms), rtol=1e-3, atol=1e-4)


def test_the_published_size() -> None:
    assert sum(p.numel() for p in AudioResNet(64, 9).parameters()) == 4_899_520
    assert AudioResNet(64, 9).num_features == 512


def test_a_narrow_one_takes_any_spectrogram() -> None:
    encoder = AudioResNet(4, 9).eval()
    for shape in ((1, 1, 8, 2), (3, 1, 64, 61)):
        assert encoder(torch.randn(shape)).shape == (shape[0], 32)
