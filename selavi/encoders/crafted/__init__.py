"""Crafted features: what a clip looks or sounds like in a few hundred numbers, without anything learned.

Each takes what the modality's augmentation gives the encoder, of any size, and gives (B, D).
"""

from collections.abc import Callable

from selavi.config import Config
from selavi.encoders.crafted.motion import CraftedMotion
from selavi.encoders.crafted.pictures import CraftedPictures
from selavi.encoders.crafted.sound import CraftedSound
from selavi.encoders.crafted.vectors import PlainVectors
from selavi.encoders.encoder import Encoder

CRAFTED: dict[str, Callable[[Config], Encoder]] = {
    "video": lambda config: CraftedPictures(),
    "image": lambda config: CraftedPictures(),
    "audio": lambda config: CraftedSound(),
    "motion": lambda config: CraftedMotion(),
    "statistics": lambda config: CraftedSound(),
    "features": lambda config: PlainVectors(config.features.num_dims),
}
"""By kind of modality, from a configuration as seen by the modality."""


def crafted_features(config: Config) -> dict[str, Encoder]:
    """The crafted features of those among a run's modalities that have some."""
    kinds = {name: kind for name, kind in config.kinds.items() if kind in CRAFTED}
    return {name: CRAFTED[kind](config.seen_by(name)) for name, kind in kinds.items()}
