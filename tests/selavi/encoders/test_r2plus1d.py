import pytest
import torch
from torchvision.models.video import r2plus1d_18

from selavi.config import Config, EncodersConfig
from selavi.encoders import make_encoder
from selavi.encoders.r2plus1d import FlatConv3d, R2Plus1D
from selavi.errors import UsageError


def test_the_full_size_has_torchvisions_parameters() -> None:
    reference = {
        name: tuple(value.shape) for name, value in r2plus1d_18().state_dict().items() if not name.startswith("fc.")
    }
    encoder = R2Plus1D(64, 18)
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == reference
    assert sum(p.numel() for p in encoder.parameters()) == 31_300_125
    assert encoder.num_features == 512


def test_with_torchvisions_weights_it_gives_torchvisions_features() -> None:
    torch.manual_seed(0)
    reference = r2plus1d_18().eval()
    encoder = R2Plus1D(64, 18).eval()
    encoder.load_state_dict({n: v for n, v in reference.state_dict().items() if not n.startswith("fc.")})
    reference.fc = torch.nn.Identity()
    clips = torch.randn(2, 3, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(encoder(clips), reference(clips), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (1, 7, 7), (3, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("bias", [False, True])
def test_a_flat_convolution_is_the_3d_one(
    kernel: tuple[int, int, int], strides: int, layout: torch.memory_format, bias: bool
) -> None:
    """Values and gradients, with any kernel of one picture or one place, stride, layout and size."""
    torch.manual_seed(0)
    stride = tuple(strides if size > 1 else 1 for size in kernel)
    padding = tuple(size // 2 for size in kernel)
    flat = FlatConv3d(5, 7, kernel, stride, padding, bias=bias)
    solid = torch.nn.Conv3d(5, 7, kernel, stride, padding, bias=bias)
    solid.load_state_dict(flat.state_dict())
    clips = torch.randn(2, 5, 4, 9, 6).to(memory_format=layout)
    given = [clips.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(values) for layer, values in zip((flat, solid), given, strict=True)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for values in outputs:
        values.square().sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flat.weight.grad, solid.weight.grad, rtol=1e-4, atol=1e-3)


def test_clips_with_channels_innermost_are_not_copied() -> None:
    """The views of FlatConv3d: channels stay innermost through an encoder, and a copy would be as slow as the gain."""
    clips = torch.randn(2, 6, 4, 8, 8).to(memory_format=torch.channels_last_3d)
    assert clips.transpose(1, 2).flatten(0, 1).data_ptr() == clips.data_ptr()
    assert clips.flatten(3).data_ptr() == clips.data_ptr()
    for kernel, padding in (((1, 3, 3), (0, 1, 1)), ((3, 1, 1), (1, 0, 0))):
        layer = FlatConv3d(6, 5, kernel, padding=padding).to(memory_format=torch.channels_last_3d)
        assert layer(clips).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("depth", [10, 18])
def test_a_narrow_one_takes_any_clip(depth: int) -> None:
    encoder = R2Plus1D(4, depth).eval()
    assert encoder.num_features == 32
    for shape in ((1, 3, 1, 16, 16), (2, 3, 5, 17, 23)):
        assert encoder(torch.randn(shape)).shape == (shape[0], 32)


def test_convolutions_start_from_kaimings_distribution() -> None:
    torch.manual_seed(0)
    encoder = R2Plus1D(64, 18)
    last = encoder.layer4[1].conv2[0][3]  # 1152 -> 512 channels, (3, 1, 1)
    assert last.weight.std().item() == pytest.approx((2 / (512 * 3)) ** 0.5, rel=0.02)
    norm = encoder.layer4[1].conv2[1]
    assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_encoders_are_made_by_modality() -> None:
    config = Config(encoders=EncodersConfig(video_width=4, video_depth=10, audio_width=9))
    assert make_encoder("video", config).num_features == 32
    assert make_encoder("audio", config).num_features == 72
    with pytest.raises(UsageError, match="no encoder for modality 'smell'; there are encoders for video, audio"):
        make_encoder("smell", config)


def test_low_precision_leaves_the_encoder_in_float32_on_a_cpu() -> None:
    encoder = R2Plus1D(width=8, depth=10).eval()
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = encoder(clips)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(encoder(clips), expected)
