"""Vectors that something else has made stand for themselves."""

from torch import Tensor

from selavi.encoders.encoder import Encoder


class PlainVectors(Encoder):
    """Vectors (B, D), or with their random changes (B, 3, D), -> (B, D): the vectors alone."""

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        self.num_features = num_dims

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) or (B, 3, D) -> (B, D) float32."""
        return (inputs if inputs.dim() == 2 else inputs[:, 0]).float()
