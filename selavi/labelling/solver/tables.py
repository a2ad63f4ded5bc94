"""Score tables and the reads that the transport solver makes of them.

Axes: N clips (this process's rows), K clusters.  A read returns sums over the rows of the plan
``softmax(sharpness * scores[n] + potentials)``: K-sized, or K x K for the curvature of few clusters.  These kinds of
table answer alike: `DenseTable` in torch, float64 as the reference or float32 on a GPU; `FusedTable`, one read of
memory compiled by Numba, for float32 on a CPU; `BlockTable`, whose scores are computed block by block at every
read and never stored; and `HalfTable`, which keeps them in float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from types import ModuleType

# Up to this many clusters the curvature is a K x K matrix; above, the large entries of the plan stay in their rows.
MAX_DENSE_CLUSTERS = 1024
# A larger sample of a table that is computed anew at each read is computed anew as well.
MAX_SAMPLE_BYTES = 256 << 20

BLOCK_ELEMENTS = 1 << 18  # float64 entries held at a time on a CPU: 2 MiB, about a core's cache
GPU_BLOCK_ELEMENTS = 1 << 25  # entries held at a time on a GPU: 128 MiB of float32
# exp() of less would be denormal or 0; in float64 so would the product of two, which takes a matrix product many times
# as long.
_FLOOR = {torch.float64: -350.0, torch.float32: -87.0}
# Nats below a row's best at which a cluster counts as forbidden: float64 could not resolve its potential.
_NEVER = 1e12

LARGE = 0.01
"""Entries of the plan above this are coupled one by one; of the others there are sums only."""
MOST_LARGE = 32
"""Such entries of a row, where K > 1024."""


class Survey(NamedTuple):
    """Sums over rows that say what kind of problem this is."""

    num_bad: float
    """Rows with NaN, +inf or no cluster allowed."""
    num_rows: float
    squares: float
    """Sum of squares of the scaled scores, relative to the mean of their row."""
    counts: Tensor
    """(K,) clips that may have this cluster."""
    sums: Tensor
    """(K,) scaled scores, relative to the mean of their row."""
    furthest: float
    """Largest magnitude of a row's scaled maximum or mean: what the precision must resolve."""


class LargeEntries(NamedTuple):
    """Large entries of plan rows in CSR form."""

    row_starts: Tensor
    clusters: Tensor
    values: Tensor


class Curvature(NamedTuple):
    """Sums for the Hessian ``diag(masses) - rows^T rows``, which is the Laplacian of a graph of clusters."""

    masses: Tensor
    """(K,)"""
    tails: Tensor
    """(3, K) row sums of the coupling beyond the pairs: large entries with small, small with large, small with
    small."""
    pairs: Tensor
    """(K, K) coupling of large entries, off the diagonal; (0, 0) where large entries are given.  Valid until the
    next call."""
    large: LargeEntries | None
    gaps: Tensor | None = None
    """(2, K, GAP_BINS) where they are counted, see `gaps`."""


class Table(Protocol):
    """What the solver needs of the scores."""

    num_rows: int
    num_clusters: int
    device: torch.device

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The scores themselves."""
        ...

    def rows(self, chosen: slice) -> Tensor:
        """Scores of a few clips."""
        ...

    def exact(self) -> Table:
        """The same table read in float64."""
        ...

    def sample(self, stride: int) -> Table:
        """Every stride-th row, num_rows // stride of them; in memory, or computed anew where the table is."""
        ...

    def survey(self, forbidden: Tensor, sharpness: float) -> Survey:
        """Check and measure all rows."""
        ...

    def masses(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(K,) float64 sum of the plan's rows."""
        ...

    def curvature(self, potentials: Tensor, sharpness: float) -> Curvature:
        """Masses and sums for the Hessian."""
        ...

    def labels(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(N,) int64 cluster of the largest entry of each row."""
        ...

    def statistics(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(3, N) float32 confidence, margin and entropy of each row."""
        ...


def make_table(scores: Tensor) -> Table:
    """The fastest table for these scores."""
    if scores.device.type == "cpu":
        if scores.dtype == torch.float32 and scores.numel() > BLOCK_ELEMENTS:
            return FusedTable(scores)
        if scores.dtype in (torch.float16, torch.bfloat16) and scores.numel() > BLOCK_ELEMENTS:
            num_rows, num_clusters = scores.shape
            per_block = max(1, GPU_BLOCK_ELEMENTS // (8 * num_clusters))
            return BlockTable(num_rows, num_clusters, lambda rows: scores[rows].float(), per_block, scores.device)
        # A table of one block is upcast once instead of at every read.
        return DenseTable(scores.double() if scores.numel() <= BLOCK_ELEMENTS else scores, torch.float64)
    single = scores.dtype != torch.float64 and scores.numel() > BLOCK_ELEMENTS
    return DenseTable(scores, torch.float32 if single else torch.float64)


def with_column(table: Table, value: float) -> BlockTable:
    """The table with one more cluster, of the same score for every clip."""

    def rows(chosen: slice) -> Tensor:
        scores = table.rows(chosen)
        return torch.cat([scores, torch.full_like(scores[:, :1], value)], 1)

    per_block = max(1, GPU_BLOCK_ELEMENTS // (8 * table.num_clusters))
    return BlockTable(table.num_rows, table.num_clusters + 1, rows, per_block, table.device)


@dataclass
class DenseTable:
    """Plain torch in the given precision, by blocks of rows; sums are float64."""

    scores: Tensor
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.num_rows, self.num_clusters = self.scores.shape
        self.device = self.scores.device

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The scores themselves."""
        limit = BLOCK_ELEMENTS if self.device.type == "cpu" else GPU_BLOCK_ELEMENTS
        rows_per_block = max(1, limit // self.num_clusters)
        for first in range(0, self.num_rows, rows_per_block):
            rows = slice(first, min(first + rows_per_block, self.num_rows))
            yield rows, self.scores[rows]

    def rows(self, chosen: slice) -> Tensor:
        """Scores of a few clips."""
        return self.scores[chosen]

    def exact(self) -> DenseTable:
        """The same table read in float64."""
        return DenseTable(self.scores, torch.float64)

    def sample(self, stride: int) -> DenseTable:
        """Every stride-th row, as a table in memory."""
        num_rows = self.num_rows // stride
        return DenseTable(self.scores[: num_rows * stride : stride].to(self.dtype), self.dtype)

    def _scaled(self, potentials: Tensor, sharpness: float) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of ``sharpness * scores + potentials``, moved by a constant a row that keeps float32 accurate."""
        high = potentials.to(self.dtype)
        low = torch.where(high.isfinite(), potentials - high, 0.0).to(self.dtype)
        for rows, block in self.blocks():
            block = block.to(self.dtype)
            if self.dtype == torch.float64:
                yield rows, torch.add(potentials, block, alpha=sharpness)
                continue
            reference = torch.add(high, block, alpha=sharpness).amax(1, keepdim=True) / sharpness
            yield rows, torch.add(high, block - reference, alpha=sharpness).add_(low)

    def _plan(self, potentials: Tensor, sharpness: float) -> Iterator[tuple[slice, Tensor]]:
        for rows, plan in self._scaled(potentials, sharpness):
            plan -= plan.amax(1, keepdim=True)
            plan.clamp_(min=_FLOOR[self.dtype]).exp_()
            plan /= plan.sum(1, keepdim=True)
            yield rows, plan

    def survey(self, forbidden: Tensor, sharpness: float) -> Survey:
        """Check and measure all rows."""
        counts, sums = torch.zeros(2, self.num_clusters, dtype=torch.float64, device=self.device).unbind()
        num_bad, squares, furthest = torch.zeros(3, dtype=torch.float64, device=self.device).unbind()
        for _, scores in self.blocks():
            block = torch.add(forbidden.to(self.dtype), scores.to(self.dtype), alpha=sharpness)
            # NaN and +inf reach the row's maximum, and a row without any allowed cluster has the maximum -inf.
            largest = block.amax(1, keepdim=True)
            num_bad += (~largest.isfinite()).sum()
            block -= largest
            allowed = block > -_NEVER
            block.masked_fill_(~allowed, 0.0)
            means = block.sum(1, keepdim=True) / allowed.sum(1, keepdim=True).clamp(min=1)
            furthest = torch.maximum(furthest, torch.maximum(largest.abs(), (largest + means).abs()).max())
            block -= means
            block *= allowed
            counts += allowed.sum(0)
            sums += block.sum(0, dtype=torch.float64)
            squares += block.square().sum(dtype=torch.float64)
        return Survey(float(num_bad), self.num_rows, float(squares), counts, sums, float(furthest))

    def masses(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(K,) float64 sum of the plan's rows."""
        masses = torch.zeros(self.num_clusters, dtype=torch.float64, device=self.device)
        for _, plan in self._plan(potentials, sharpness):
            masses += plan.sum(0, dtype=torch.float64)
        return masses

    def curvature(self, potentials: Tensor, sharpness: float) -> Curvature:
        """Masses and sums for the Hessian, exact where K <= 1024."""
        masses = torch.zeros(self.num_clusters, dtype=torch.float64, device=self.device)
        tails = masses.new_zeros(3, self.num_clusters)
        if self.num_clusters <= MAX_DENSE_CLUSTERS:
            pairs = masses.new_zeros(self.num_clusters, self.num_clusters)
            for _, plan in self._plan(potentials, sharpness):
                masses += plan.sum(0, dtype=torch.float64)
                pairs += plan.T @ plan
            return Curvature(masses, tails, pairs.fill_diagonal_(0.0), None)
        counts, clusters, values = [], [], []
        for _, plan in self._plan(potentials, sharpness):
            masses += plan.sum(0, dtype=torch.float64)
            largest = plan.topk(min(MOST_LARGE, self.num_clusters), dim=1)
            kept = largest.values > LARGE
            p = largest.values * kept
            in_large = p.sum(1, keepdim=True)
            in_small = (1 - in_large).clamp(min=0)
            tails[0].index_add_(0, largest.indices[kept], (p * in_small)[kept].double())
            plan.scatter_(1, largest.indices, largest.values * ~kept)  # the small entries alone
            tails[1] += (plan * in_large).sum(0, dtype=torch.float64)
            tails[2] += (plan * (in_small - plan)).sum(0, dtype=torch.float64)
            counts.append(kept.sum(1))
            clusters.append(largest.indices[kept])
            values.append(p[kept].double())
        large = join_large(counts, clusters, values, self.device)
        return Curvature(masses, tails, masses.new_zeros(0, 0), large)

    def labels(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(N,) int64 cluster of the largest entry of each row."""
        labels = torch.empty(self.num_rows, dtype=torch.int64, device=self.device)
        for rows, scaled in self._scaled(potentials, sharpness):
            labels[rows] = scaled.argmax(1)
        return labels

    def statistics(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(3, N) float32 confidence, margin and entropy of each row."""
        out = torch.empty(3, self.num_rows, dtype=torch.float32, device=self.device)
        for rows, plan in self._plan(potentials, sharpness):
            largest = plan.topk(min(2, plan.shape[1]), dim=1).values
            out[0, rows] = largest[:, 0].float()
            out[1, rows] = (largest[:, 0] - largest[:, 1:].sum(1)).float()
            out[2, rows] = torch.special.entr(plan).sum(1).float()
        return out


class FusedTable:
    """A float32 table on the CPU, read once from memory for each sum; see `kernels`."""

    def __init__(self, scores: Tensor, stride: int = 1) -> None:
        self.num_rows, self.num_clusters = len(scores) // stride, scores.shape[1]
        self.device = scores.device
        # The rows between those of a sample are further columns, which the kernels pass over.
        wide = scores.contiguous()[: self.num_rows * stride].view(self.num_rows, stride * self.num_clusters)
        self.scores = wide[:, : self.num_clusters]
        self._array = wide.numpy()
        self._scratch: np.ndarray | None = None

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The scores themselves."""
        yield from DenseTable(self.scores, torch.float64).blocks()

    def rows(self, chosen: slice) -> Tensor:
        """Scores of a few clips."""
        return self.scores[chosen]

    def exact(self) -> DenseTable:
        """The same table read in float64."""
        return DenseTable(self.scores, torch.float64)

    def sample(self, stride: int) -> FusedTable:
        """Every stride-th row, as a table in memory."""
        return FusedTable(self.scores, stride)

    def survey(self, forbidden: Tensor, sharpness: float) -> Survey:
        """Check and measure all rows."""
        scalars, vectors = _kernels().survey(self._array, forbidden.float().numpy(), sharpness, _NEVER)
        num_bad, squares, _ = scalars.sum(0)
        counts, sums = torch.from_numpy(vectors.sum(0))
        furthest = scalars[:, 2].max(initial=0.0) * sharpness
        return Survey(num_bad, self.num_rows, squares * sharpness**2, counts, sums * sharpness, furthest)

    def masses(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(K,) float64 sum of the plan's rows."""
        return torch.from_numpy(_kernels().masses(self._array, potentials.double().numpy(), sharpness))

    def curvature(self, potentials: Tensor, sharpness: float) -> Curvature:
        """Masses and sums for the Hessian; what small entries couple is left to the tails."""
        kernels = _kernels()
        if self.num_clusters > MAX_DENSE_CLUSTERS:
            sums = kernels.large_entries(self._array, potentials.double().numpy(), sharpness)
            masses, tails, starts, clusters, values = (torch.from_numpy(array) for array in sums)
            return Curvature(masses, tails, masses.new_zeros(0, 0), LargeEntries(starts, clusters, values))
        if self._scratch is None:
            self._scratch = np.empty((kernels.PARTS, self.num_clusters, self.num_clusters))
        masses, tails = kernels.coupling(self._array, potentials.double().numpy(), sharpness, self._scratch)
        return Curvature(torch.from_numpy(masses), torch.from_numpy(tails), torch.from_numpy(self._scratch[0]), None)

    def labels(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(N,) int64 cluster of the largest entry of each row."""
        labels = torch.empty(self.num_rows, dtype=torch.int64)
        _kernels().labels(self._array, potentials.double().numpy(), sharpness, labels.numpy())
        return labels

    def statistics(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(3, N) float32 confidence, margin and entropy of each row."""
        out = torch.empty(3, self.num_rows)
        _kernels().statistics(self._array, potentials.double().numpy(), sharpness, out.numpy())
        return out


class BlockTable:
    """Scores that are computed again for each read: nothing of size N x K is held.

    Args:
        num_rows: N.
        num_clusters: K.
        rows: the scores (n, K) of a slice of the clips, which may have a step; the same ones whenever it is asked.
        rows_per_block: clips asked for at a time.
        device: where the scores are.
    """

    def __init__(
        self,
        num_rows: int,
        num_clusters: int,
        rows: Callable[[slice], Tensor],
        rows_per_block: int,
        device: torch.device,
    ) -> None:
        self.num_rows, self.num_clusters, self.device = num_rows, num_clusters, device
        self.rows, self._rows_per_block = rows, rows_per_block
        self._is_exact = False

    def like(self, rows: Callable[[slice], Tensor]) -> BlockTable:
        """A table of the same shape and blocks with other scores."""
        return BlockTable(self.num_rows, self.num_clusters, rows, self._rows_per_block, self.device)

    def exact(self) -> BlockTable:
        """The same table read in float64."""
        table = self.like(self.rows)
        table._is_exact = True
        return table

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The scores themselves."""
        for first in range(0, self.num_rows, self._rows_per_block):
            rows = slice(first, min(first + self._rows_per_block, self.num_rows))
            yield rows, self.rows(rows)

    def _tables(self) -> Iterator[tuple[slice, Table]]:
        for rows, scores in self.blocks():
            if self._is_exact or scores.dtype != torch.float32:
                yield rows, DenseTable(scores, torch.float64)
            elif scores.device.type == "cpu":
                yield rows, FusedTable(scores)
            else:
                yield rows, DenseTable(scores, torch.float32)

    def sample(self, stride: int) -> Table:
        """Every stride-th row; in memory where they are few."""
        num_rows = self.num_rows // stride

        def rows(chosen: slice) -> Tensor:
            return self.rows(slice(chosen.start * stride, (chosen.stop - 1) * stride + 1, stride))

        few = BlockTable(num_rows, self.num_clusters, rows, self._rows_per_block, self.device)
        few._is_exact = self._is_exact
        if num_rows * self.num_clusters * 4 > MAX_SAMPLE_BYTES:
            return few
        scores = torch.empty(0, self.num_clusters, device=self.device)
        for chosen, block in few.blocks():
            scores = scores if len(scores) else block.new_empty(num_rows, self.num_clusters)
            scores[chosen] = block
        if self._is_exact or scores.dtype != torch.float32:
            return DenseTable(scores, torch.float64)
        return FusedTable(scores) if scores.device.type == "cpu" else DenseTable(scores, torch.float32)

    def survey(self, forbidden: Tensor, sharpness: float) -> Survey:
        """Check and measure all rows."""
        zero = torch.zeros(self.num_clusters, dtype=torch.float64, device=self.device)
        total = Survey(0.0, 0.0, 0.0, zero, zero, 0.0)
        for _, table in self._tables():
            part = table.survey(forbidden, sharpness)
            total = Survey(
                num_bad=total.num_bad + part.num_bad,
                num_rows=total.num_rows + part.num_rows,
                squares=total.squares + part.squares,
                counts=total.counts + part.counts,
                sums=total.sums + part.sums,
                furthest=max(total.furthest, part.furthest),
            )
        return total

    def masses(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(K,) float64 sum of the plan's rows."""
        masses = torch.zeros(self.num_clusters, dtype=torch.float64, device=self.device)
        for _, table in self._tables():
            masses += table.masses(potentials, sharpness)
        return masses

    def curvature(self, potentials: Tensor, sharpness: float) -> Curvature:
        """Masses and sums for the Hessian."""
        masses = torch.zeros(self.num_clusters, dtype=torch.float64, device=self.device)
        tails = masses.new_zeros(3, self.num_clusters)
        dense = self.num_clusters if self.num_clusters <= MAX_DENSE_CLUSTERS else 0
        pairs, large = masses.new_zeros(dense, dense), []
        for _, table in self._tables():
            part = table.curvature(potentials, sharpness)
            masses, tails, pairs = masses + part.masses, tails + part.tails, pairs + part.pairs
            if part.large is not None:
                large.append(part.large)
        joined = None
        if not dense:
            counts = [part.row_starts.diff() for part in large]
            joined = join_large(counts, [part.clusters for part in large], [part.values for part in large], self.device)
        return Curvature(masses, tails, pairs, joined)

    def labels(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(N,) int64 cluster of the largest entry of each row."""
        labels = torch.empty(self.num_rows, dtype=torch.int64, device=self.device)
        for rows, table in self._tables():
            labels[rows] = table.labels(potentials, sharpness)
        return labels

    def statistics(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(3, N) float32 confidence, margin and entropy of each row."""
        out = torch.empty(3, self.num_rows, dtype=torch.float32, device=self.device)
        for rows, table in self._tables():
            out[:, rows] = table.statistics(potentials, sharpness)
        return out


class HalfTable:
    """Scores in float16 for the reads of the solver; labels and statistics come from the scores themselves.

    A row is kept relative to its maximum, so that float16 is finest where the plan's mass is.

    Args:
        source: computes the scores, once for each row here and once more for the labels.
    """

    def __init__(self, source: BlockTable) -> None:
        self.num_rows, self.num_clusters, self.device = source.num_rows, source.num_clusters, source.device
        self._source = source
        half = torch.empty(self.num_rows, self.num_clusters, dtype=torch.float16, device=self.device)
        lowest = torch.finfo(torch.float16).min
        for rows, block in source.blocks():
            block = block - block.amax(1, keepdim=True)
            half[rows] = torch.where(block.isinf(), block, block.clamp(min=lowest)).half()
        self._stored = source.like(lambda rows: half[rows].float())

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The scores as the solver sees them."""
        return self._stored.blocks()

    def rows(self, chosen: slice) -> Tensor:
        """Scores of a few clips."""
        return self._source.rows(chosen)

    def exact(self) -> BlockTable:
        """The scores themselves, computed anew at each read, which is in float64."""
        return self._source.exact()

    def sample(self, stride: int) -> Table:
        """Every stride-th row, num_rows // stride of them, as a table in memory."""
        return self._stored.sample(stride)

    def survey(self, forbidden: Tensor, sharpness: float) -> Survey:
        """Check and measure all rows."""
        return self._stored.survey(forbidden, sharpness)

    def masses(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(K,) float64 sum of the plan's rows."""
        return self._stored.masses(potentials, sharpness)

    def curvature(self, potentials: Tensor, sharpness: float) -> Curvature:
        """Masses and sums for the Hessian."""
        return self._stored.curvature(potentials, sharpness)

    def labels(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(N,) int64 cluster of the largest entry of each row."""
        return self._source.labels(potentials, sharpness)

    def statistics(self, potentials: Tensor, sharpness: float) -> Tensor:
        """(3, N) float32 confidence, margin and entropy of each row."""
        return self._source.statistics(potentials, sharpness)


def join_large(
    counts: list[Tensor], clusters: list[Tensor], values: list[Tensor], device: torch.device
) -> LargeEntries:
    """Large entries of all rows from those of blocks of rows: how many each row has, their clusters and values."""
    starts = torch.cat([torch.zeros(1, dtype=torch.int64, device=device), *counts]).cumsum(0)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return LargeEntries(starts, torch.cat([none, *clusters]), torch.cat([none.double(), *values]))


def one_torch_thread(table: Table) -> AbstractContextManager[None]:
    """For many reads of a table with small computations between them."""
    return _kernels().one_torch_thread() if isinstance(table, FusedTable) else nullcontext()


def _kernels() -> ModuleType:
    """The compiled kernels; imported late, since Numba takes a second."""
    from selavi.labelling.solver import kernels

    return kernels
