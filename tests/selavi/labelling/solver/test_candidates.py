"""Each clip's likeliest clusters: what they say of the plan, and the tables whose labels are found by them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from selavi.labelling.solver import candidate_reads
from selavi.labelling.solver import candidates as module
from selavi.labelling.solver.candidates import CandidateTable
from selavi.labelling.solver.dual import Dual
from selavi.labelling.solver.gaps import GAP_BINS, gap_edges
from selavi.labelling.solver.problem import Problem, on_one_process, survey
from selavi.labelling.solver.tables import BlockTable, Curvature, DenseTable, Table, make_table
from selavi.labelling.solver.transport import assign


def dense(scores: Tensor) -> DenseTable:
    return DenseTable(scores.double(), torch.float64)


def candidates(table: Table, potentials: Tensor, num_candidates: int, sharpness: float = 20.0) -> CandidateTable:
    return CandidateTable(table, potentials, sharpness, num_candidates, on_one_process)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def others_alike(num_clips: int, num_clusters: int, num_near: int) -> Tensor:
    """Scores of clips that have a few likely clusters and care for no other."""
    scores = torch.zeros(num_clips, num_clusters, dtype=torch.float64)
    near = torch.rand(num_clips, num_clusters, generator=torch.Generator().manual_seed(0)).topk(num_near).indices
    return scores.scatter_(1, near, 0.3 + normal(1, num_clips, num_near).abs()).log_softmax(1)


def test_masses_are_exact_where_the_candidates_were_taken() -> None:
    scores, potentials = normal(2, 500, 40), 3 * normal(3, 40)
    table = candidates(dense(scores), potentials, 6)
    expected = dense(scores).masses(potentials, 20.0)
    torch.testing.assert_close(table.true_masses, expected, atol=1e-9, rtol=1e-12)
    torch.testing.assert_close(table.masses(potentials, 20.0), expected, atol=1e-9, rtol=1e-12)


def plain_and_far(seed: int, num_clips: int, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Normal scores, and potentials that take some clusters far away or leave them out."""
    potentials = 5 * normal(seed, num_clusters)
    potentials[1], potentials[2] = -3000.0, -math.inf
    return normal(seed + 1, num_clips, num_clusters), potentials


def heavy_and_forbidden(seed: int, num_clips: int, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Scores of heavy tails in single precision, with pairs that are forbidden."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.standard_t(2, (num_clips, num_clusters))).float()
    scores[::3, 4::7] = -math.inf
    return scores, 3 * normal(seed, num_clusters)


def coupling(found: Curvature, num_clusters: int) -> Tensor:
    """(K, K) of large entries, however it is given."""
    if found.large is None:
        return found.pairs
    rows = torch.arange(len(found.large.row_starts) - 1).repeat_interleave(found.large.row_starts.diff())
    plan = torch.zeros(len(found.large.row_starts) - 1, num_clusters, dtype=torch.float64)
    plan[rows, found.large.clusters] = found.large.values
    return (plan.T @ plan).fill_diagonal_(0.0)


@pytest.mark.parametrize("draw", [plain_and_far, heavy_and_forbidden])
@pytest.mark.parametrize(
    ("num_clips", "num_clusters", "num_candidates"),
    [(1, 9, 3), (700, 7, 3), (500, 23, 11), (300, 200, 16), (20_000, 40, 5), (200, 1100, 16), (30, 2000, 300)],
)
def test_compiled_reads_are_those_of_torch(
    draw: Callable[[int, int, int], tuple[Tensor, Tensor]],
    num_clips: int,
    num_clusters: int,
    num_candidates: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, potentials = draw(num_clips + num_clusters, num_clips, num_clusters)
    table, moved = make_table(scores), 2 * potentials + normal(0, num_clusters)
    compiled = candidates(table, potentials, num_candidates)
    monkeypatch.setattr(module, "reads_on", lambda device: candidate_reads)
    plain = candidates(table, potentials, num_candidates)
    torch.testing.assert_close(compiled.true_masses, plain.true_masses, atol=1e-10, rtol=1e-10)
    for at, sharpness in ((potentials, 20.0), (moved, 20.0), (moved, 50.0)):
        torch.testing.assert_close(compiled.masses(at, sharpness), plain.masses(at, sharpness), atol=1e-9, rtol=1e-9)
        found, expected = compiled.curvature(at, sharpness), plain.curvature(at, sharpness)
        torch.testing.assert_close(found.masses, expected.masses, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(found.tails, expected.tails, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(
            coupling(found, num_clusters), coupling(expected, num_clusters), atol=1e-9, rtol=1e-9
        )
        assert found.gaps is not None and expected.gaps is not None
        # A gap within the last bits of the edge of a bin is counted on either side.
        assert (found.gaps - expected.gaps).abs().sum() <= 1e-5 * expected.gaps.sum() + 2


def test_of_equal_scores_the_first_are_taken() -> None:
    scores = torch.zeros(300, 30, dtype=torch.float64)
    scores[:, 20] = 1.0
    table = candidates(dense(scores), torch.zeros(30, dtype=torch.float64), 5)
    assert (table._clusters == torch.tensor([0, 1, 2, 3, 20])).all()
    torch.testing.assert_close(table.true_masses, dense(scores).masses(torch.zeros(30).double(), 20.0))


def test_the_number_of_threads_changes_no_bit() -> None:
    scores, potentials = normal(9, 40_000, 30).float(), normal(10, 30)
    before, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            table = candidates(make_table(scores), potentials, 6)
            curvature = table.curvature(2 * potentials, 20.0)
            masses = table.true_masses, table.masses(2 * potentials, 20.0), curvature.masses
            found.append([*masses, curvature.tails, curvature.pairs, curvature.gaps])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_exponential_is_accurate_over_its_range() -> None:
    from selavi.labelling.solver.candidate_kernels import exp2

    x = np.linspace(-1022, 2, 20_001)
    assert np.abs(np.array([exp2(value) for value in x]) / np.exp2(x) - 1).max() < 2e-15


@pytest.mark.parametrize("sharpness", [20.0, 50.0])
def test_others_that_are_alike_are_modelled_closely(sharpness: float) -> None:
    scores, potentials = others_alike(300, 50, 3), 0.5 * normal(4, 50)
    moved = potentials * sharpness / 20 + normal(5, 50)
    table, exact = candidates(dense(scores), potentials, 8), dense(scores)
    torch.testing.assert_close(table.masses(moved, sharpness), exact.masses(moved, sharpness), atol=2e-2, rtol=2e-3)
    found, expected = table.curvature(moved, sharpness), exact.curvature(moved, sharpness)
    torch.testing.assert_close(
        found.pairs.sum(1) + found.tails.sum(0), expected.pairs.sum(1) + expected.tails.sum(0), atol=2e-2, rtol=2e-2
    )
    torch.testing.assert_close(found.pairs, found.pairs.T)
    assert (found.pairs <= expected.pairs + 1e-2).all()


def test_a_cluster_without_mass_gets_none() -> None:
    scores, potentials = normal(6, 200, 30), normal(7, 30)
    potentials[11] = -math.inf
    table = candidates(dense(scores), potentials, 6)
    for masses in (table.masses(potentials, 20.0), table.masses(potentials, 50.0)):
        assert masses.isfinite().all()
        assert masses[11].abs() < 1e-12 and masses.sum().item() == pytest.approx(200)


def test_gaps_are_counted_where_they_lie() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.standard_t(2, (700, 12)))
    potentials = 3 * normal(8, 12)
    counts = candidates(dense(scores), potentials, 11).curvature(potentials, 20.0).gaps
    assert counts is not None and counts.shape == (2, 12, GAP_BINS)
    assert (counts[0].sum(1) == 700).all()
    scaled = 20.0 * scores + potentials
    gaps = scaled.logsumexp(1, keepdim=True) - scaled
    is_candidate = torch.ones_like(gaps, dtype=torch.bool).scatter_(1, scaled.argmin(1, keepdim=True), False)
    near = gap_edges() < 500  # beyond 700 nats the others are modelled at 700
    for edge, below in zip(gap_edges()[near].tolist(), counts[0].cumsum(1).T[near], strict=True):
        # A candidate counts by the larger of its two parts, and what the model of the others says in bins.
        assert (below >= (is_candidate & (gaps < 0.8 * edge - 1)).sum(0)).all()
        assert (below <= ((gaps < 1.25 * edge + 1) | ~is_candidate).sum(0)).all()
    best = scaled.topk(2, 1)
    leads = best.values[:, 0] - best.values[:, 1]
    for edge, beyond in zip(gap_edges()[near].tolist(), counts[1].flip(1).cumsum(1).flip(1).T[1:], strict=False):
        assert (best.indices[leads >= edge * (1 + 1e-4), 0].bincount(minlength=12) <= beyond).all()
        assert (best.indices[leads >= edge * (1 - 1e-4), 0].bincount(minlength=12) >= beyond).all()


def test_the_way_of_a_cluster_makes_its_mass_right() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.standard_t(2, (500, 8)))
    target = torch.from_numpy(rng.dirichlet(np.ones(8)))
    table, overview = survey(Problem(dense(scores), target), 1e-6, on_one_process)
    potentials = torch.from_numpy(30 * rng.standard_normal(8))
    dual = Dual(Problem(table, target), overview, on_one_process)
    sums = dual.read(candidates(table, potentials, 7), 500, potentials, 20.0, curvature=True)
    assert sums.ways is not None
    for cluster, way in enumerate(sums.ways.tolist()):
        need = -sums.gradient[cluster].item()

        def lacks(nats: float, cluster: int = cluster) -> float:
            moved = potentials.clone()
            moved[cluster] += nats
            return (target - table.masses(moved, 20.0) / 500)[cluster].item()

        sign = math.copysign(1.0, need)
        # Bins are a quarter of an octave wide, and the clips that waver do so over a few nats.
        assert sign * lacks(sign * (0.8 * way - 8)) >= 0 >= sign * lacks(sign * (1.25 * way + 8))


def students(rng: np.random.Generator, num_clips: int, num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of heavy tails, and sizes that vary much."""
    return rng.standard_t(2, (num_clips, num_clusters)), rng.dirichlet(np.ones(num_clusters))


def paretos(rng: np.random.Generator, num_clips: int, num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of which a few are thousands of times the median, and alike sizes."""
    return 1 + rng.pareto(1.2, (num_clips, num_clusters)), np.full(num_clusters, 1 / num_clusters)


def own(rng: np.random.Generator, num_clips: int, num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """One cluster a clip, in turn, all others alike, and sizes that vary much."""
    return 6.0 * (np.arange(num_clips)[:, None] % num_clusters == range(num_clusters)), rng.dirichlet(
        np.ones(num_clusters)
    )


@pytest.mark.parametrize(
    ("kind", "num_clips", "num_clusters", "seed", "spread"),
    [
        (students, 400, 200, 1, 3.0),  # not in 200 passes where all reads are of all scores
        (students, 600, 300, 0, 1.0),  # 25 passes
        (paretos, 300, 290, 0, 0.5),  # 38
        (paretos, 800, 150, 0, 1.5),  # 27
        (own, 400, 300, 1, 4.0),  # 29
        (own, 3000, 12, 1, 3.0),  # 20, and 28 without candidates
    ],
)
def test_few_clips_a_cluster_take_few_passes(
    kind: Callable[..., tuple[np.ndarray, np.ndarray]], num_clips: int, num_clusters: int, seed: int, spread: float
) -> None:
    logits, sizes = kind(np.random.default_rng(seed), num_clips, num_clusters)
    scores, marginal = torch.from_numpy(spread * logits).float().log_softmax(1), torch.from_numpy(sizes)
    found = assign(scores, marginal, max_passes=18)
    assert found.converged, found.reason
    assert 0 < found.inner_passes < found.num_passes
    exact = assign(scores.double(), marginal, initial_potentials=found.potentials, max_passes=1)
    assert exact.marginal_error <= 1.1e-6


def test_candidates_of_scores_that_are_computed_block_by_block() -> None:
    logits, sizes = students(np.random.default_rng(2), 400, 100)
    scores, marginal = torch.from_numpy(logits).float().log_softmax(1), torch.from_numpy(sizes)
    stored = assign(scores, marginal)
    streamed = assign(BlockTable(400, 100, lambda rows: scores[rows], 70, scores.device), marginal)
    assert streamed.converged and streamed.inner_passes > 0
    assert torch.equal(streamed.labels, stored.labels)


def test_forbidden_clusters_are_no_candidates() -> None:
    logits, _ = students(np.random.default_rng(3), 400, 100)
    scores = torch.from_numpy(logits).float()
    scores[:100, 3:] = -math.inf  # fewer are left than there are candidates
    found = assign(scores, torch.full((100,), 0.01, dtype=torch.float64), max_passes=60)
    assert not found.converged and found.potentials.isfinite().all()  # a quarter of the clips for 3 % of the mass
    sizes = torch.full((100,), 0.7 / 97, dtype=torch.float64)
    sizes[:3] = 0.1
    found = assign(scores, sizes, max_passes=30)
    assert found.converged, found.reason
    assert (found.labels[:100] < 3).all()


@pytest.mark.parametrize("max_passes", [6, 7, 8, 9])
def test_max_passes_is_kept_and_the_error_is_that_of_the_result(max_passes: int) -> None:
    logits, sizes = students(np.random.default_rng(0), 400, 100)
    scores, marginal = torch.from_numpy(logits).log_softmax(1), torch.from_numpy(sizes)
    found = assign(scores, marginal, max_passes=max_passes)
    assert not found.converged and found.num_passes <= max_passes
    plan = (20.0 * scores + found.potentials).softmax(1)
    assert (plan.mean(0) - marginal).abs().sum().item() == pytest.approx(found.marginal_error, rel=1e-6)
    assert f"max_passes = {max_passes}" in found.reason
