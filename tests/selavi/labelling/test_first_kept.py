"""The labels that were given first are kept until every modality has learned them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from selavi.labelling.bank import LabelBank
from selavi.labelling.labeller import Draft, Labeller, LabellingReport
from tests.selavi.labelling.test_equal_votes import BOTH, Clips, H, K, N, settings


def first_labels(clips: Clips, learned: dict[str, float]) -> Tensor:
    """(N, H) labels of which a share is each modality's own likeliest cluster: drawn anew for each clip and head."""
    generator = np.random.default_rng(0)
    logits = clips.head_logits(clips.collect(0).features, list(range(H)))
    labels = torch.from_numpy(generator.integers(K, size=(N, H)))
    for name, share in learned.items():
        own = logits[name].argmax(2).T
        chosen = torch.from_numpy(generator.random((N, H)) < share)
        labels = torch.where(chosen, own, labels)
    return labels.int()


def relabelled(
    learned: dict[str, float], *overrides: str, keeps: bool = True, statistics: bool = False
) -> tuple[LabelBank, Tensor, LabellingReport]:
    config = settings(*overrides)
    clips = Clips(config, {name: BOTH[name] for name in config.modalities})
    bank = LabelBank([str(n) for n in range(N)], H, K)
    bank.labels = first = first_labels(clips, {name: learned[name] for name in config.modalities})
    bank.num_labellings, bank.keeps_first = 2, keeps
    report, _ = Labeller(config).relabel(bank, clips.collect, clips.head_logits, lambda *_: None, statistics)
    return bank, first, report


def test_they_are_kept_while_one_has_not_learned_them() -> None:
    bank, first, report = relabelled({"video": 0.0, "audio": 0.9})
    assert torch.equal(bank.labels, first) and bank.keeps_first and bank.num_labellings == 3
    assert report.keeps_first and report.least_learned < 0.2 and report.churn == 0
    assert report.race.modalities["video"].own_share < report.race.modalities["audio"].own_share


def test_labelling_goes_on_when_all_have_learned_them() -> None:
    bank, first, report = relabelled({"video": 0.95, "audio": 0.5})
    without, _, _ = relabelled({"video": 0.95, "audio": 0.5}, keeps=False)
    assert not report.keeps_first and not bank.keeps_first and report.least_learned > 0.2
    assert not torch.equal(bank.labels, first) and torch.equal(bank.labels, without.labels)


def test_the_last_labelling_keeps_nothing() -> None:
    bank, first, report = relabelled({"video": 0.0, "audio": 0.9}, statistics=True)
    assert not report.keeps_first and not bank.keeps_first and not torch.equal(bank.labels, first)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_one_modality_is_asked_alone(share: float) -> None:
    _, _, report = relabelled({"audio": share}, "modalities=[audio]")
    assert report.keeps_first == (share == 0)


def test_what_one_that_always_says_the_same_would_get_is_chance() -> None:
    config = settings("modalities=[audio]")
    clips = Clips(config, {"audio": BOTH["audio"]})
    bank = LabelBank([str(n) for n in range(N)], H, K)
    bank.labels, bank.keeps_first, bank.num_labellings = torch.zeros(N, H, dtype=torch.int32), True, 1
    report, _ = Labeller(config).relabel(bank, clips.collect, clips.head_logits, lambda *_: None)
    assert not report.keeps_first and report.least_learned == 1.0  # one cluster holds all: nothing can be learned


def test_it_is_kept_with_bank_and_draft(tmp_path: Path) -> None:
    bank = LabelBank(["a", "b"], H, K)
    bank.keeps_first = True
    other = LabelBank(["a", "b"], H, K)
    other.load_state_dict(bank.state_dict())
    assert other.keeps_first
    earlier = {name: value for name, value in bank.state_dict().items() if name != "keeps_first"}
    other.load_state_dict(earlier)
    assert not other.keeps_first
    draft = Draft(bank)
    draft.keeps_first, draft.least_learned = True, 0.1
    again = Draft.from_state(bank, draft.state_dict(), tmp_path)
    assert again.keeps_first and again.least_learned == 0.1
