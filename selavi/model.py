"""One encoder and one set of heads for each modality; modalities meet only in the labelling."""

from collections.abc import Mapping

from torch import Tensor, nn

from selavi.config import Config
from selavi.encoders import make_encoder
from selavi.heads import LinearHeads, MLPHeads, make_heads


class SelaviModel(nn.Module):
    """Inputs of the modalities -> features (B, D) -> logits (H, B, K), each in a mapping from the modality's name."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        encoders = {name: make_encoder(name, config.encoders) for name in config.modalities}
        self.num_features = {name: encoder.num_features for name, encoder in encoders.items()}
        self.encoders = nn.ModuleDict(encoders)
        heads = config.heads
        self.heads = nn.ModuleDict(
            {
                name: make_heads(heads.kind, heads.num_heads, num_features, heads.num_clusters, heads.dropout)
                for name, num_features in self.num_features.items()
            }
        )

    def permute_clusters(self, modality: str, head: int, permutation: Tensor) -> None:
        """Reorder the outputs of one head: its new logit k is its old logit permutation[k]."""
        heads = self.heads[modality]
        assert isinstance(heads, MLPHeads | LinearHeads)
        heads.permute_clusters(head, permutation)

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode augmented clips: (B, ...) -> (B, D) a modality."""
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}

    def logits(self, features: Mapping[str, Tensor], only: list[int] | None = None) -> dict[str, Tensor]:
        """Apply the heads: (B, D) -> (H, B, K) a modality, or only the heads named."""
        return {name: head(features[name], only) for name, head in self.heads.items()}

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Augmented clips -> (H, B, K) logits a modality."""
        return self.logits(self.features(inputs))
