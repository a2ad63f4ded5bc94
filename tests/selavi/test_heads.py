import pytest
import torch
from torch import Tensor, nn

from selavi.heads import LinearHeads, MLPHeads, make_heads

H, D, K, B = 3, 10, 5, 7


def trained(heads: MLPHeads) -> MLPHeads:
    """Heads whose batch norm has seen data and whose scales and shifts are not those it starts with."""
    with torch.no_grad():
        heads.norm.weight.uniform_(0.5, 1.5)
        heads.norm.bias.normal_()
        for _ in range(4):
            heads(torch.randn(32, D) * 2 + 1)
    return heads.eval()


def separate(heads: MLPHeads) -> nn.ModuleList:
    """The same heads as one nn.Sequential each: the layers of the official MLPv2, weights copied."""
    modules = nn.ModuleList()
    for head in range(H):
        own = slice(head * D, (head + 1) * D)
        alone = nn.Sequential(
            nn.Dropout(heads.dropout),
            nn.Linear(D, D, bias=False),
            nn.BatchNorm1d(D),
            nn.ReLU(),
            nn.Dropout(heads.dropout),
            nn.Linear(D, K),
        )
        norm = {
            "weight": heads.norm.weight[own],
            "bias": heads.norm.bias[own],
            "running_mean": heads.norm.running_mean[own],
            "running_var": heads.norm.running_var[own],
            "num_batches_tracked": heads.norm.num_batches_tracked,
        }
        alone[1].load_state_dict({"weight": heads.hidden[head]})
        alone[2].load_state_dict(norm)
        alone[5].load_state_dict({"weight": heads.output.weight[head], "bias": heads.output.bias[head]})
        modules.append(alone)
    return modules


@pytest.fixture
def mlp() -> MLPHeads:
    torch.manual_seed(0)
    return trained(MLPHeads(H, D, K, dropout=0.3))


@pytest.fixture
def features() -> Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1))


def test_the_head_axis_equals_separate_modules(mlp: MLPHeads, features: Tensor) -> None:
    expected = torch.stack([alone(features) for alone in separate(mlp).eval()])
    torch.testing.assert_close(mlp(features), expected)


def test_gradients_and_batch_statistics_equal_those_of_separate_modules(mlp: MLPHeads, features: Tensor) -> None:
    modules = separate(mlp)
    mlp.dropout = 0.0
    for module in modules.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    mlp.train()
    modules.train()
    mlp(features).square().sum().backward()
    torch.stack([alone(features) for alone in modules]).square().sum().backward()
    for head, alone in enumerate(modules):
        torch.testing.assert_close(mlp.hidden.grad[head], alone[1].weight.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mlp.output.weight.grad[head], alone[5].weight.grad, rtol=1e-4, atol=1e-4)
        own = slice(head * D, (head + 1) * D)
        torch.testing.assert_close(mlp.norm.running_var[own], alone[2].running_var)


def test_dropout_draws_a_mask_for_each_head(features: Tensor) -> None:
    heads = MLPHeads(2, D, K, dropout=0.5)
    with torch.no_grad():
        heads.hidden[1], heads.output.weight[1], heads.output.bias[1] = (
            heads.hidden[0],
            heads.output.weight[0],
            heads.output.bias[0],
        )
    first, second = heads.eval()(features)
    torch.testing.assert_close(first, second)
    first, second = heads.train()(features)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_some_of_the_heads(kind: str, features: Tensor) -> None:
    torch.manual_seed(0)
    heads = make_heads(kind, H, D, K, 0.3)
    heads = trained(heads) if isinstance(heads, MLPHeads) else heads
    whole = heads(features)
    for only in ([1], [2, 0], [0, 1, 2]):
        torch.testing.assert_close(heads(features, only=only), whole[only])


def test_some_of_the_heads_in_training_mode_are_refused(mlp: MLPHeads, features: Tensor) -> None:
    with pytest.raises(ValueError, match="evaluation mode only"):
        mlp.train()(features, only=[1])


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_a_batch_of_one_and_one_head_keep_their_axes(kind: str) -> None:
    heads = make_heads(kind, 1, D, K, 0.3).eval()
    assert heads(torch.randn(1, D)).shape == (1, 1, K)
    assert heads(torch.randn(1, D), only=[0]).shape == (1, 1, K)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_permuting_the_clusters_of_one_head(kind: str, features: Tensor) -> None:
    heads = make_heads(kind, H, D, K, 0.3).eval()
    before = heads(features)
    permutation = torch.tensor([3, 0, 4, 1, 2])
    heads.permute_clusters(1, permutation)
    after = heads(features)
    torch.testing.assert_close(after[1], before[1][:, permutation])
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])


def test_linear_heads_are_linear_layers(features: Tensor) -> None:
    heads = LinearHeads(H, D, K)
    for head in range(H):
        expected = nn.functional.linear(features, heads.weight[head], heads.bias[head])
        torch.testing.assert_close(heads(features)[head], expected)


def test_parameters_are_as_many_and_start_as_in_torch() -> None:
    heads = MLPHeads(10, 512, 309)
    assert sum(p.numel() for p in heads.parameters()) == 10 * 421_685  # each 262,144 + 1,024 + 513 K
    bound = 512**-0.5
    for values in (heads.hidden, heads.output.weight, heads.output.bias):
        assert values.abs().max().item() <= bound
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'mlp' or 'linear', got 'deep'"):
        make_heads("deep", 1, 2, 2, 0.0)
