"""Vectors that something else has made, as features: themselves, or a small perceptron on them."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from selavi.encoders.encoder import Encoder


class VectorEncoder(Encoder):
    """Vectors (B, D), or with their random changes (B, 3, D) -> features.

    Every number is first brought to mean 0 and variance 1 over the training clips.

    Args:
        num_dims: D.
        layers: widths of linear layers, each with batch norm and ReLU; without any the scaled vectors are the features.
    """

    def __init__(self, num_dims: int, layers: Sequence[int] = ()) -> None:
        super().__init__()
        # momentum None: the mean over all that was seen, not a moving one
        self.scale = nn.BatchNorm1d(num_dims, affine=False, momentum=None)
        widths = [num_dims, *layers]
        self.layers = nn.Sequential()
        for before, after in pairwise(widths):
            self.layers.extend([nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()])
        self.num_features = widths[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) or (B, 3, D) -> (B, num_features)."""
        if inputs.dim() == 2:
            return self.layers(self.scale(inputs))
        vectors, noise, kept = inputs.unbind(1)
        return self.layers((self.scale(vectors) + noise) * kept)
