"""Crafted features: what a clip looks or sounds like in a few hundred numbers, without anything learned.

Each takes what the modality's augmentation gives the encoder, of any size, and gives (B, D).
"""

from selavi.encoders.crafted.pictures import CraftedPictures
from selavi.encoders.crafted.sound import CraftedSound
from selavi.encoders.encoder import Encoder

CRAFTED: dict[str, Encoder] = {"video": CraftedPictures(), "audio": CraftedSound()}
