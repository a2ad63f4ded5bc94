"""A network written as safetensors with its settings beside it."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from selavi import __version__
from selavi.config import Config, DataConfig, save_config
from selavi.pretrained.weights import SETTINGS, WEIGHTS, Pretrained
from selavi.tensor_files import write_tensors


def write_weights(loaded: Pretrained, folder: Path) -> tuple[Path, Path]:
    """Write weights.safetensors and config.yaml, which load reads; of the data's settings only the clip's stay.

    Returns:
        The two paths.
    """
    weights_path, settings_path = folder / WEIGHTS, folder / SETTINGS
    write_tensors(weights_path, tensors_of(loaded), metadata_of(loaded))
    save_config(portable_settings(loaded.config), settings_path)
    return weights_path, settings_path


def tensors_of(loaded: Pretrained) -> dict[str, Tensor]:
    """Everything that the network needs, by name; heads that name no clusters are left out."""
    state = loaded.model.state_dict()
    if loaded.rule is None:
        return {name: tensor for name, tensor in state.items() if name.startswith("encoders.")}
    return {**state, **loaded.rule.tensors()}


def metadata_of(loaded: Pretrained) -> dict[str, str]:
    """The texts that a file of weights carries."""
    return {"format": "pt", "selavi": __version__, "source": loaded.source, "licence": loaded.licence}


def portable_settings(config: Config) -> Config:
    """Settings without what belongs to one machine or to the data of one run."""
    data = DataConfig(clip_s=config.data.clip_s, audio_policy=config.data.audio_policy)
    return replace(config, run_dir="", resume="never", data=data, encoders=replace(config.encoders, init=""))
