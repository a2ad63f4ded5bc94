"""H classifiers on the same features, computed together: the head is a tensor axis."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearHeads(nn.Module):
    """H linear layers: features (B, D) -> logits (H, B, K)."""

    def __init__(self, num_heads: int, num_features: int, num_clusters: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_uniform(num_heads, num_clusters, num_features))
        self.bias = nn.Parameter(_uniform(num_heads, num_clusters, fan_in=num_features))

    def forward(self, features: Tensor, only: list[int] | None = None) -> Tensor:
        """(B, D) -> (H, B, K), or (len(only), B, K) for the heads in `only`."""
        weight, bias = (self.weight, self.bias) if only is None else (self.weight[only], self.bias[only])
        return torch.einsum("bd,hkd->hbk", features, weight) + bias[:, None]

    @torch.no_grad()
    def permute_clusters(self, head: int, permutation: Tensor) -> None:
        """Reorder the outputs of one head: its new logit k is its old logit permutation[k]."""
        self.weight[head] = self.weight[head, permutation]
        self.bias[head] = self.bias[head, permutation]


class MLPHeads(nn.Module):
    """H two-layer perceptrons: dropout, linear without bias, batch norm, ReLU, dropout, linear.

    Features (B, D) -> logits (H, B, K); the hidden layer is as wide as the features.
    """

    def __init__(self, num_heads: int, num_features: int, num_clusters: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.dropout = dropout
        self.hidden = nn.Parameter(_uniform(num_heads, num_features, num_features))
        self.norm = nn.BatchNorm1d(num_heads * num_features)
        self.output = LinearHeads(num_heads, num_features, num_clusters)

    def forward(self, features: Tensor, only: list[int] | None = None) -> Tensor:
        """(B, D) -> (H, B, K), or (len(only), B, K) for the heads in `only` (evaluation mode only)."""
        if only is not None:
            return self._some(features, only)
        num_heads, num_features = self.hidden.shape[:2]
        x = features.expand(num_heads, -1, -1)  # dropout then draws one mask a head
        x = torch.bmm(F.dropout(x, self.dropout, self.training), self.hidden.transpose(1, 2))
        x = self.norm(x.transpose(0, 1).flatten(1)).unflatten(1, (num_heads, num_features)).transpose(0, 1)
        x = F.dropout(F.relu(x), self.dropout, self.training)
        return torch.baddbmm(self.output.bias[:, None], x, self.output.weight.transpose(1, 2))

    def _some(self, features: Tensor, only: list[int]) -> Tensor:
        if self.training:
            raise ValueError("a part of the heads can be computed in evaluation mode only (batch norm)")
        num_heads, num_features = self.hidden.shape[:2]
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        shift = self.norm.bias - self.norm.running_mean * scale
        scale, shift = (v.view(num_heads, 1, num_features)[only] for v in (scale, shift))
        x = torch.einsum("bd,hed->hbe", features, self.hidden[only])
        x = F.relu(x * scale + shift)
        return torch.baddbmm(self.output.bias[only][:, None], x, self.output.weight[only].transpose(1, 2))

    def permute_clusters(self, head: int, permutation: Tensor) -> None:
        """Reorder the outputs of one head: its new logit k is its old logit permutation[k]."""
        self.output.permute_clusters(head, permutation)


def make_heads(
    kind: str, num_heads: int, num_features: int, num_clusters: int, dropout: float
) -> LinearHeads | MLPHeads:
    """Build `mlp` or `linear` heads.

    Raises:
        ValueError: any other kind.
    """
    if kind == "mlp":
        return MLPHeads(num_heads, num_features, num_clusters, dropout)
    if kind == "linear":
        return LinearHeads(num_heads, num_features, num_clusters)
    raise ValueError(f"heads are 'mlp' or 'linear', got {kind!r}")


def _uniform(*shape: int, fan_in: int | None = None) -> Tensor:
    """torch.nn.Linear's initialisation: U(-1/sqrt(fan in), 1/sqrt(fan in))."""
    bound = 1 / math.sqrt(fan_in or shape[-1])
    return torch.empty(shape).uniform_(-bound, bound)
