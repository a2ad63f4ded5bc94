import pytest
import torch
from torchvision.models.video import r2plus1d_18

from selavi.config import Config, EncodersConfig
from selavi.encoders import make_encoder
from selavi.encoders.r2plus1d import R2Plus1D
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
