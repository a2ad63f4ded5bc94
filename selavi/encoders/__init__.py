"""Encoders: clip -> features (B, D), one for each modality."""

from torch import nn

from selavi.config import EncodersConfig
from selavi.encoders.audio import AudioResNet
from selavi.encoders.video import R2Plus1D


def make_encoder(modality: str, config: EncodersConfig) -> nn.Module:
    """Build the encoder of a modality; its `num_features` is D."""
    makers = {
        "video": lambda: R2Plus1D(config.video_width, config.video_depth),
        "audio": lambda: AudioResNet(config.audio_width, config.audio_depth),
    }
    return makers[modality]()
