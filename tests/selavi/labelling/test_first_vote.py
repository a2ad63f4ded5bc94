"""The first labels go on as one more vote, which weighs less and less."""

import pytest
import torch
from torch import Tensor

from selavi.labelling.bank import LabelBank
from selavi.labelling.labeller import Labeller
from selavi.labelling.schedule import first_weight
from selavi.labelling.spread import Spread
from selavi.labelling.votes import Hint
from tests.selavi.labelling.test_equal_votes import BOTH, Clips, H, K, N, settings


def test_it_falls_from_the_end_of_the_first_share_on() -> None:
    weights = [first_weight(number / 10, 0.2, 0.5) for number in range(11)]
    assert weights == pytest.approx([1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0])
    assert first_weight(0.3, 0.2, 0.0) == 0


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_it_has_ended_when_training_ends(share: float) -> None:
    assert first_weight(1.0, share, 0.5) == 0
    assert first_weight(share - 0.01, share, 0.5) == 1
    assert 0 < first_weight(0.99, share, 1.0) <= 1


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_it_spreads_as_it_weighs(weight: float) -> None:
    labels = torch.randint(K, (N, 1), generator=torch.Generator().manual_seed(0))
    spread = Spread(K, torch.device("cpu"))
    # Centred over clusters alone: which clusters the labels prefer is no part of it.
    vote = Hint(labels, weight).vote(torch.zeros(N, K), 0, slice(0, N), spread=3.0)
    values = vote - vote.mean(1, keepdim=True)
    assert values.square().mean().sqrt() == pytest.approx(3.0 * weight)
    assert (vote.argmax(1) == labels[:, 0]).all()
    spread.add(vote)
    assert spread.measure()[1] <= 3.0 * weight


def test_clips_without_a_label_keep_their_scores() -> None:
    labels, scores = torch.full((N, 1), -1), torch.randn(N, K)
    labels[:5] = 2
    voted = Hint(labels, 1.0).vote(scores[3:9], 0, slice(3, 9), spread=1.0)
    assert torch.equal(voted[2:], scores[5:9])
    assert (voted[:2] - scores[3:5])[:, 2].min() > 0


def relabelled(first: Tensor | None, weight: float, *overrides: str) -> LabelBank:
    config = settings(*overrides)
    clips = Clips(config, {name: BOTH[name] for name in config.modalities})
    bank = LabelBank([str(n) for n in range(N)], H, K)
    bank.labels = torch.zeros(N, H, dtype=torch.int32)
    bank.num_labellings, bank.first = 2, first
    Labeller(config).relabel(bank, clips.collect, clips.head_logits, lambda *_: None, first_weight=weight)
    return bank


@pytest.mark.parametrize("overrides", [(), ("modalities=[video]",), ("labelling.votes=raw",)])
def test_labels_go_over_to_what_the_heads_say(overrides: tuple[str, ...]) -> None:
    first = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(n)) % K for n in range(H)], 1).int()
    without = relabelled(None, 1.0, *overrides).labels
    like_first, like_heads = [], []
    for weight in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0):
        bank = relabelled(first, weight, *overrides)
        like_first.append(float((bank.labels == first).float().mean()))
        like_heads.append(float((bank.labels == without).float().mean()))
        assert (bank.first is None) == (weight == 0)
    assert like_first[0] > 0.6
    assert like_first == sorted(like_first, reverse=True)
    assert like_heads == sorted(like_heads)
    assert like_heads[-1] == 1


def test_they_are_kept_with_the_bank() -> None:
    bank = LabelBank(["a", "b"], H, K)
    assert "first" not in bank.state_dict()
    bank.first = torch.tensor([[0, 1], [2, 3]], dtype=torch.int32)
    other = LabelBank(["a", "b"], H, K)
    other.load_state_dict(bank.state_dict())
    assert other.first is not None
    assert torch.equal(other.first, bank.first)
