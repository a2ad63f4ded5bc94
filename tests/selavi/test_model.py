from collections.abc import Callable

import pytest
import torch

from selavi.config import Config
from selavi.model import SelaviModel


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "video": torch.randn(3, 3, 2, 24, 24, generator=generator),
        "audio": torch.randn(3, 1, 32, 60, generator=generator),
    }


def test_every_modality_has_heads_of_its_own(tiny: Callable[..., Config], inputs: dict[str, torch.Tensor]) -> None:
    for source in ("joint", "own", "cross"):
        model = SelaviModel(tiny(f"labelling.source={source}")).eval()
        logits = model(inputs)
        assert {name: z.shape for name, z in logits.items()} == {"video": (2, 3, 8), "audio": (2, 3, 8)}
        assert model.branch_features == model.num_features
        present = {"video": torch.tensor([True, True, False]), "audio": torch.tensor([True, False, False])}
        assert model.branch_present(present) == present


def test_heads_may_read_the_concatenated_features(tiny: Callable[..., Config], inputs: dict[str, torch.Tensor]) -> None:
    model = SelaviModel(tiny("labelling.source=concat")).eval()
    features = model.features(inputs)
    assert model.num_features == {name: part.shape[1] for name, part in features.items()}
    assert model.branch_features == {"concat": sum(model.num_features.values())}
    expected = model.heads["concat"](torch.cat([features["video"], features["audio"]], 1))
    assert expected.shape == (2, 3, 8)
    torch.testing.assert_close(model(inputs)["concat"], expected)


def test_what_a_clip_lacks_is_nothing_to_the_heads(
    tiny: Callable[..., Config], inputs: dict[str, torch.Tensor]
) -> None:
    model = SelaviModel(tiny("labelling.source=concat")).eval()
    present = {"video": torch.tensor([True, True, False]), "audio": torch.tensor([True, False, False])}
    whole = model(inputs, present)["concat"]
    inputs["audio"][1:] = 1e3
    inputs["video"][2] = -1e3
    torch.testing.assert_close(model(inputs, present)["concat"], whole)
    assert not torch.allclose(model(inputs)["concat"], whole)
    features, told = model.join(model.features(inputs), present)
    assert (features["concat"][1, model.num_features["video"] :] == 0).all()
    assert told["concat"].tolist() == [True, True, False]
    model(inputs, present)["concat"].sum().backward()  # and gets no gradient that is not finite
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_kmeans_on_concatenated_features_leaves_each_its_heads(tiny: Callable[..., Config]) -> None:
    model = SelaviModel(tiny("labelling.source=concat", "labelling.method=kmeans"))
    assert list(model.heads) == ["video", "audio"]
