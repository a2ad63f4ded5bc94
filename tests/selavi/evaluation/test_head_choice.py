import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from selavi.evaluation.head_choice import choose_head


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
        assert choice.agreement[head] == pytest.approx(np.mean(others), abs=1e-12)


def test_cluster_numbers_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    assignments = rng.integers(0, 5, (200, 4))
    renamed = assignments.copy()
    renamed[:, 2] = np.array([3, 1, 4, 0, 2])[renamed[:, 2]]
    assert choose_head(renamed).agreement == pytest.approx(choose_head(assignments).agreement, abs=1e-12)


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
    assert choice.agreement[:3].tolist() == [0, 0, 0]


def test_a_single_head_is_head_0() -> None:
    choice = choose_head(np.zeros((5, 1), dtype=np.int64))
    assert choice.head == 0
    assert np.isnan(choice.agreement).tolist() == [True]


@pytest.mark.parametrize("shape", [(5,), (0, 3), (5, 0), (2, 2, 2)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"assignments \(N, H\)"):
        choose_head(np.zeros(shape, dtype=np.int64))
