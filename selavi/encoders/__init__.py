"""Encoders: clip -> features (B, D), one for each kind of modality."""

from collections.abc import Callable

from selavi.config import Config, EncodersConfig
from selavi.encoders.encoder import Encoder
from selavi.encoders.r2plus1d import R2Plus1D
from selavi.encoders.resnet import ResNet
from selavi.encoders.statistics import SoundStatistics
from selavi.encoders.vectors import VectorEncoder
from selavi.errors import UsageError

ENCODERS: dict[str, Callable[[Config], Encoder]] = {
    "video": lambda config: _r2plus1d(config.encoders),
    "audio": lambda config: ResNet(1, config.encoders.audio_width, config.encoders.audio_depth),
    "image": lambda config: _image_resnet(config.encoders),
    "motion": lambda config: _r2plus1d(config.encoders, channels=1),
    "statistics": lambda config: SoundStatistics(),
    "features": lambda config: VectorEncoder(config.features.num_dims, config.features.layers),
}


def make_encoder(kind: str, config: Config) -> Encoder:
    """Build the encoder of a modality of some kind.

    Args:
        kind: of the modality.
        config: of the run, as seen by the modality.

    Raises:
        UsageError: there is none for it; the message lists those that there are.
    """
    if kind not in ENCODERS:
        raise UsageError(f"there is no encoder for modality {kind!r}; there are encoders for {', '.join(ENCODERS)}")
    return ENCODERS[kind](config)


def _r2plus1d(encoders: EncodersConfig, channels: int = 3) -> Encoder:
    return R2Plus1D(encoders.video_width, encoders.video_depth, encoders.video_layout, channels)


def _image_resnet(encoders: EncodersConfig) -> Encoder:
    return ResNet(3, encoders.image_width, encoders.image_depth, encoders.image_stem)
