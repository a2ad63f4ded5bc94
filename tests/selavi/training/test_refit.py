from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from selavi.config import Config
from selavi.heads import make_heads
from selavi.model import SelaviModel
from selavi.training.first.views import CachedViews
from selavi.training.refit import NUM_VIEWS, Scaled, _gain, _take_in, affordable_views, refit


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_heads_take_in_what_scaled_their_features(kind: str) -> None:
    torch.manual_seed(0)
    gain, features = torch.rand(6) + 0.5, torch.randn(20, 6)
    heads = make_heads(kind, 3, 6, 4, 0.0).eval()
    before = heads(Scaled(gain)(features))
    _take_in(heads, gain)
    torch.testing.assert_close(heads(features), before)


def test_features_are_scaled_by_the_views_that_are_there() -> None:
    features = torch.tensor([[[3.0, 0.0], [100.0, 100.0]], [[3.0, 0.0], [3.0, 0.0]]])
    present = torch.tensor([[True, False], [True, True]])
    torch.testing.assert_close(_gain(features, present), torch.tensor([1 / 3, 0.0]))


def groups(num_groups: int, num_clips: int, sizes: dict[str, int]) -> tuple[CachedViews, torch.Tensor]:
    """Two noisy views of clips of some groups."""
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(num_clips) % num_groups
    features = {}
    for name, size in sizes.items():
        centres = 4 * torch.randn(num_groups, size, generator=generator)
        features[name] = (centres[group] + torch.randn(2, num_clips, size, generator=generator)).half()
    present = {name: torch.ones(2, num_clips, dtype=torch.bool) for name in sizes}
    return CachedViews(torch.arange(num_clips), features, present), group


@pytest.mark.parametrize("source", ["joint", "concat", "own"])
def test_new_heads_find_other_clusters_on_frozen_encoders(tiny: Callable[..., Config], source: str) -> None:
    config = tiny(f"labelling.source={source}", "heads.num_clusters=3")
    model = SelaviModel(config).eval()
    weights = {name: value.clone() for name, value in model.encoders.state_dict().items()}
    views, group = groups(5, 60, model.num_features)
    new = replace(config, heads=replace(config.heads, num_clusters=5))
    first = views.take(torch.zeros(60, dtype=torch.int64), views.index, torch.device("cpu"))
    plain = [(first.index, dict(first.features), dict(first.present))]
    fitted = refit(new, model, views, [str(number) for number in range(60)], plain)
    assert fitted.bank.labels.shape == (60, new.num_label_heads)
    assert fitted.statistics.confidence.isfinite().all()
    assert fitted.bank.labels.amax() == 4
    for column in fitted.bank.labels.T:
        assert sum(len(column[group == number].unique()) == 1 for number in range(5)) >= 4
    for name, value in fitted.model.encoders.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


def test_as_many_views_as_fit(tiny: Callable[..., Config]) -> None:
    model = SelaviModel(tiny())
    bytes_a_clip = sum(2 * size + 1 for size in model.num_features.values())
    assert affordable_views(model, 1000, 3.5 * 1000 * bytes_a_clip / 1e9) == 3
    assert affordable_views(model, 10**9, 0.001) == 1
    assert affordable_views(model, 10, 4.0) == NUM_VIEWS
