import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from selavi.labelling.scores import combine_scores
from selavi.labelling.solver import candidates, dual, search, tables
from selavi.labelling.solver.dual import Dual, NewtonEquation
from selavi.labelling.solver.gaps import GAP_BINS
from selavi.labelling.solver.problem import Problem, marginal_error, on_one_process, survey
from selavi.labelling.solver.tables import DenseTable, FusedTable
from selavi.labelling.solver.transport import Labelling, assign, assign_reference, row_statistics

INF = math.inf
SHARED = Path(os.environ.get("SELAVI_TESTDATA", Path(__file__).resolve().parents[4].parent / "shared"))
GOLDEN = SHARED / "golden" / "official_labels.npz"

sizes = st.tuples(st.integers(1, 60), st.integers(2, 12))
spreads = st.sampled_from([0.01, 0.3, 1.0, 3.0])
seeds = st.integers(0, 2**31 - 1)


def uniform(num_clusters: int) -> Tensor:
    return torch.full((num_clusters,), 1 / num_clusters, dtype=torch.float64)


def log_table(seed: int, num_clips: int, num_clusters: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(num_clips, num_clusters, generator=generator)).log_softmax(1)


def random_marginal(seed: int, num_clusters: int) -> Tensor:
    draw = torch.rand(num_clusters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05
    return draw / draw.sum()


def exact_plan(scores: Tensor, potentials: Tensor, sharpness: float) -> Tensor:
    return (scores.double() * sharpness + potentials).softmax(1)


def finite(found: Labelling) -> bool:
    return bool(found.potentials.isfinite().all()) and math.isfinite(found.marginal_error)


# Golden labels of the official algorithm.


@pytest.fixture(scope="module", params=["near_uniform", "early", "trained"])
def golden(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, float]:
    """Scores, official labels and official cost of one case."""
    if not GOLDEN.exists():
        pytest.skip(f"the official labels are not here: {GOLDEN} (set SELAVI_TESTDATA to the folder above golden/)")
    with np.load(GOLDEN) as file:
        tables = {name: torch.tensor(file[f"{request.param}/logits_{name}"]) for name in ("video", "audio")}
        labels = torch.tensor(file[f"{request.param}/labels"].astype(np.int64))
        cost = float(file[f"{request.param}/cost"])
    present = torch.ones(len(labels), dtype=torch.bool)
    scores = combine_scores(
        {name: logits.log_softmax(1) for name, logits in tables.items()},
        dict.fromkeys(tables, 1.0),
        dict.fromkeys(tables, present),
    )
    return scores, labels, cost


def test_labels_are_the_official_ones(golden: tuple[Tensor, Tensor, float]) -> None:
    scores, official, cost = golden
    found = assign(scores, uniform(scores.shape[1]))
    assert found.converged
    assert found.marginal_error <= 1e-6
    assert found.num_passes <= 9
    assert (found.labels == official).double().mean() >= 0.999
    own_cost = -scores.gather(1, found.labels[:, None]).double().mean().item()
    assert own_cost == pytest.approx(cost, abs=1e-3)


def test_warm_start_is_shorter_and_ends_at_the_same_labels(golden: tuple[Tensor, Tensor, float]) -> None:
    scores, _, _ = golden
    marginal = uniform(scores.shape[1])
    earlier = assign(scores, marginal)
    moved = scores + 0.05 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    cold = assign(moved, marginal)
    warm = assign(moved, marginal, initial_potentials=earlier.potentials)
    assert warm.converged
    assert warm.num_passes <= cold.num_passes
    assert (warm.labels == cold.labels).double().mean() >= 0.999


# Properties.


@given(size=sizes, spread=spreads, seed=seeds)
@settings(max_examples=60, deadline=None)
def test_masses_meet_the_marginal(size: tuple[int, int], spread: float, seed: int) -> None:
    scores, marginal = log_table(seed, *size, spread), random_marginal(seed, size[1])
    found = assign(scores, marginal)
    masses = exact_plan(scores, found.potentials, 20.0).mean(0)
    assert found.converged
    assert marginal_error(masses, marginal) <= 1.1e-6
    assert found.marginal_error == pytest.approx(marginal_error(masses, marginal), abs=1e-10)
    assert found.labels.shape == (size[0],)
    assert found.labels.dtype == torch.int64
    assert found.potentials.dtype == torch.float64
    assert (marginal * found.potentials).sum().item() == pytest.approx(0, abs=1e-8)


@given(size=sizes, spread=spreads, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_newton_agrees_with_plain_scaling(size: tuple[int, int], spread: float, seed: int) -> None:
    scores, marginal = log_table(seed, *size, spread), random_marginal(seed, size[1])
    # At a moderate sharpness plain scaling gets there too.
    found = assign(scores, marginal, sharpness=5.0, tol=1e-9)
    reference = assign_reference(scores, marginal, sharpness=5.0, tol=1e-9)
    if reference.converged:
        ours = exact_plan(scores, found.potentials, 5.0)
        theirs = exact_plan(scores, reference.potentials, 5.0)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        sure = theirs.topk(2, dim=1).values.diff(dim=1).abs()[:, 0] > 1e-4
        assert torch.equal(found.labels[sure], reference.labels[sure])


@given(size=sizes, spread=spreads, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_rows_and_clusters_may_be_permuted(size: tuple[int, int], spread: float, seed: int) -> None:
    scores, marginal = log_table(seed, *size, spread), random_marginal(seed, size[1])
    generator = torch.Generator().manual_seed(seed)
    rows, clusters = (torch.randperm(n, generator=generator) for n in size)
    plan = exact_plan(scores, assign(scores, marginal, tol=1e-9).potentials, 20.0)
    permuted = scores[rows][:, clusters]
    found = assign(permuted, marginal[clusters], tol=1e-9)
    torch.testing.assert_close(exact_plan(permuted, found.potentials, 20.0), plan[rows][:, clusters], atol=1e-4, rtol=0)


@given(size=sizes, spread=spreads, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_constant_on_a_row_changes_nothing(size: tuple[int, int], spread: float, seed: int) -> None:
    scores, marginal = log_table(seed, *size, spread).double(), random_marginal(seed, size[1])
    shifts = 100 * torch.randn(size[0], 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain, shifted = assign(scores, marginal, tol=1e-9), assign(scores + shifts, marginal, tol=1e-9)
    torch.testing.assert_close(
        exact_plan(scores, shifted.potentials, 20.0),
        exact_plan(scores, plain.potentials, 20.0),
        atol=1e-4,
        rtol=0,
    )


def test_the_arguments_are_left_alone() -> None:
    scores, marginal, potentials = (
        log_table(0, 30, 4).double(),
        uniform(4),
        torch.zeros(4, dtype=torch.float64),
    )
    kept = scores.clone(), marginal.clone(), potentials.clone()
    assign(scores, marginal, initial_potentials=potentials)
    assert all(torch.equal(a, b) for a, b in zip(kept, (scores, marginal, potentials), strict=True))


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0, 10.0])
def test_few_passes(spread: float) -> None:
    scores = log_table(1, 2000, 10, spread)
    zipf = torch.arange(1, 11).double().reciprocal()
    for marginal in (uniform(10), zipf / zipf.sum()):
        found = assign(scores, marginal)
        assert found.converged
        assert found.num_passes <= 15


def make(kind: type, scores: Tensor) -> tables.Table:
    return kind(scores) if kind is FusedTable else kind(scores, torch.float64)


@pytest.mark.parametrize("sharpness", [1.0, 8.0])
def test_newton_is_given_the_derivatives_of_the_masses(sharpness: float) -> None:
    scores, target = log_table(2, 200, 6).double(), random_marginal(2, 6)
    problem = Problem(DenseTable(scores, torch.float64), target)
    table, overview = survey(problem, 1e-6, on_one_process)
    potentials = random_marginal(3, 6).log()
    sums = Dual(problem, overview, on_one_process).read(table, 200, potentials, sharpness, curvature=True)

    def masses(move: Tensor) -> Tensor:
        return exact_plan(scores, potentials + move, sharpness).mean(0)

    moves = 1e-5 * torch.eye(6, dtype=torch.float64)
    columns = torch.stack([(masses(move) - masses(-move)) / 2e-5 for move in moves], 1)
    torch.testing.assert_close(sums.masses, masses(torch.zeros(6)))
    torch.testing.assert_close(sums.gradient, sums.masses - target)
    torch.testing.assert_close(sums.hessian, columns, atol=1e-8, rtol=1e-6)


def test_blocks_of_rows_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, marginal = log_table(3, 500, 7), random_marginal(3, 7)
    whole = assign(scores, marginal)
    monkeypatch.setattr(tables, "BLOCK_ELEMENTS", 7 * 33)
    blocked = assign(DenseTable(scores, torch.float64), marginal)
    torch.testing.assert_close(blocked.potentials, whole.potentials, atol=1e-9, rtol=0)
    assert torch.equal(blocked.labels, whole.labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_large_table_of_half_precision_is_read_by_the_kernels_block_by_block(dtype: torch.dtype) -> None:
    scores, marginal = log_table(4, 9000, 40).to(dtype), random_marginal(4, 40)
    table = tables.make_table(scores)
    assert isinstance(table, tables.BlockTable)
    assert {type(block) for _, block in table._tables()} == {FusedTable}
    half, single = assign(scores, marginal), assign(scores.float(), marginal)
    assert half.converged and torch.equal(half.labels, single.labels)
    assert half.num_passes == single.num_passes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_it_is(dtype: torch.dtype) -> None:
    scores, marginal = log_table(4, 300, 6).to(dtype), random_marginal(4, 6)
    half, double = assign(scores, marginal), assign(scores.double(), marginal)
    assert half.converged
    assert torch.equal(half.labels, double.labels)
    assert torch.equal(half.potentials, double.potentials)


# The limit of hard plans: N = K.


def square_table(kind: str, seed: int, size: int) -> Tensor:
    if kind == "log-softmax":
        return log_table(seed, size, size, 2.0)
    return torch.rand(size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sharpness", [100.0, 300.0, 1000.0])
@pytest.mark.parametrize("kind", ["rand", "log-softmax"])
def test_reaches_the_hungarian_optimum(kind: str, sharpness: float) -> None:
    for seed, size in enumerate((2, 3, 5, 8, 16, 32, 64, 100)):
        scores = square_table(kind, seed, size).double()
        rows, columns = linear_sum_assignment(-scores.numpy())
        optimum = -scores[rows, columns].mean().item()
        found = assign(scores, uniform(size), sharpness=sharpness)
        assert found.converged
        assert found.num_passes <= 30
        plan = exact_plan(scores, found.potentials, sharpness)
        plan_cost = -(plan * scores).sum(1).mean().item()
        # The regularised plan pays at most its entropy (over the permutation's, 0) for being soft.
        entropy = torch.special.entr(plan).sum(1).mean().item()
        assert -1e-4 <= plan_cost - optimum <= entropy / sharpness + 1e-4
        if sharpness == 1000:
            assert plan_cost - optimum <= 1e-3
        if len(found.labels.unique()) == size:
            # Wherever the argmax of the plan is itself a matching, it is an optimal one.
            label_cost = -scores[torch.arange(size), found.labels].mean().item()
            assert abs(label_cost - optimum) <= 1e-3
        else:
            # Two clips tie over a cluster: then the plan has not decided, and says so.
            assert row_statistics(scores, found.potentials, sharpness).margin.min() < 0.9


def test_hard_labels_are_the_matching() -> None:
    num_matchings = 0
    for seed in range(20):
        scores = log_table(seed, 24, 24, 2.0)
        _, columns = linear_sum_assignment(-scores.numpy())
        found = assign(scores, uniform(24), sharpness=1000.0)
        num_matchings += torch.equal(found.labels, torch.tensor(columns))
    # All but the tables with two matchings within a nat or so of each other.
    assert num_matchings >= 18


# Inputs without a comfortable answer: finite labels and an honest `converged`, never NaN.


def test_one_clip() -> None:
    found = assign(torch.tensor([[0.0, -1.0, -2.0]]), uniform(3))
    assert finite(found)
    assert found.converged
    assert found.labels.shape == (1,)


def test_one_cluster() -> None:
    found = assign(log_table(0, 9, 1), torch.ones(1))
    assert finite(found)
    assert found.converged
    assert found.labels.tolist() == [0] * 9


def test_two_clusters_split_at_the_median() -> None:
    gap = torch.linspace(-3, 3, 41)[torch.randperm(41, generator=torch.Generator().manual_seed(0))]
    found = assign(torch.stack([gap, torch.zeros(41)], 1), uniform(2))
    order = gap.argsort()
    assert (found.labels[order[:20]] == 1).all()
    assert (found.labels[order[21:]] == 0).all()


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [-5e3, -5e3, -5e3], [0.0, -3.0, -700.0]])
def test_identical_rows(row: list[float]) -> None:
    found = assign(torch.tensor(row).repeat(30, 1), uniform(3))
    assert finite(found)
    assert found.converged
    assert len(found.labels.unique()) == 1


def test_more_clusters_than_clips() -> None:
    found = assign(log_table(5, 3, 40), uniform(40))
    assert finite(found)
    assert found.converged
    assert len(found.labels.unique()) == 3


@pytest.mark.parametrize(("spread", "sharpness"), [(1.0, 1e3), (1.0, 1e5), (1e4, 20.0), (1e4, 1e3), (1e8, 20.0)])
def test_extreme_scores(spread: float, sharpness: float) -> None:
    scores = log_table(6, 400, 8, spread)
    found = assign(scores, uniform(8), sharpness=sharpness)
    assert finite(found)
    assert found.converged
    assert found.labels.bincount(minlength=8).tolist() == pytest.approx([50] * 8, abs=2)


def test_a_cluster_far_below_the_others_still_fills() -> None:
    scores = log_table(7, 300, 4) + torch.tensor([0.0, 0.0, -1e6, 300.0])
    found = assign(scores, uniform(4))
    assert finite(found)
    assert found.converged
    assert found.labels.bincount(minlength=4).tolist() == pytest.approx([75] * 4, abs=6)


def test_no_mass_no_clips() -> None:
    found = assign(log_table(8, 60, 4), torch.tensor([0.5, 0.0, 0.5, 0.0]))
    assert found.converged
    assert set(found.labels.tolist()) == {0, 2}
    assert found.potentials[[1, 3]].tolist() == [-INF, -INF]
    assert found.potentials[[0, 2]].isfinite().all()
    again = assign(log_table(8, 60, 4), uniform(4), initial_potentials=found.potentials)
    assert again.converged


def test_a_cluster_nobody_may_have() -> None:
    scores = log_table(9, 60, 4)
    scores[:, 2] = -INF
    found = assign(scores, uniform(4))
    assert finite(found)
    assert not found.converged
    assert found.marginal_error == pytest.approx(0.5, abs=1e-5)
    assert found.labels.bincount(minlength=4).tolist() == pytest.approx([20, 20, 0, 20], abs=2)


@pytest.mark.parametrize("num_confined", [60, 99])
def test_too_many_clips_confined_to_two_clusters(num_confined: int) -> None:
    scores = log_table(10, 100, 4)
    scores[:num_confined, 2:] = -INF
    found = assign(scores, uniform(4))
    assert finite(found)
    assert not found.converged
    assert found.marginal_error == pytest.approx(2 * (num_confined / 100 - 0.5), abs=1e-2)
    assert (found.labels[:num_confined] < 2).all()


def test_masked_entries_are_never_chosen() -> None:
    scores = log_table(11, 200, 6)
    masked = torch.rand(200, 6, generator=torch.Generator().manual_seed(1)) < 0.4
    masked[:, 0] = False
    for value in (-INF, torch.finfo(torch.float32).min):
        found = assign(scores.masked_fill(masked, value), uniform(6))
        assert finite(found)
        assert found.converged
        assert found.num_passes <= 15
        assert not masked.gather(1, found.labels[:, None]).any()


@pytest.mark.parametrize("max_passes", [1, 2, 3, 5])
def test_max_passes_is_kept_and_the_error_is_that_of_the_result(max_passes: int) -> None:
    scores = log_table(12, 300, 12, 3.0)
    found = assign(scores, uniform(12), max_passes=max_passes)
    assert found.num_passes <= max_passes
    assert not found.converged
    masses = exact_plan(scores, found.potentials, 20.0).mean(0)
    assert found.marginal_error == pytest.approx(marginal_error(masses, uniform(12)), abs=1e-9)


def test_plain_scaling_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, marginal = log_table(13, 200, 6, 0.3), random_marginal(13, 6)
    expected = assign(scores, marginal)
    monkeypatch.setattr(NewtonEquation, "solve", lambda *_: None)
    found = assign(scores, marginal)
    assert found.converged
    assert found.num_passes > expected.num_passes
    torch.testing.assert_close(found.potentials, expected.potentials, atol=1e-3, rtol=0)
    assert torch.equal(found.labels, expected.labels)


def test_mild_scores_of_few_clips_a_cluster_need_no_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, marginal = log_table(14, 600, 60, 0.3), random_marginal(14, 60)
    found = assign(scores, marginal)
    expected = assign_reference(scores, marginal)
    assert found.converged
    assert found.num_hessians == 0
    assert found.num_passes < 0.7 * expected.num_passes
    assert torch.equal(found.labels, expected.labels)
    monkeypatch.setattr(search, "TUNING", replace(search.TUNING, anderson_patience=1))
    by_newton = assign(scores, marginal)
    assert by_newton.num_hessians > 0, "Newton takes over where the mixing stalls"
    assert torch.equal(by_newton.labels, expected.labels)


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), 1, 2])
def test_hard_scores_of_few_clips_a_cluster_take_few_passes(seed: int) -> None:
    scores, marginal = log_table(seed, 4000, 300, 3.0), random_marginal(seed, 300)
    cold = assign(scores, marginal)
    assert cold.converged and cold.num_passes <= 20  # 21 to 686 in steps of 2.5 of the sharpness
    moved = scores + 0.15 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed))
    warm = assign(moved, marginal, initial_potentials=cold.potentials)
    assert warm.converged and warm.num_passes <= 10  # 11 to 16 at the full sharpness from the start
    assert (warm.labels == assign(moved, marginal).labels).all()


@pytest.mark.parametrize("seed", [4, 7, 13])
def test_clusters_that_no_clip_is_near_are_reached(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(1.5 * rng.standard_t(2, (1500, 25))).float().log_softmax(1)
    found = assign(scores, torch.from_numpy(rng.dirichlet(np.ones(25))), max_passes=60)
    assert found.converged, found.reason  # with steps of one length: 77 passes, more than 200, 53


@pytest.mark.parametrize("seed", [4, 7, 13])
def test_clusters_go_as_far_as_their_clips_are_away(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(1.5 * rng.standard_t(2, (1500, 25))).float().log_softmax(1)
    found = assign(scores, torch.from_numpy(rng.dirichlet(np.ones(25))), max_passes=20)
    assert found.converged, found.reason


@pytest.mark.parametrize("spread", [0.01, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("kind", [DenseTable, FusedTable])
def test_many_clusters_need_no_matrix(kind: type, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, marginal = log_table(13, 3000, 40, spread), random_marginal(13, 40)
    expected = assign(scores, marginal)
    for module in (tables, dual, candidates):
        monkeypatch.setattr(module, "MAX_DENSE_CLUSTERS", 5)
    ranks = FakeRanks(1)
    found = assign(make(kind, scores), marginal, sum_ranks=ranks.sum_for(0))
    assert found.converged
    assert found.num_passes <= 20
    assert ranks.largest <= (4 + 2 * GAP_BINS) * 40
    assert (found.labels == expected.labels).double().mean() >= 0.9995


def test_useless_potentials_do_no_harm() -> None:
    scores = log_table(14, 300, 12, 3.0)
    expected = assign(scores, uniform(12))
    for start in (1e6 * torch.randn(12, generator=torch.Generator().manual_seed(0)), torch.full((12,), -INF)):
        found = assign(scores, uniform(12), initial_potentials=start)
        assert found.converged
        assert found.num_passes <= expected.num_passes + 1  # one look is enough to see that they are useless
        assert torch.equal(found.labels, expected.labels)


# Refusals.


def with_entry(value: float, row: int, cluster: int | slice) -> Tensor:
    scores = log_table(0, 8, 3)
    scores[row, cluster] = value
    return scores


@pytest.mark.parametrize(
    ("scores", "marginal", "message"),
    [
        (with_entry(math.nan, 4, 1), uniform(3), "row 4 is NaN for cluster 1"),
        (with_entry(INF, 5, 2), uniform(3), r"row 5 is \+inf .* cluster 2"),
        (with_entry(-INF, 6, slice(None)), uniform(3), "row 6 is -inf for every cluster"),
        (
            with_entry(-INF, 6, slice(2)),
            torch.tensor([0.5, 0.5, 0.0]),
            "row 6 is -inf for every cluster with",
        ),
        (log_table(0, 8, 3)[0], uniform(3), r"scores \(N, K\).*got \(3,\) and \(3,\)"),
        (log_table(0, 8, 3), uniform(4), r"got \(8, 3\) and \(4,\)"),
        (torch.ones(8, 3).long(), uniform(3), "torch.int64"),
        (log_table(0, 0, 3), uniform(3), "no rows"),
        (log_table(0, 8, 3), torch.tensor([-0.5, 1.0, 0.5]), "entry 0 is -0.5"),
        (log_table(0, 8, 3), torch.tensor([0.5, 0.5, 0.5]), "a sum of 1.5"),
        (log_table(0, 8, 3), torch.tensor([0.5, math.nan, 0.5]), "entry 1 is not"),
        (log_table(0, 8, 3), torch.tensor([0.5, 0.5, INF]), "entry 2 is not"),
    ],
)
def test_bad_tables_are_refused(scores: Tensor, marginal: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(scores, marginal)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sharpness": 0.0}, "sharpness must be positive and finite, got 0.0"),
        ({"sharpness": math.nan}, "sharpness"),
        ({"tol": -1.0}, "tol must be positive"),
        ({"max_passes": 0}, "max_passes must be at least 1"),
        ({"initial_potentials": torch.zeros(4)}, r"\(K,\) = \(3,\), got \(4,\)"),
        ({"initial_potentials": torch.tensor([0.0, math.nan, 0.0])}, "NaN"),
    ],
)
def test_bad_settings_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(log_table(0, 8, 3), uniform(3), **setting)


def test_a_marginal_in_float32_is_near_enough_to_one() -> None:
    marginal = torch.rand(309, generator=torch.Generator().manual_seed(0))
    assert assign(log_table(0, 400, 309), marginal / marginal.sum()).converged


# Rows.


def test_row_statistics_are_those_of_the_plan() -> None:
    scores, marginal = log_table(15, 50, 5), random_marginal(15, 5)
    found = assign(scores, marginal)
    plan = exact_plan(scores, found.potentials, 20.0)
    confidence, margin, entropy = row_statistics(scores, found.potentials, 20.0)
    ranked = plan.sort(1, descending=True).values
    torch.testing.assert_close(confidence, ranked[:, 0].float())
    torch.testing.assert_close(margin, (ranked[:, 0] - ranked[:, 1]).float())
    expected = -(plan * plan.clamp(min=1e-300).log()).sum(1)
    torch.testing.assert_close(entropy, expected.float(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(plan.gather(1, found.labels[:, None])[:, 0].float(), confidence)


def test_row_statistics_at_the_edges() -> None:
    one_cluster = row_statistics(torch.zeros(3, 1), torch.zeros(1), 20.0)
    assert one_cluster.confidence.tolist() == one_cluster.margin.tolist() == [1.0] * 3
    no_mass = row_statistics(torch.zeros(2, 3), torch.tensor([0.0, 0.0, -INF]), 20.0)
    assert no_mass.confidence.tolist() == [0.5, 0.5]
    assert no_mass.margin.tolist() == [0.0, 0.0]
    assert no_mass.entropy.tolist() == pytest.approx([math.log(2)] * 2)
    assert row_statistics(torch.zeros(0, 3), torch.zeros(3), 20.0).entropy.shape == (0,)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2,\)"):
        row_statistics(torch.zeros(2, 3), torch.zeros(2), 20.0)


# Rows held by several processes.


class FakeRanks:
    """Sums in lock-step over threads that stand for processes; overwrites its argument like all_reduce."""

    def __init__(self, num_ranks: int) -> None:
        self.barrier = threading.Barrier(num_ranks, timeout=60)
        self.parts: list[Tensor | None] = [None] * num_ranks
        self.largest = 0

    def sum_for(self, rank: int) -> Callable[[Tensor], Tensor]:
        def total(tensor: Tensor) -> Tensor:
            self.parts[rank] = tensor.clone()
            self.barrier.wait()
            self.largest = max(self.largest, tensor.numel())
            tensor.copy_(torch.stack([part for part in self.parts if part is not None]).sum(0))
            self.barrier.wait()
            return tensor

        return total


def assign_in_parts(parts: list[Tensor], marginal: Tensor, **settings: Tensor) -> tuple[list, FakeRanks]:
    """Each rank's Labelling, or the error that it raised."""
    ranks = FakeRanks(len(parts))

    def work(rank: int) -> Labelling | ValueError:
        try:
            return assign(parts[rank], marginal, sum_ranks=ranks.sum_for(rank), **settings)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(work, range(len(parts)))), ranks


@pytest.mark.parametrize("counts", [[200, 200], [1, 150, 249], [0, 100, 300, 0], [400, 0]])
def test_rows_of_several_ranks_get_the_labels_of_one_process(counts: list[int]) -> None:
    scores, marginal = log_table(16, 400, 9, 2.0), random_marginal(16, 9)
    whole = assign(scores, marginal)
    found, ranks = assign_in_parts(list(scores.split(counts)), marginal)
    assert torch.equal(torch.cat([part.labels for part in found]), whole.labels)
    assert [len(part.labels) for part in found] == counts
    for part in found:
        assert part.converged
        assert part.num_passes == whole.num_passes
        assert part.marginal_error == found[0].marginal_error
        assert torch.equal(part.potentials, found[0].potentials)
        torch.testing.assert_close(part.potentials, whole.potentials, atol=1e-8, rtol=0)
    assert ranks.largest <= 9 * 9 + (4 + 2 * GAP_BINS) * 9


@pytest.mark.parametrize("counts", [[200, 200], [1, 0, 399]])
def test_ranks_hold_the_candidates_of_their_own_rows(counts: list[int]) -> None:
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(generator.standard_t(2, (400, 100))).float().log_softmax(1)
    marginal = torch.from_numpy(generator.dirichlet(np.ones(100)))
    whole = assign(scores, marginal)
    assert whole.converged and whole.inner_passes > 0
    found, ranks = assign_in_parts(list(scores.split(counts)), marginal)
    assert torch.equal(torch.cat([part.labels for part in found]), whole.labels)
    for part in found:
        assert part.converged
        assert part.num_passes == found[0].num_passes
        assert abs(part.num_passes - whole.num_passes) <= 2  # sums that round otherwise may lead another way
        assert torch.equal(part.potentials, found[0].potentials)
    assert ranks.largest <= 100 * 100 + (4 + 2 * GAP_BINS) * 100


def test_a_hard_problem_over_ranks_ends_the_same_way_on_all() -> None:
    scores = log_table(17, 60, 4)
    scores[:40, 2:] = -INF
    whole = assign(scores, uniform(4))
    found, _ = assign_in_parts(list(scores.split([25, 0, 35])), uniform(4))
    assert {part.converged for part in found} == {False}
    assert len({part.num_passes for part in found}) == 1
    assert found[0].marginal_error == pytest.approx(whole.marginal_error, abs=1e-3)


def test_one_ranks_fault_is_refused_by_all() -> None:
    scores = log_table(18, 30, 4)
    scores[12, 1] = math.nan
    found, _ = assign_in_parts(list(scores.split([10, 20])), uniform(4))
    assert all(isinstance(part, ValueError) for part in found)
    assert "all on other processes" in str(found[0])
    assert "row 2 is NaN for cluster 1" in str(found[1])
    found, _ = assign_in_parts([scores[:0], scores[:0]], uniform(4))
    assert all("no rows" in str(part) for part in found)


@pytest.mark.parametrize(("num_clusters", "gap", "most"), [(40, 12.0, 28), (100, 10.0, 28)])
def test_clusters_that_are_far_apart_take_few_passes(num_clusters: int, gap: float, most: int) -> None:
    """Few clips lie between clusters, so that the masses hardly answer to the potentials.

    39 and 66 passes where a step that is too long for some clusters is shortened for all.
    """
    generator = torch.Generator().manual_seed(0)
    num_clips = 600 * num_clusters + 16_000
    classes = torch.randint(num_clusters, (num_clips,), generator=generator)
    scores = torch.randn(num_clips, num_clusters, generator=generator)
    scores[torch.arange(num_clips), classes] += gap + 2 * torch.randn(num_clips, generator=generator)
    marginal = torch.full((num_clusters,), 1 / num_clusters, dtype=torch.float64)
    found = assign(FusedTable(scores), marginal, sharpness=20.0, tol=1e-6)
    assert found.converged and found.num_passes <= most


@pytest.mark.parametrize("num_clusters", [7, 50, 300])
@pytest.mark.parametrize("nats", [10.0, 60.0, 400.0])
def test_a_cluster_that_no_clip_wavers_about_is_moved_all_the_same(num_clusters: int, nats: float) -> None:
    """Each clip has one cluster that is `nats` ahead of all others, and some clusters have more clips than they may."""
    for num_more in (0, 1, num_clusters // 2):
        scores = torch.zeros(num_clusters + num_more, num_clusters)
        rows = torch.arange(len(scores))
        scores[rows, rows % num_clusters] = nats / 20
        found = assign(scores.log_softmax(1), uniform(num_clusters), max_passes=60)
        assert found.converged, found.reason


@pytest.mark.parametrize("nats", [40.0, 50.0, 70.0, 120.0])
def test_mixed_steps_that_go_anywhere_are_not_taken(nats: float) -> None:
    """Anderson's mixing once went 1e14 nats far here; then the kernel divided by zero, or LAPACK met a NaN."""
    scores = torch.zeros(603, 512)
    rows = torch.arange(len(scores))
    scores[rows, rows % 512] = nats / 20
    found = assign(scores.log_softmax(1), uniform(512), max_passes=60)
    assert found.converged, found.reason


def test_many_clusters_of_skewed_sizes_and_few_clips() -> None:
    """Once over 100 passes: clusters without curvature were sent anywhere, and the cut step had nothing of use."""
    scores = 5 * torch.randn(2000, 400, generator=torch.Generator().manual_seed(0))
    sizes = 1 / torch.arange(1, 401).double()
    found = assign(scores.log_softmax(1), sizes / sizes.sum())
    assert found.converged
    assert found.num_passes <= 30


def one_cluster_each(num_clips: int, num_clusters: int, nats: float) -> Tensor:
    """Scores of clips whose own cluster, in turn, is `nats` ahead of all others at a sharpness of 20."""
    scores = torch.zeros(num_clips, num_clusters)
    rows = torch.arange(num_clips)
    scores[rows, rows % num_clusters] = nats / 20
    return scores.log_softmax(1)


@pytest.mark.parametrize("num_clips, num_clusters", [(41_707, 11), (30_000, 9)])
def test_rows_that_round_alike_are_read_in_float64_in_the_end(num_clips: int, num_clusters: int) -> None:
    """In float32 the error of these stays at 1e-6 to 4e-6, whatever the potentials."""
    sizes = 1 / torch.arange(1, num_clusters + 1).double()
    scores = one_cluster_each(num_clips, num_clusters, 348.0)
    found = assign(scores, sizes / sizes.sum(), max_passes=40)
    assert found.converged, found.reason
    exact = assign(scores.double(), sizes / sizes.sum(), initial_potentials=found.potentials, max_passes=1)
    assert exact.marginal_error <= 1.1e-6


@pytest.mark.parametrize("num_clips, num_clusters, seed", [(600, 200, 4), (700, 256, 2)])
def test_where_a_step_overshot_is_forgotten_once_the_way_there_is_straight(
    num_clips: int, num_clusters: int, seed: int
) -> None:
    """Once 200 passes and no end: steps of half a nat along a slope that did not change."""
    sizes = torch.empty(num_clusters, dtype=torch.float64)
    sizes.exponential_(generator=torch.Generator().manual_seed(seed)).add_(1e-3)
    found = assign(one_cluster_each(num_clips, num_clusters, 192.0), sizes / sizes.sum(), max_passes=100)
    assert found.converged, found.reason


def test_many_clusters_without_the_small_entries_of_the_hessian() -> None:
    """46 passes where each step took off a fifth of the error, for want of what small entries couple."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(50, 1100, generator=generator)
    logits = 1.2 * rows[torch.randint(50, (1500,), generator=generator)]
    sizes = 1 / torch.arange(1, 1101).double()
    found = assign(logits.log_softmax(1), sizes / sizes.sum())
    assert found.converged and found.num_passes <= 32
