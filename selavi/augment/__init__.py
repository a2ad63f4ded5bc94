"""From decoded clips to what the encoders read, on the device and in whole batches; one file a modality.

Everything random comes from the numbers that travel with each clip (ClipBatch.draws), so a view is the same
whatever batch, worker or rank it is in.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from selavi.augment.audio import AudioAugmentation
from selavi.augment.draws import named
from selavi.augment.features import FeaturesAugmentation
from selavi.augment.image import ImageAugmentation
from selavi.augment.motion import MotionAugmentation
from selavi.augment.video import VideoAugmentation
from selavi.batch import ClipBatch
from selavi.config import Config


class Augmentation(Protocol):
    """What a modality's nn.Module has: B clips as they are decoded -> what the encoder reads.

    Its buffers follow from the settings, so none of them is persistent: checkpoints hold nothing of it.
    """

    draws: ClassVar[Mapping[str, int]]
    """The numbers of a clip that it reads, and their places; see selavi.augment.draws."""
    expects: ClassVar[tuple[str, ...]]
    """Settings in which a run should agree with the one that trained the weights that it starts from."""

    def plain(self, values: Tensor) -> Tensor:
        """Without anything random."""
        ...

    def random(self, values: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """The view that the clips' numbers, (B,) a name, say."""
        ...


AUGMENTATIONS: dict[str, Callable[[Config], nn.Module]] = {
    "video": lambda config: VideoAugmentation(config.video),
    "audio": lambda config: AudioAugmentation(config.audio),
    "features": lambda config: FeaturesAugmentation(config.features),
    "image": lambda config: ImageAugmentation(config.image),
    "motion": lambda config: MotionAugmentation(config.video),
    "statistics": lambda config: AudioAugmentation(config.audio),
}


class Augment(nn.Module):
    """ClipBatch -> the encoders' inputs, (B, ...) float32 for each of a run's modalities."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.modalities = nn.ModuleDict(
            {name: AUGMENTATIONS[kind](config.seen_by(name)) for name, kind in config.kinds.items()}
        )
        self.register_load_state_dict_pre_hook(_without_buffers)

    @torch.no_grad()
    def forward(self, batch: ClipBatch, random: bool) -> dict[str, Tensor]:
        """Transform a batch; `random=False` is as `plain`."""
        if not random:
            return self.plain(batch.inputs)
        return {
            name: one.random(batch.inputs[name], named(batch.draws, one.draws))
            for name, one in self._augmentations(batch.inputs)
        }

    def plain(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Transform clips as they are decoded, (B, ...) a modality, without anything random."""
        return {name: one.plain(inputs[name]) for name, one in self._augmentations(inputs)}

    def expected_settings(self, name: str) -> tuple[str, ...]:
        """Settings of a modality's inputs in which a run should agree with the one whose weights it starts from."""
        return cast(Augmentation, self.modalities[name]).expects

    def _augmentations(self, inputs: Mapping[str, Tensor]) -> list[tuple[str, Augmentation]]:
        return [(name, cast(Augmentation, one)) for name, one in self.modalities.items() if name in inputs]


def _without_buffers(augment: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Leave out what checkpoints of earlier versions hold of the augmentation: it follows from the settings."""
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]
