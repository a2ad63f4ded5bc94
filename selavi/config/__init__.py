"""Every setting of a run: what a setting is, which there are, and how they are read and written."""

from selavi.config.differences import chosen, differing, without_effect
from selavi.config.files import RESOLVED, SETTINGS, as_dict, find_config, load_config, load_run_config, save_config
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

__all__ = [
    "MODALITIES",
    "RESOLVED",
    "SETTINGS",
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
    "chosen",
    "differing",
    "find_config",
    "load_config",
    "load_run_config",
    "save_config",
    "without_effect",
]
