"""The kinds of maps that say where a cluster lies, by their names."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.localisation.contrast import find_contrast, find_contrast_and_sound
from selavi.localisation.evidence import PICTURED, explained_modalities, find_evidence
from selavi.localisation.windows import find_heard, find_in_windows, read_for_heard
from selavi.model import SelaviModel


class MapKind(NamedTuple):
    """How maps of one kind are made."""

    version: str
    """Differs from one kind to another, and from one version to the next whose maps differ."""
    find: Callable[[SelaviModel, Augment, ClipBatch, Tensor, int, Config], dict[str, Tensor]]
    """model, augment, B windows of time, their clusters (B,), head, config -> (B, T, h, w) a modality or (B, F, T)."""
    modalities: Callable[[Config, int], Sequence[str]]
    """config, head -> those that have maps."""
    reads: Callable[[Config, int], Sequence[str]] | None = None
    """config, head -> those that are read for a map; None: the one that has it."""

    def read_for(self, name: str, config: Config, head: int) -> tuple[str, ...]:
        """The modalities that have to be read for a map of one of them.

        Raises:
            UsageError: the head does not read what the map needs.
        """
        if config.is_fused:
            return tuple(config.kinds)  # read by one head
        return (name,) if self.reads is None else tuple(self.reads(config, head))


GLOWS = {"contrast": "contrast-and-sound", "evidence": "evidence"}
"""What the gallery lays over pictures and spectrograms: the kind of its maps, by that of the pictures'."""
MAP_KINDS = {
    "evidence": MapKind("maps 2", find_evidence, explained_modalities),
    "windows": MapKind("windows 1", find_in_windows, lambda config, head: (PICTURED,)),
    "contrast": MapKind("contrast 2", find_contrast, lambda config, head: (PICTURED,)),
    "heard": MapKind("heard 1", find_heard, lambda config, head: (PICTURED,), read_for_heard),
    GLOWS["contrast"]: MapKind("contrast 2, maps 2", find_contrast_and_sound, explained_modalities),
}
"""`maps 1` of the evidence showed positions half a stride to the right and below of where their filters are;
`contrast 1` did not look at time."""
