"""Labels for videos with sound, without a human: audio-visual self-labelling (SeLaVi)."""

__version__ = "0.1.0"
