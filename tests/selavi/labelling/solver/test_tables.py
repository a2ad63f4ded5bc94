import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selavi.labelling.solver import tables
from selavi.labelling.solver.tables import (
    BlockTable,
    DenseTable,
    FusedTable,
    HalfTable,
    Table,
    make_table,
    with_column,
)
from selavi.labelling.solver.transport import assign

INF = math.inf
KINDS = ["fused", "float32", "blocks", "blocks of float64"]

sizes = st.tuples(st.integers(1, 2300), st.sampled_from([1, 2, 3, 15, 16, 17, 64, 65, 100]))
spreads = st.sampled_from([0.0, 0.01, 0.3, 1.0, 3.0])
seeds = st.integers(0, 2**31 - 1)


def log_table(seed: int, num_clips: int, num_clusters: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(num_clips, num_clusters, generator=generator)).log_softmax(1)


def normal(seed: int, num_clusters: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(num_clusters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table_of(kind: str, scores: Tensor) -> Table:
    def in_blocks(values: Tensor) -> BlockTable:
        return BlockTable(*values.shape, lambda rows: values[rows], 700, values.device)

    return {
        "fused": lambda: FusedTable(scores),
        "float32": lambda: DenseTable(scores, torch.float32),
        "blocks": lambda: in_blocks(scores),
        "blocks of float64": lambda: in_blocks(scores.double()),
    }[kind]()


def reference(scores: Tensor) -> DenseTable:
    return DenseTable(scores.double(), torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@given(size=sizes, spread=spreads, seed=seeds)
@settings(max_examples=25, deadline=None)
def test_every_read_agrees_with_the_reference(kind: str, size: tuple[int, int], spread: float, seed: int) -> None:
    scores, potentials = log_table(seed, *size, spread), normal(seed, size[1])
    table, expected = table_of(kind, scores), reference(scores)
    torch.testing.assert_close(
        table.masses(potentials, 20.0), expected.masses(potentials, 20.0), atol=1e-6 * size[0], rtol=1e-5
    )
    found, exact = table.curvature(potentials, 20.0), expected.curvature(potentials, 20.0)
    torch.testing.assert_close(found.masses, exact.masses, atol=1e-6 * size[0], rtol=1e-5)
    # What is not coupled pair by pair is in the tails: the row sums are those of the whole coupling.
    torch.testing.assert_close(
        found.pairs.sum(1) + found.tails.sum(0), exact.pairs.sum(1) + exact.tails.sum(0), atol=2e-6 * size[0], rtol=1e-4
    )
    assert (found.pairs <= exact.pairs + 1e-5 * size[0]).all()
    torch.testing.assert_close(found.pairs, found.pairs.T)
    scaled = scores.double() * 20 + potentials
    labels = table.labels(potentials, 20.0)
    if kind == "float32":  # has not float64's eyes for near ties
        assert (scaled.amax(1) - scaled.gather(1, labels[:, None])[:, 0]).max() < 1e-4
    else:
        assert torch.equal(labels, scaled.argmax(1))
    torch.testing.assert_close(
        table.statistics(potentials, 20.0), expected.statistics(potentials, 20.0), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_survey_is_that_of_the_reference(kind: str) -> None:
    scores = log_table(0, 1500, 20)
    scores[5, 3:] = -INF
    scores[6, 2] = torch.finfo(torch.float32).min
    forbidden = torch.zeros(20, dtype=torch.float64)
    forbidden[7] = -INF
    found, expected = (t.survey(forbidden, 20.0) for t in (table_of(kind, scores), reference(scores)))
    assert (found.num_bad, found.num_rows) == (expected.num_bad, expected.num_rows) == (0, 1500)
    assert found.squares == pytest.approx(expected.squares, rel=1e-4)
    assert torch.equal(found.counts, expected.counts)
    torch.testing.assert_close(found.sums, expected.sums, atol=0.05, rtol=1e-4)
    assert found.furthest == pytest.approx(expected.furthest, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "cluster", "message"),
    [
        (math.nan, 1, "row 1234 is NaN for cluster 1"),
        (INF, 2, r"row 1234 is \+inf .* cluster 2"),
        (-INF, slice(None), "row 1234 is -inf for every cluster"),
    ],
)
def test_bad_rows_are_named(kind: str, value: float, cluster: int | slice, message: str) -> None:
    scores = log_table(1, 1500, 20)
    scores[1234, cluster] = value
    with pytest.raises(ValueError, match=message):
        assign(table_of(kind, scores), torch.full((20,), 1 / 20))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_clusters", [309, 40])
def test_large_entries_are_the_coupling_without_a_matrix(
    kind: str, num_clusters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, potentials = log_table(2, 2000, num_clusters, 0.5), normal(2, num_clusters, 1.0)
    dense = FusedTable(scores).curvature(potentials, 20.0)
    pairs = dense.pairs.clone()
    monkeypatch.setattr(tables, "MAX_DENSE_CLUSTERS", 10)
    found = table_of(kind, scores).curvature(potentials, 20.0)
    assert found.large is not None
    starts, clusters, values = found.large
    rows = torch.arange(2000).repeat_interleave(starts.diff())
    plan = torch.zeros(2000, num_clusters, dtype=torch.float64).index_put_((rows, clusters), values)
    sparse = (plan.T @ plan).fill_diagonal_(0.0)
    torch.testing.assert_close(sparse, pairs, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.tails, dense.tails, atol=1e-2, rtol=1e-3)


def test_the_number_of_threads_changes_no_bit() -> None:
    scores, potentials = log_table(3, 9000, 50), normal(3, 50)
    before, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            table = FusedTable(scores)
            curvature = table.curvature(potentials, 20.0)
            found.append([table.masses(potentials, 20.0), curvature.masses, curvature.tails, curvature.pairs.clone()])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_product_with_large_entries_is_that_of_the_matrix() -> None:
    from selavi.labelling.solver.kernels import entries_product

    plan = normal(5, 9000 * 40).view(9000, 40).softmax(1)
    plan[plan < 0.01] = 0.0
    plan[7] = 0.0  # a row without large entries
    is_large = plan > 0
    starts = np.concatenate([[0], is_large.sum(1).cumsum(0).numpy()])
    arrays = starts, is_large.nonzero()[:, 1].numpy(), plan[is_large].numpy()
    vector = normal(6, 40)
    found = torch.from_numpy(entries_product(*arrays, vector.numpy()))
    torch.testing.assert_close(found, plan.T @ (plan @ vector))


def test_the_exponential_is_accurate_over_its_range() -> None:
    from selavi.labelling.solver.kernels import exp2

    x = np.linspace(-126, 2, 20_001, dtype=np.float32)
    found = np.array([exp2(value) for value in x], dtype=np.float64)
    assert np.abs(found / np.exp2(x.astype(np.float64)) - 1).max() < 2e-7


def test_potentials_keep_their_digits_in_float32() -> None:
    scores, potentials = log_table(4, 3000, 30), 1000 + normal(4, 30)
    for kind in ("fused", "float32"):
        found = table_of(kind, scores).masses(potentials, 20.0)
        torch.testing.assert_close(found, reference(scores).masses(potentials, 20.0), atol=2e-3, rtol=1e-5)


def test_a_sample_is_every_nth_row() -> None:
    scores = log_table(5, 2011, 6)
    for kind in KINDS:
        for stride in (1, 3, 701, 1024):
            blocks = [block for _, block in table_of(kind, scores).sample(stride).blocks()]
            assert torch.equal(torch.cat(blocks).float(), scores[: 2011 // stride * stride : stride]), (kind, stride)


def test_float16_moves_the_masses_a_little_and_the_labels_of_given_potentials_not_at_all() -> None:
    scores, potentials = log_table(7, 3000, 40), normal(7, 40)
    scores[5, 3], scores[6, 4] = -INF, -1e5
    source = BlockTable(3000, 40, lambda rows: scores[rows], 700, scores.device)
    half, expected = HalfTable(source), reference(scores)
    torch.testing.assert_close(half.masses(potentials, 20.0), expected.masses(potentials, 20.0), atol=0.5, rtol=1e-3)
    assert torch.equal(half.labels(potentials, 20.0), expected.labels(potentials, 20.0))
    kept = torch.cat([block for _, block in half.blocks()])
    assert kept[5, 3] == -INF and kept[6, 4] == torch.finfo(torch.float16).min
    relative = (scores - scores.amax(1, keepdim=True)).clamp(min=kept[6, 4].item())
    relative[5, 3] = -INF
    torch.testing.assert_close(kept, relative, atol=1e-6, rtol=1e-3)


def test_a_column_more() -> None:
    scores = log_table(6, 900, 5)
    wider = with_column(make_table(scores), 0.0)
    assert wider.num_clusters == 6
    assert torch.equal(wider.rows(slice(3, 9)), torch.cat([scores[3:9], torch.zeros(6, 1)], 1))


def test_big_float32_tables_are_read_fused_and_others_exactly() -> None:
    big = torch.zeros(1 << 13, 40)
    assert isinstance(make_table(big), FusedTable)
    for exact in (big.double(), torch.zeros(100, 40)):
        table = make_table(exact)
        assert isinstance(table, DenseTable) and table.dtype == torch.float64
