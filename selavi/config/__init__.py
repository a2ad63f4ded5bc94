"""Every setting of a run: what a setting is, which there are, and how they are read and written."""

from selavi.config.files import as_dict, find_config, load_config, load_run_config, save_config
from selavi.config.sections import (
    MODALITIES,
    AudioConfig,
    Config,
    DataConfig,
    EncodersConfig,
    FinetuneConfig,
    HeadsConfig,
    LabellingConfig,
    OptimConfig,
    TrainerConfig,
    VideoConfig,
)
from selavi.config.settings import FREE_ON_RESUME, SPEED_ONLY

__all__ = [
    "FREE_ON_RESUME",
    "MODALITIES",
    "SPEED_ONLY",
    "AudioConfig",
    "Config",
    "DataConfig",
    "EncodersConfig",
    "FinetuneConfig",
    "HeadsConfig",
    "LabellingConfig",
    "OptimConfig",
    "TrainerConfig",
    "VideoConfig",
    "as_dict",
    "find_config",
    "load_config",
    "load_run_config",
    "save_config",
]
