import pytest
import torch
from torchvision.models import ResNet as Reference
from torchvision.models.resnet import BasicBlock

from selavi.encoders.resnet import ResNet


def one_channel_resnet(blocks: int) -> Reference:
    reference = Reference(BasicBlock, [blocks] * 4)
    reference.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    reference.fc = torch.nn.Identity()
    return reference


@pytest.mark.parametrize(("depth", "blocks"), [(9, 1), (18, 2)])
def test_it_is_torchvisions_resnet_with_one_channel(depth: int, blocks: int) -> None:
    torch.manual_seed(0)
    reference, encoder = one_channel_resnet(blocks).eval(), ResNet(1, 64, depth).eval()
    encoder.load_state_dict(reference.state_dict())  # strict: the same names and shapes
    spectrograms = torch.randn(2, 1, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(encoder(spectrograms), reference(spectrograms), rtol=1e-3, atol=1e-4)


def test_the_published_size() -> None:
    assert sum(p.numel() for p in ResNet(1, 64, 9).parameters()) == 4_899_520
    assert ResNet(1, 64, 9).num_features == 512


def test_a_narrow_one_takes_any_spectrogram() -> None:
    encoder = ResNet(1, 4, 9).eval()
    for shape in ((1, 1, 8, 2), (3, 1, 64, 61)):
        assert encoder(torch.randn(shape)).shape == (shape[0], 32)


def test_pictures_of_three_colours_and_the_weights_of_torchvision() -> None:
    torch.manual_seed(0)
    reference, encoder = Reference(BasicBlock, [2] * 4).eval(), ResNet(3, 64, 18).eval()
    reference.fc = torch.nn.Identity()
    encoder.load_state_dict(reference.state_dict())
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pictures), reference(pictures), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("stem", "side"), [("strided", 1), ("plain", 4)])
def test_a_plain_stem_keeps_small_pictures_large(stem: str, side: int) -> None:
    encoder = ResNet(3, 8, 9, stem).eval()  # type: ignore[arg-type]
    sides = []
    encoder.layer4.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    assert encoder(torch.randn(2, 3, 28, 28)).shape == (2, 64) and sides == [side]
