"""Encoders: clip -> features (B, D), one for each modality."""

from collections.abc import Callable

from selavi.config import EncodersConfig
from selavi.encoders.encoder import Encoder
from selavi.encoders.r2plus1d import R2Plus1D
from selavi.encoders.resnet import AudioResNet
from selavi.errors import UsageError

ENCODERS: dict[str, Callable[[EncodersConfig], Encoder]] = {
    "video": lambda config: R2Plus1D(config.video_width, config.video_depth, config.video_layout),
    "audio": lambda config: AudioResNet(config.audio_width, config.audio_depth),
}


def make_encoder(modality: str, config: EncodersConfig) -> Encoder:
    """Build the encoder of a modality.

    Raises:
        UsageError: there is none for it; the message lists those that there are.
    """
    if modality not in ENCODERS:
        raise UsageError(f"there is no encoder for modality {modality!r}; there are encoders for {', '.join(ENCODERS)}")
    return ENCODERS[modality](config)
