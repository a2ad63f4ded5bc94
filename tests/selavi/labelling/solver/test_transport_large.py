"""Tables that are large enough to be sampled and read in float32, and what only they have."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from selavi.labelling.solver import search, tables
from selavi.labelling.solver.dual import NewtonEquation
from selavi.labelling.solver.problem import marginal_error
from selavi.labelling.solver.tables import BlockTable, DenseTable, FusedTable
from selavi.labelling.solver.transport import assign, assign_reference

INF = math.inf


def log_table(seed: int, num_clips: int, num_clusters: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(num_clips, num_clusters, generator=generator)).log_softmax(1)


def uniform(num_clusters: int) -> Tensor:
    return torch.full((num_clusters,), 1 / num_clusters, dtype=torch.float64)


def exact_masses(scores: Tensor, potentials: Tensor, sharpness: float = 20.0) -> Tensor:
    return (scores.double() * sharpness + potentials).softmax(1).mean(0)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.1, 0.3, 1.0, 3.0])
def test_few_reads_of_a_sampled_table(spread: float) -> None:
    scores, marginal = log_table(0, 40_000, 30, spread), torch.arange(1, 31).double() / 465
    found = assign(scores, marginal)
    assert found.converged and found.reason == ""
    assert found.num_passes <= 10
    # The error is that of the float32 reads; in float64 it is the same but for their rounding.
    assert marginal_error(exact_masses(scores, found.potentials), marginal) <= 1.5e-6
    exact = assign(DenseTable(scores, torch.float64), marginal)
    assert (found.labels == exact.labels).double().mean() >= 0.9999
    torch.testing.assert_close(found.masses, marginal, atol=1e-6, rtol=0)
    moved = scores + 0.05 * spread * torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    warm = assign(moved, marginal, initial_potentials=found.potentials)
    assert warm.converged
    assert warm.num_passes <= 8


def test_a_sample_saves_reads_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = log_table(1, 80_000, 30, 3.0)
    sampled = assign(scores, uniform(30))
    monkeypatch.setattr(search, "TUNING", replace(search.TUNING, sample_rows=1 << 30))
    whole = assign(scores, uniform(30))
    assert sampled.num_passes < whole.num_passes
    assert (sampled.labels == whole.labels).double().mean() >= 0.9999


def test_a_sample_that_misses_a_cluster_does_no_harm() -> None:
    scores = log_table(2, 40_000, 10)
    scores[:, 9] = -INF
    scores[1:4001:1000, 9] = 0.0  # four clips may have it, none of them in the sample
    marginal = torch.cat([torch.full((9,), (1 - 5e-5) / 9), torch.tensor([5e-5])])
    found = assign(scores, marginal)
    assert found.converged
    assert set(np.flatnonzero(found.labels.numpy() == 9)) <= {1, 1001, 2001, 3001}


@pytest.mark.parametrize("sample_bytes", [1 << 28, 1 << 18], ids=["samples kept", "samples computed anew"])
def test_scores_by_blocks_give_the_labels_of_the_stored_table(
    monkeypatch: pytest.MonkeyPatch, sample_bytes: int
) -> None:
    monkeypatch.setattr(tables, "MAX_SAMPLE_BYTES", sample_bytes)
    scores = log_table(3, 40_000, 30)
    calls: list[int] = []

    def rows(chosen: slice) -> Tensor:
        calls.append(len(range(*chosen.indices(len(scores)))))
        return scores[chosen].clone()

    found = assign(BlockTable(40_000, 30, rows, 1111, scores.device), uniform(30))
    stored = assign(scores, uniform(30))
    assert found.converged
    assert torch.equal(found.labels, stored.labels)
    assert max(calls) <= 1111
    # The survey, the solver's passes and the labels; a sample costs its rows alone.
    assert sum(calls) <= (found.num_passes + 3) * len(scores)
    sample = BlockTable(40_000, 30, rows, 1111, scores.device).sample(4)
    assert isinstance(sample, BlockTable) == (sample_bytes == 1 << 18)
    assert torch.equal(torch.cat([block for _, block in sample.blocks()]), scores[::4])


# Inputs without a comfortable answer, read in float32.


@pytest.mark.parametrize(
    "scores",
    [
        torch.zeros(9000, 40),
        torch.full((9000, 40), -5e3),
        torch.tensor([0.0, -3.0, -700.0] + 37 * [-1.0]).repeat(9000, 1),
        log_table(4, 9000, 40, 1e4),
        log_table(4, 9000, 40, 300.0),
        log_table(4, 300, 2000),
        log_table(4, 9000, 40, 1e4) * torch.arange(40),
        torch.where(torch.rand(9000, 40, generator=torch.Generator().manual_seed(0)) < 0.8, -INF, 0.0).index_fill(
            1, torch.tensor([0]), -1.0
        ),
    ],
    ids=["zeros", "constant", "identical rows", "1e4", "300", "K > N", "huge columns", "sparse"],
)
@pytest.mark.parametrize("sharpness", [20.0, 1e3, 0.1])
def test_degenerate_tables_never_give_nan(scores: Tensor, sharpness: float) -> None:
    num_clusters = scores.shape[1]
    for kind in (FusedTable(scores), BlockTable(*scores.shape, lambda rows: scores[rows], 999, scores.device)):
        found = assign(kind, uniform(num_clusters), sharpness=sharpness, max_passes=300)
        assert found.potentials.isfinite().all()
        assert math.isfinite(found.marginal_error)
        assert found.labels.min() >= 0 and found.labels.max() < num_clusters
        assert found.converged or found.reason
        assert not (scores.gather(1, found.labels[:, None]) == -INF).any()


def test_no_answer_has_a_reason() -> None:
    scores = log_table(5, 9000, 40)
    assert "not enough" in assign(scores, uniform(40), max_passes=1).reason
    scores[:, [3, 7]] = -INF
    found = assign(scores, uniform(40))
    assert not found.converged
    assert "2 cluster(s)" in found.reason and "3, 7" in found.reason
    scores = log_table(5, 100, 4)
    scores[:60, 2:] = -INF
    assert "no step lowers the error" in assign(scores, uniform(4)).reason


def test_half_precision_keeps_the_labels() -> None:
    scores = log_table(6, 20_000, 30)
    exact = assign(scores, uniform(30))
    for dtype, share in ((torch.float16, 0.999), (torch.bfloat16, 0.98)):
        half = assign(scores.to(dtype), uniform(30))
        assert half.converged
        # Labels derived again from the float32 scores with the potentials of the small table.
        labels = FusedTable(scores).labels(half.potentials, 20.0)
        assert (labels == exact.labels).double().mean() >= share


# Against others.


@pytest.mark.parametrize("method", ["sinkhorn", "sinkhorn_log"])
@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_pots(method: str, seed: int) -> None:
    ot = pytest.importorskip("ot", reason="POT is part of the dev extra")
    scores = log_table(seed, 60, 5, 0.5).double()
    marginal = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    marginal /= marginal.sum()
    found = assign(scores, marginal, sharpness=10.0, tol=1e-9)
    plan = ot.sinkhorn(
        np.full(60, 1 / 60), marginal.numpy(), -scores.numpy(), 0.1, method=method, numItermax=100_000, stopThr=1e-12
    )
    ours = (scores * 10 + found.potentials).softmax(1) / 60
    np.testing.assert_allclose(ours.numpy(), plan, atol=1e-8)
    assert (found.labels.numpy() == plan.argmax(1)).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_cost_is_that_of_the_linear_program_within_the_entropy(seed: int) -> None:
    num_clips, num_clusters, sharpness = 30, 4, 50.0
    scores = log_table(seed, num_clips, num_clusters).double()
    rows = np.kron(np.eye(num_clips), np.ones(num_clusters))
    columns = np.kron(np.ones(num_clips), np.eye(num_clusters))
    limits = np.concatenate([np.full(num_clips, 1 / num_clips), np.full(num_clusters, 1 / num_clusters)])
    optimum = linprog(-scores.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=limits).fun
    found = assign(scores, uniform(num_clusters), sharpness=sharpness)
    plan = (scores * sharpness + found.potentials).softmax(1)
    cost = -(plan * scores).sum(1).mean().item()
    entropy = torch.special.entr(plan).sum(1).mean().item()
    assert -1e-6 <= cost - optimum <= entropy / sharpness + 1e-6


# Sizes that float, clips that are left out.


@pytest.mark.parametrize("size_strength", [0.01, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("shape", [(400, 8), (20_000, 30), (60, 100)])
def test_relaxed_sizes_meet_their_optimality_condition(size_strength: float, shape: tuple[int, int]) -> None:
    scores, marginal = log_table(7, *shape), torch.arange(1, shape[1] + 1).double()
    marginal /= marginal.sum()
    found = assign(scores, marginal, size_strength=size_strength)
    assert found.converged
    assert found.masses.sum().item() == pytest.approx(1)
    masses = exact_masses(scores, found.potentials)
    # Stationary: the potentials are -strength * log(masses / marginal), but for the constant they are free in.
    wanted = (marginal.log() - found.potentials / size_strength).softmax(0)
    assert marginal_error(masses, wanted) <= 2e-6


def test_relaxed_sizes_lie_between_free_and_exact() -> None:
    scores, marginal = log_table(8, 5000, 10), torch.arange(1, 11).double() / 55
    free = exact_masses(scores, torch.zeros(10))
    distances = []
    for size_strength in (1e-4, 0.1, 1.0, 10.0, 1e5):
        found = assign(scores, marginal, size_strength=size_strength)
        distances.append(marginal_error(found.masses, marginal))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == pytest.approx(marginal_error(free, marginal), rel=1e-2)
    assert distances[-1] < 1e-4
    torch.testing.assert_close(assign(scores, marginal, size_strength=1e9).masses, marginal, atol=1e-5, rtol=0)


def test_relaxed_scaling_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, marginal = log_table(9, 300, 6, 0.3), torch.arange(1, 7).double() / 21
    expected = assign(scores, marginal, size_strength=0.5)
    monkeypatch.setattr(NewtonEquation, "solve", lambda *_: None)
    found = assign(scores, marginal, size_strength=0.5)
    assert found.converged
    torch.testing.assert_close(found.masses, expected.masses, atol=2e-6, rtol=0)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(2000, 8), (40_000, 30)])
@pytest.mark.parametrize("size_strength", [INF, 1.0])
def test_a_partial_labelling_takes_the_most_confident(
    fraction: float, shape: tuple[int, int], size_strength: float
) -> None:
    scores = log_table(10, *shape, 0.5)
    found = assign(scores, uniform(shape[1]), fraction=fraction, size_strength=size_strength)
    assert found.converged
    assert found.masses.sum().item() == pytest.approx(fraction, abs=1e-6)
    labelled = found.labels >= 0
    assert labelled.double().mean().item() == pytest.approx(fraction, abs=0.05)  # the soft mass is exact
    best = (scores.double() * 20 + found.potentials[:-1]).amax(1)
    assert best[labelled].min() >= best[~labelled].max()
    if size_strength == INF:
        torch.testing.assert_close(found.masses, fraction * uniform(shape[1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\]"),
        ({"fraction": 1.1}, r"fraction must be in \(0, 1\]"),
        ({"size_strength": 0.0}, "size_strength must be positive"),
        ({"size_strength": math.nan}, "size_strength must be positive"),
        ({"fraction": 0.5, "initial_potentials": torch.zeros(3)}, r"\(K,\) = \(4,\)"),
    ],
)
def test_bad_settings_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(log_table(0, 8, 3), uniform(3), **setting)


def test_the_reference_says_why_it_stopped() -> None:
    assert assign_reference(log_table(0, 50, 4), uniform(4), max_passes=1).reason == "max_passes reached"
