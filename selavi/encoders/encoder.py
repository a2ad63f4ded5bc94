"""What the house asks of an encoder."""

from torch import Tensor, nn


class Encoder(nn.Module):
    """Augmented clips of one modality (B, ...) -> features (B, D)."""

    num_features: int
    """D."""
    stages: tuple[str, ...] = ()
    """Names of submodules that run one after another, each on what the one before it gives: maps (B, C, ...) over
    positions, the last two axes h, w or F, T; the mean of the last map over its positions is the features.  Evidence
    for a cluster is shown on these maps (selavi.localisation); empty: the encoder has none."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, ...) -> (B, D)."""
        raise NotImplementedError
