"""Votes of equal spread: no modality has more say for being more confident, and unseen clips are judged alike."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from selavi.config import Config, load_config
from selavi.inference.predict import score_views
from selavi.labelling import memory
from selavi.labelling.bank import LabelBank
from selavi.labelling.features import FeatureTable
from selavi.labelling.labeller import Labeller
from selavi.labelling.rule import LabelRule, take_rule
from selavi.labelling.scores import combine_scores
from selavi.labelling.solver.transport import assign
from selavi.labelling.spread import Spread, equal_gains

N, K, H = 60, 4, 2


def settings(*overrides: str) -> Config:
    common = [f"heads.num_heads={H}", f"heads.num_clusters={K}", "labelling.marginal=uniform"]
    return load_config(None, [*common, "labelling.head_groups=1", *overrides])


class Clips:
    """Logits (H, N, K) a modality as features; the heads pass them on."""

    def __init__(self, config: Config, confidence: Mapping[str, float], seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        self.logits = {name: confidence[name] * torch.randn(H, N, K, generator=generator) for name in config.modalities}
        self.present = {name: torch.ones(N, dtype=torch.bool) for name in config.modalities}

    def collect(self, _: int) -> FeatureTable:
        features = {name: values.transpose(0, 1).flatten(1) for name, values in self.logits.items()}
        return FeatureTable(torch.arange(N), features, self.present)

    @staticmethod
    def head_logits(features: Mapping[str, Tensor], only: list[int]) -> dict[str, Tensor]:
        return {name: values.unflatten(1, (H, K)).transpose(0, 1)[only] for name, values in features.items()}

    def label(self) -> tuple[LabelBank, object]:
        bank = LabelBank([str(n) for n in range(N)], self.config.num_label_heads, K)
        report, _ = Labeller(self.config).relabel(bank, self.collect, self.head_logits, lambda *_: None, True)
        return bank, report

    def votes_by_hand(self, head: int) -> Tensor:
        """The formula of the issue, one clip and cluster after the other; nan where a clip lacks the modality."""
        votes, spreads = {}, {}
        for name, values in self.logits.items():
            z = values[head].double().log_softmax(1)
            z = z - z.mean(1, keepdim=True)
            z = z - z[self.present[name]].mean(0)
            spreads[name] = z[self.present[name]].square().mean().sqrt()
            votes[name] = z / spreads[name]
        total = torch.zeros(N, K, dtype=torch.float64)
        shares = torch.zeros(N, 1, dtype=torch.float64)
        for name, values in votes.items():
            weight = self.config.labelling.weights[name] * self.present[name].double()[:, None]
            total += weight * values.nan_to_num()
            shares += weight
        return max(spreads.values()) * total / shares


BOTH = {"video": 3.0, "audio": 0.2}


def same_row_by_row(one: Tensor, other: Tensor) -> None:
    """Scores that differ by a constant of the clip mean the same."""
    difference = one.double() - other.double()
    torch.testing.assert_close(
        difference - difference.mean(1, keepdim=True), torch.zeros(N, K).double(), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("weights", ["{video: 1, audio: 1}", "{video: 1, audio: 3}"])
@pytest.mark.parametrize("block_rows", [7, 1000])
def test_scores_are_those_of_the_formula(weights: str, block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK_ROWS", block_rows)
    clips = Clips(settings("labelling.align_modalities=false", f"labelling.weights={weights}"), BOTH)
    clips.present["audio"][::5] = False
    clips.logits["audio"][:, ::5] = torch.nan
    bank, _ = clips.label()
    for head in range(H):
        logs = {name: values[head].log_softmax(1) for name, values in clips.logits.items()}
        scores = combine_scores(bank.rule.scale(head, logs), clips.config.branch_weights, clips.present)
        same_row_by_row(scores, clips.votes_by_hand(head))
        by_hand = assign(clips.votes_by_hand(head).float(), torch.full((K,), 1 / K), sharpness=20.0)
        assert (by_hand.labels == bank.labels[:, head]).float().mean() > 0.98  # ties of rounding


def test_confidence_gives_no_say() -> None:
    """However confident a modality becomes in the same votes, the labels stay; raw votes make them its own."""
    labels = {}
    for votes in ("equal", "raw"):
        for factor in (1.0, 8.0):
            clips = Clips(
                settings("labelling.align_modalities=false", f"labelling.votes={votes}"), {"video": 0.02, "audio": 0.02}
            )
            # Small logits: log-probabilities are then nearly linear in them, so that a factor changes nothing else.
            clips.logits["video"] *= factor
            labels[votes, factor] = clips.label()[0].labels
    equal = (labels["equal", 1.0] == labels["equal", 8.0]).float().mean()
    raw = (labels["raw", 1.0] == labels["raw", 8.0]).float().mean()
    assert equal > 0.9 > 0.8 > raw


@pytest.mark.parametrize("overrides", [["modalities=[audio]"], ["labelling.source=own"], ["labelling.source=concat"]])
def test_whoever_votes_alone_has_the_labels_of_raw_votes(overrides: list[str]) -> None:
    tables = []
    for votes in ("equal", "raw"):
        config = settings(*overrides, f"labelling.votes={votes}")
        clips = Clips(config, BOTH)
        if config.branches == ["concat"]:
            clips.logits = {"concat": clips.logits["video"]}
            clips.present = {"concat": torch.ones(N, dtype=torch.bool)}
        bank, _ = clips.label()
        assert bank.rule.gains == {}
        tables.append(bank.labels)
    assert torch.equal(tables[0], tables[1])


def test_unseen_clips_are_scored_by_the_same_rule() -> None:
    """Clips that come again as unseen ones get the labels that they had."""
    clips = Clips(settings("labelling.align_modalities=false"), BOTH)
    clips.present["audio"][::5] = False
    clips.logits["audio"][:, ::5] = torch.nan
    bank, _ = clips.label()
    logits = {name: values.nan_to_num() for name, values in clips.logits.items()}
    for column in range(H):
        _, _, scores = score_views(logits, clips.present, 1, column, clips.config, bank.rule)
        assigned = (20.0 * scores + bank.rule.potentials[column]).argmax(1)
        assert torch.equal(assigned, bank.labels[:, column].long())
    again = LabelBank(bank.ids, H, K)
    again.load_state_dict(bank.state_dict())
    for name in clips.logits:
        assert torch.equal(again.rule.gains[name], bank.rule.gains[name])
        assert torch.equal(again.rule.centres[name], bank.rule.centres[name])


def test_the_race_is_measured() -> None:
    clips = Clips(settings("labelling.align_modalities=false", "labelling.votes=raw"), {"video": 9.0, "audio": 0.01})
    bank, report = clips.label()
    race = report.race  # type: ignore[attr-defined]
    video, audio = race.modalities["video"], race.modalities["audio"]
    own = {name: values.argmax(2).T for name, values in clips.logits.items()}
    assert video.own_share == pytest.approx((own["video"] == bank.labels).float().mean().item(), abs=1e-6)
    assert video.own_share > 0.8 and audio.own_share < 0.5
    assert audio.cross_entropy == pytest.approx(math.log(K), abs=0.05)
    assert video.spread > 100 * audio.spread
    assert 0 <= race.agreement < 0.2


def test_a_spread_is_that_of_all_blocks_and_of_nothing_is_0() -> None:
    values = torch.randn(50, K, generator=torch.Generator().manual_seed(1)).log_softmax(1)
    whole, parts, empty = (Spread(K, torch.device("cpu")) for _ in range(3))
    whole.add(values)
    for part in values.split(7):
        parts.add(part)
    torch.testing.assert_close(whole.sums, parts.sums)
    centre, spread = whole.measure()
    z = values.double() - values.double().mean(1, keepdim=True)
    torch.testing.assert_close(centre, z.mean(0))
    assert spread == pytest.approx((z - z.mean(0)).square().mean().sqrt().item())
    assert empty.measure()[1] == 0
    assert equal_gains({"a": 2.0, "b": 0.5, "c": 0.0}) == {"a": 1.0, "b": 4.0, "c": 1.0}


def test_a_rule_is_taken_out_of_other_tensors() -> None:
    rule = LabelRule.plain(2, 3)
    rule.set_scale(1, {"video": torch.tensor([1.0, -1.0, 0.0])}, {"video": 2.5})
    tensors = {"encoders.video.stem": torch.ones(2), **rule.tensors()}
    again = take_rule(tensors)
    assert again is not None and list(tensors) == ["encoders.video.stem"]
    assert again.gains["video"].tolist() == [1.0, 2.5]
    scaled = again.scale(1, {"video": torch.zeros(1, 3), "audio": torch.ones(1, 3)})
    assert scaled["video"].tolist() == [[-2.5, 2.5, 0.0]] and scaled["audio"].tolist() == [[1.0, 1.0, 1.0]]
    assert again.without_sizes().scale(1, {"video": torch.ones(1, 3)})["video"].tolist() == [[2.5, 2.5, 2.5]]
    assert take_rule({"encoders.video.stem": torch.ones(2)}) is None
