"""Every setting of a run: what a setting is, which there are, and how they are read and written."""

from selavi.config.differences import (
    chosen,
    differing,
    earlier_settings,
    freedom,
    warn_of_settings_without_effect,
    without_effect,
)
from selavi.config.files import (
    RESOLVED,
    SETTINGS,
    as_dict,
    escape,
    find_config,
    given_in_file,
    load_config,
    load_run_config,
    save_config,
)
from selavi.config.label_sets import LabelSet, make_label_sets
from selavi.config.methods import LABELLING_METHODS, MethodTraits
from selavi.config.sections import (
    AudioConfig,
    Config,
    DataConfig,
    EncodersConfig,
    FinetuneConfig,
    HeadsConfig,
    LabellingConfig,
    LossConfig,
    OptimConfig,
    TrainerConfig,
    VideoConfig,
)

__all__ = [
    "LABELLING_METHODS",
    "RESOLVED",
    "SETTINGS",
    "AudioConfig",
    "Config",
    "DataConfig",
    "EncodersConfig",
    "FinetuneConfig",
    "HeadsConfig",
    "LabelSet",
    "LabellingConfig",
    "LossConfig",
    "MethodTraits",
    "OptimConfig",
    "TrainerConfig",
    "VideoConfig",
    "as_dict",
    "chosen",
    "differing",
    "earlier_settings",
    "escape",
    "find_config",
    "freedom",
    "given_in_file",
    "load_config",
    "load_run_config",
    "make_label_sets",
    "save_config",
    "warn_of_settings_without_effect",
    "without_effect",
]
