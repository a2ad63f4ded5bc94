"""Encoders: clip -> features (B, D), one for each modality."""

from selavi.config import EncodersConfig
from selavi.encoders.r2plus1d import R2Plus1D
from selavi.encoders.resnet import AudioResNet


def make_encoder(modality: str, config: EncodersConfig) -> R2Plus1D | AudioResNet:
    """Build the encoder of a modality; its `num_features` is D."""
    if modality == "video":
        return R2Plus1D(config.video_width, config.video_depth, config.video_layout)
    if modality == "audio":
        return AudioResNet(config.audio_width, config.audio_depth)
    raise ValueError(f"there are encoders for video and audio, not for {modality!r}")
