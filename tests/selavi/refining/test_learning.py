"""Confidence, questions and heads, on features that are made up."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from selavi.config import Config, load_config
from selavi.errors import UsageError
from selavi.refining.confidence import calibrate, can_calibrate
from selavi.refining.heads import NamedHeads, folds_of_answers
from selavi.refining.kept_views import keep_views, read_views
from selavi.refining.places import Places
from selavi.refining.questions import choose_questions
from selavi.training.first.views import CachedViews

NUM_CLIPS, NUM_CLASSES = 240, 4
TRUE = torch.arange(NUM_CLIPS) % NUM_CLASSES


def made_views(noise: float = 0.6, num_views: int = 4) -> CachedViews:
    generator = torch.Generator().manual_seed(0)
    features, present = {}, {}
    for name in ("video", "audio"):
        centres = torch.randn(NUM_CLASSES, 16, generator=generator)
        values = centres[TRUE] + noise * torch.randn(num_views, NUM_CLIPS, 16, generator=generator)
        features[name] = values.half()
        present[name] = torch.ones(num_views, NUM_CLIPS, dtype=torch.bool)
    return CachedViews(torch.arange(NUM_CLIPS), features, present)


def config_of(num_places: int) -> Config:
    sizes = [f"heads.num_clusters={num_places}", "heads.num_heads=3", "labelling.votes=raw", "trainer.accelerator=cpu"]
    return load_config(None, ["data.root=x", *sizes])


def places_of(start: Tensor, answers: Tensor) -> Places:
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    return Places(names, [False] * NUM_CLASSES, start, answers, torch.zeros(len(start), dtype=torch.bool))


def trained_heads(places: Places) -> NamedHeads:
    """Heads that have learned all answers."""
    ids = [str(number) for number in range(NUM_CLIPS)]
    no_fold = torch.full_like(TRUE, -1)
    heads = NamedHeads(config_of(NUM_CLASSES), made_views(), ids, torch.device("cpu"), places, no_fold)
    heads.train()
    return heads


def test_answers_stay_and_pull_the_clips_that_are_like_them() -> None:
    """Half of class 0 was found as class 1; a few answers bring the rest of it home."""
    start = torch.where((TRUE == 0) & (torch.arange(NUM_CLIPS) >= 120), 1, TRUE)
    answers = torch.full_like(start, -1)
    wrong = (start != TRUE).nonzero()[:, 0]
    answers[wrong[:6]] = 0
    places = places_of(start, answers)
    heads = trained_heads(places)
    labels = heads.bank.labels[:, 0].long()
    assert (labels[wrong[:6]] == 0).all()
    rest = wrong[6:]
    assert (labels[rest] == 0).float().mean() > 0.9 > (start[rest] == 0).float().mean()
    assert torch.equal(trained_heads(places).bank.labels, heads.bank.labels)


def test_a_person_may_have_said_everything() -> None:
    places = places_of((TRUE + 1) % NUM_CLASSES, TRUE)
    heads = trained_heads(places)
    assert torch.equal(heads.bank.labels[:, 0].long(), TRUE)


def test_names_alone_leave_clips_where_they_are() -> None:
    start = (TRUE + torch.arange(NUM_CLIPS) // 120) % NUM_CLASSES
    places = places_of(start, torch.full_like(TRUE, -1))
    heads = trained_heads(places)
    assert torch.equal(heads.bank.labels[:, 0].long(), start)


def test_few_answers_move_few_other_clips() -> None:
    start = (TRUE + torch.arange(NUM_CLIPS) // 120) % NUM_CLASSES
    answers = torch.full_like(TRUE, -1)
    answers[-2:] = TRUE[-2:]
    places = places_of(start, answers)
    heads = trained_heads(places)
    moved = (heads.bank.labels.long() != start[:, None])[:-2]
    assert 0 < moved.sum(0).max() <= 2 / (3 * NUM_CLASSES) * NUM_CLIPS


def test_a_head_does_not_see_the_answers_of_its_fold() -> None:
    answers = torch.full_like(TRUE, -1)
    answers[:30] = (TRUE[:30] + 1) % NUM_CLASSES
    places = places_of(TRUE, answers)
    folds = folds_of_answers(places, 3, seed=0)
    assert torch.bincount(folds[:30]).tolist() == [10, 10, 10] and (folds[30:] == -1).all()
    ids = [str(number) for number in range(NUM_CLIPS)]
    heads = NamedHeads(config_of(NUM_CLASSES), made_views(), ids, torch.device("cpu"), places, folds)
    for head in range(3):
        own = folds == head
        assert torch.equal(heads.bank.labels[own, head].long(), TRUE[own])
        others = places.is_answered & ~own
        assert torch.equal(heads.bank.labels[others, head].long(), answers[others])


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_the_sharpness_under_which_answers_were_drawn_is_found(sharpness: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, 5, generator=generator)
    answers = torch.multinomial((sharpness * scores).softmax(1), 1, generator=generator)[:, 0]
    fitted = calibrate(scores, answers)
    assert fitted.sharpness == pytest.approx(sharpness, rel=0.15) and fitted.num_answers == 4000


def test_mistakes_alone_do_not_say_how_often_heads_are_right() -> None:
    answers, none = torch.zeros(50, dtype=torch.int64), torch.zeros(50, dtype=torch.bool)
    assert not can_calibrate(answers, none)
    assert can_calibrate(answers, torch.arange(50) < 5)
    assert not can_calibrate(answers[:19], torch.arange(19) < 5)


def test_questions_are_unsure_and_of_every_kind() -> None:
    kinds = torch.arange(100) % 5
    features = torch.eye(5)[kinds] + 0.01 * torch.arange(100)[:, None] / 100
    margins = torch.linspace(0, 1, 100)
    may_ask = torch.arange(100) != 0
    asked = choose_questions(features, margins, may_ask, 5, seed=0)
    assert sorted(kinds[asked].tolist()) == [0, 1, 2, 3, 4]
    assert 0 not in asked and margins[asked].max() < 0.55
    assert margins[asked].tolist() == sorted(margins[asked].tolist())
    assert len(choose_questions(features, margins, may_ask, 0, seed=0)) == 0
    assert len(choose_questions(features, margins, torch.arange(100) < 2, 5, seed=0)) == 2


def test_views_are_encoded_once_and_one_that_was_killed_goes_on(tmp_path: Path) -> None:
    whole, encoded = made_views(), list[int]()

    def encode(number: int) -> tuple[CachedViews, dict[int, str]]:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(number)
        return CachedViews(
            whole.index,
            {name: values[number : number + 1] for name, values in whole.features.items()},
            {name: values[number : number + 1] for name, values in whole.present.items()},
        ), ({3: "damaged"} if number == 3 else {})

    folder = tmp_path / "views"
    with pytest.raises(KeyboardInterrupt):
        keep_views(folder, "a", range(4), encode)
    with pytest.raises(UsageError, match=r"view-2.safetensors is missing"):
        read_views(folder, "a", 4)
    encoded.clear()
    keep_views(folder, "a", range(4), encode)
    views, reasons = read_views(folder, "a", 4)
    assert encoded == [2, 3] and reasons == {3: "damaged"}
    assert all(torch.equal(views.features[name], whole.features[name]) for name in whole.features)
    keep_views(folder, "a", range(4), encode)
    assert encoded == [2, 3]
    encoded.clear()
    with pytest.raises(KeyboardInterrupt):
        keep_views(folder, "other weights", range(4), encode)
