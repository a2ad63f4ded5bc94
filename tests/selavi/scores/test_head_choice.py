import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from selavi.scores.head_choice import choose_head, describe_agreement


def test_the_head_that_agrees_most_is_chosen_and_agreement_is_the_mean_nmi() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 400)
    noise = [1.0, 0.3, 0.0, 0.3, 1.0]
    heads = [np.where(rng.random(400) < share, rng.integers(0, 4, 400), truth) for share in noise]
    assignments = np.stack(heads, axis=1)
    choice = choose_head(assignments)
    assert choice.head == 2
    for head in range(5):
        others = [normalized_mutual_info_score(heads[head], heads[other]) for other in range(5) if other != head]
        assert choice.scores["agreement"][head] == pytest.approx(np.mean(others), abs=1e-12)


def test_chance_is_what_shuffled_heads_agree_by() -> None:
    rng = np.random.default_rng(5)
    assignments = np.stack([rng.choice(6, 80, p=np.arange(1, 7) / 21) for _ in range(3)], axis=1)
    choice = choose_head(assignments)
    others = [head for head in range(3) if head != choice.head]
    own = assignments[:, choice.head]
    shuffled = [
        np.mean([normalized_mutual_info_score(own, rng.permutation(assignments[:, other])) for other in others])
        for _ in range(400)
    ]
    assert choice.chance == pytest.approx(np.mean(shuffled), abs=0.004)
    assert np.isnan(choose_head(assignments[:, :1]).chance)


@pytest.mark.parametrize(
    ("agreement", "chance", "word"),
    [(0.95, 0.1, "stable"), (0.75, 0.3, "fairly stable"), (0.644, 0.4, "unsure"), (0.5, 0.45, "hardly more than")],
)
def test_an_agreement_is_put_into_a_word(agreement: float, chance: float, word: str) -> None:
    said = describe_agreement(agreement, chance)
    assert said.startswith(word) and f"would agree {chance:.3f}" in said


def test_cluster_numbers_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    assignments = rng.integers(0, 5, (200, 4))
    renamed = assignments.copy()
    renamed[:, 2] = np.array([3, 1, 4, 0, 2])[renamed[:, 2]]
    before, after = (choose_head(heads).scores["agreement"] for heads in (assignments, renamed))
    assert after == pytest.approx(before, abs=1e-12)


def test_ties_go_to_the_lowest_head() -> None:
    column = np.arange(12) % 3
    assert choose_head(np.stack([column, (column + 1) % 3, column], axis=1)).head == 0
    odd = np.arange(12) // 6
    assert choose_head(np.stack([odd, column, column, column], axis=1)).head == 1


def test_collapsed_heads_do_not_win_by_agreeing_with_each_other() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 90)
    collapsed = np.zeros(90, dtype=np.int64)
    noisy = np.where(rng.random(90) < 0.5, rng.integers(0, 3, 90), truth)
    choice = choose_head(np.stack([collapsed, collapsed, collapsed, truth, noisy], axis=1))
    assert choice.head == 3
    assert choice.scores["agreement"][:3].tolist() == [0, 0, 0]


def test_a_single_head_is_head_0() -> None:
    choice = choose_head(np.zeros((5, 1), dtype=np.int64))
    assert choice.head == 0
    assert np.isnan(choice.scores["agreement"]).tolist() == [True]


@pytest.mark.parametrize("shape", [(5,), (0, 3), (5, 0), (2, 2, 2)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"assignments \(N, H\)"):
        choose_head(np.zeros(shape, dtype=np.int64))


def test_the_modalities_choose_the_head_on_which_they_agree_and_clips_with_one_modality_do_not_count() -> None:
    assignments = np.arange(12).reshape(4, 3) % 2
    shared = np.array([[0.1, 0.9, 0.2], [0.1, np.nan, 0.2], [0.1, np.nan, 0.9], [0.1, 0.5, 0.2]])
    choice = choose_head(assignments, "modalities", modality_agreement=shared)
    assert (choice.head, choice.criterion) == (1, "modalities")
    assert choice.scores["modalities"] == pytest.approx([0.1, 0.7, 0.375])


def test_the_probe_chooses_where_every_head_has_been_scored() -> None:
    """Agreement chooses head 1, the probe head 2, or 0 where it is told not to choose by default."""
    column = np.arange(12) % 3
    assignments = np.stack([np.arange(12) // 6, column, column, column], axis=1)
    probe = np.array([0.2, 0.3, 0.9, -0.1])
    assert choose_head(assignments).head == 1
    choice = choose_head(assignments, probe=probe)
    assert (choice.head, choice.criterion) == (2, "probe")
    assert choice.scores["probe"] is probe and choice.scores["agreement"][0] < 0.5
    assert choose_head(assignments, "agreement", probe=probe).head == 1
    some = np.array([0.2, np.nan, -0.9, np.nan])
    assert choose_head(assignments, probe=some).criterion == "agreement"
    assert choose_head(assignments, "probe", probe=some).head == 0
    assert choose_head(assignments, "probe", probe=np.array([np.nan, -0.2, -0.1, np.nan])).head == 2


@pytest.mark.parametrize("criterion", ["modalities", "probe", "nmi"])
def test_a_criterion_without_its_input_is_refused(criterion: str) -> None:
    with pytest.raises(ValueError, match=f"by one of agreement here, not by '{criterion}'"):
        choose_head(np.zeros((5, 2), dtype=np.int64), criterion, modality_agreement=np.full((5, 2), np.nan))
