"""One encoder and one set of heads for each modality, which meet only in the labelling; or heads on all features."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from selavi.config import Config
from selavi.encoders import make_encoder
from selavi.encoders.encoder import Encoder
from selavi.encoders.fused import FusedEncoders
from selavi.heads import LinearHeads, MLPHeads, make_heads


class SelaviModel(nn.Module):
    """Inputs of the modalities -> features (B, D) -> logits (H, B, K), each in a mapping from the modality's name.

    Where the configuration asks for heads on the concatenated features (`Config.branches`), there is one branch,
    `concat`, in place of the modalities from the heads on.

    Args:
        config: the whole configuration.
        encoders: one for each modality; by default those that the configuration describes.

    Attributes:
        num_features: D of each modality.
        branch_features: D that the heads of each branch read.
    """

    def __init__(self, config: Config, encoders: Mapping[str, Encoder] | None = None) -> None:
        super().__init__()
        if encoders is None:
            encoders = {name: make_encoder(kind, config.seen_by(name)) for name, kind in config.kinds.items()}
        self.num_features = {name: encoder.num_features for name, encoder in encoders.items()}
        self.encoders = nn.ModuleDict(encoders)
        self.fused = config.is_fused
        together = {"concat": sum(self.num_features.values())}
        self.branch_features = together if self.fused else dict(self.num_features)
        heads = config.heads
        self.heads = nn.ModuleDict(
            {
                name: make_heads(heads.kind, heads.num_heads, num_features, heads.num_clusters, heads.dropout)
                for name, num_features in self.branch_features.items()
            }
        )

    def permute_clusters(self, branch: str, head: int, permutation: Tensor) -> None:
        """Reorder the outputs of one head: its new logit k is its old logit permutation[k]."""
        heads = self.heads[branch]
        assert isinstance(heads, MLPHeads | LinearHeads)
        heads.permute_clusters(head, permutation)

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode augmented clips: (B, ...) -> (B, D) a modality."""
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}

    def fused_encoders(self) -> FusedEncoders:
        """`features` in a faster form, of the encoders as they are when it is first called, in evaluation mode."""
        return FusedEncoders(dict(self.encoders.items()))

    def join(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features of the modalities -> features and presence of the branches, as the heads take them.

        Concatenated features of a modality that a clip lacks are 0, and the clip counts if it has any modality.

        Args:
            features: (B, D) a modality.
            present: (B,) bool a modality; without it every clip has them all.
        """
        some = next(iter(features.values()))
        if present is None:
            present = {name: torch.ones(some.shape[0], dtype=torch.bool, device=some.device) for name in features}
        if not self.fused:
            return dict(features), dict(present)
        kept = [torch.where(present[name][:, None], features[name], 0.0) for name in self.encoders]
        return {"concat": torch.cat(kept, 1)}, self.branch_present(present)

    def branch_present(self, present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which clips each branch can judge: (B,) bool a modality -> (B,) bool a branch."""
        return {"concat": torch.stack(list(present.values())).any(0)} if self.fused else dict(present)

    def logits(self, features: Mapping[str, Tensor], only: list[int] | None = None) -> dict[str, Tensor]:
        """Apply the heads: (B, D) -> (H, B, K) a branch, or only the heads named."""
        return {name: head(features[name], only) for name, head in self.heads.items()}

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Augmented clips -> (H, B, K) logits a branch; `present` as in `join`."""
        return self.logits(self.join(self.features(inputs), present)[0])
