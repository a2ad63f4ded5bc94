"""Weights as they are kept in a file, and the network that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from selavi.augment import Augment
from selavi.config import Config, load_config
from selavi.labelling.rule import LabelRule
from selavi.model import SelaviModel

WEIGHTS, SETTINGS = "weights.safetensors", "config.yaml"
HUB_WEIGHTS, HUB_SETTINGS, HUB_CARD = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True)
class Pretrained:
    """A network with its weights and all that is needed to use it."""

    model: SelaviModel
    """In evaluation mode, on the CPU."""
    augment: Augment
    """Makes the inputs that the model expects."""
    config: Config
    rule: LabelRule | None
    """The one of the last labelling, plain for the official weights; None where the file has no heads: those of the
    model are then random and name no clusters."""
    source: str
    """What the weights are and where they were read."""
    licence: str
    """A condition that comes with them; empty where none is known."""


@dataclass(frozen=True)
class StoredWeights:
    """What a file holds, under the names of SelaviModel."""

    path: Path
    state: Mapping[str, Tensor]
    settings_file: Path | None
    overrides: Sequence[str]
    """Settings that come before those of the file."""
    rule: LabelRule | None
    source: str
    licence: str = ""

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The settings that the weights were trained with, and changes of them.

        Raises:
            UsageError: the settings cannot be read, or the changes are none.
        """
        return load_config(self.settings_file, [*self.overrides, *overrides], is_complete=True)
