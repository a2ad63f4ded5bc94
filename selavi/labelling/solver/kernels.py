"""Fused reads of a float32 score table on the CPU, compiled by Numba at first use.

Axes: N clips, K clusters.  Every kernel reads a row once from memory and works on it while it is in the cache.
A table may have more columns than there are potentials: the first K count, which is how a sample of the rows is read
where they lie.
Rows are cut into chunks of a fixed number, sums of a few rows are float32 and those of a chunk float64, and chunks
are added in order, so that the same table gives the same bits whatever the number of threads.

The entries are ``exp(sharpness * (x - reference) + potential)`` where ``reference`` is close to the score of the
row's best cluster: with the large numbers taken away first, float32 keeps the digits of the entries that matter.
They are powers of 2, which saves an operation: sharpness and potentials come multiplied by log2(e).  What float32
cannot hold of a potential is left to a factor near 1.  Only this module and `candidate_kernels` import Numba.
"""

# The types of compiled functions are Numba's.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path

if "NUMBA_CACHE_DIR" not in os.environ and not os.access(Path(__file__).parent, os.W_OK):
    # An installation that the user may not write to: compiled code goes to a folder of the user's own.
    os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"selavi-numba-{os.getuid()}")

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from selavi.labelling.solver.tables import LARGE, MOST_LARGE

_F = np.float32
_FLOOR = _F(-100.0)  # keeps every mass positive, and products of masses well above the denormal numbers
_CHUNK = 1024  # rows whose sums are added in one go
_FLUSH = 64  # rows whose sums are float32
_AHEAD = 8  # rows fetched before they are needed
PARTS = 8  # K x K sums that are held at a time, at most
_ROWS_PER_PART = 4096  # of few rows there are fewer

_num_threads: ContextVar[int | None] = ContextVar("num_threads", default=None)

_LARGE = _F(LARGE)

# The compiler may reorder sums (it must, to use vectors) and knows that no NaN comes here; -inf may.
FAST = {"reassoc", "contract", "arcp", "nnan", "nsz"}

_LN_2 = _F(math.log(2))
_ROUND = _F(12582912.0)  # 1.5 * 2 ** 23: adding it rounds to an integer, held in the low bits
# 2 ** x for |x| <= 1/2 within a relative 8e-8: a least-squares fit at 4,000 Chebyshev nodes.
_TERMS = tuple(map(_F, (1.0000001192, 0.6931469440, 0.2402212173, 0.0555074252, 0.0096754599, 0.0013266971)))


def in_threads(kernel: Callable[..., None], num_chunks: int, *arguments: object) -> None:
    """Run a kernel over ranges of chunks in as many threads as torch uses (outside of `one_torch_thread`).

    Not by Numba's own threads: those share OpenMP's with torch, whose number they change.
    """
    num_threads = min(_num_threads.get() or torch.get_num_threads(), num_chunks)
    if num_threads <= 1:
        kernel(0, num_chunks, *arguments)
        return
    # More tasks than threads, so that a thread that the machine holds up does not hold up all.
    bounds = np.linspace(0, num_chunks, min(num_chunks, 4 * num_threads) + 1).astype(int)
    tasks = iter(list(pairwise(bounds.tolist())))

    def work() -> None:
        for pair in tasks:  # of a list: threads may share its iterator
            kernel(*pair, *arguments)

    # This thread is one of them: to wake another one takes as long as it works on a small table.
    others = [_pool(num_threads - 1).submit(work) for _ in range(num_threads - 1)]
    work()
    for other in others:
        other.result()


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Threads that wait for the next call: starting them takes a tenth of a pass."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="selavi-kernel")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread between the kernels, which go on with as many as before.

    OpenMP's threads spin for milliseconds after each operation of torch's that used them, on cores that the next
    kernel needs.
    """
    num_threads = torch.get_num_threads()
    token = _num_threads.set(num_threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        _num_threads.reset(token)


def num_parts(num_rows: int, rows_per_part: int) -> int:
    """Into how many parts rows are cut whose sums are large: at most PARTS, and one where rows are few."""
    return min(PARTS, 1 + num_rows // rows_per_part)


def _num_chunks(scores: np.ndarray) -> int:
    return -(-len(scores) // _CHUNK)


@intrinsic
def _as_float(typing, bits):
    return types.float32(types.int32), lambda _, builder, __, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def as_bits(typing, number):
    """The bits of a float32, as an integer."""
    return types.int32(types.float32), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def larger(typing, left, right):
    """A maximum of two of one type that LLVM recognises as a reduction: Python's max() is not vectorised."""

    def generate(_, builder, __, args):
        flags = ["nnan", "nsz"]
        return builder.select(builder.fcmp_ordered(">", *args, flags=flags), *args, flags=flags)

    return left(left, left), generate


@intrinsic
def _fetch(typing, scores, row, column):
    """Ask for a cache line of the table, to be there when its row's turn comes."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = cgutils.get_item_pointer(context, builder, signature.args[0], array, list(args[1:]))
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        to_read, keep, data = (ir.Constant(ir.IntType(32), value) for value in (0, 3, 1))
        arguments = [pointer, to_read, keep, data]
        function = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], function), arguments)
        return context.get_dummy_value()

    return types.none(scores, row, column), generate


def _in_powers_of_two(potentials: np.ndarray, sharpness: float) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Potentials and sharpness times log2(e) in float32, and the factors that make good what is lost."""
    exact = potentials * math.log2(math.e)
    exponents = exact.astype(np.float32)
    factors = np.ones_like(exponents)
    finite = np.isfinite(exponents)
    factors[finite] = np.exp2(exact[finite] - exponents[finite])
    return exponents, factors, _F(sharpness * math.log2(math.e))


@njit(fastmath={"contract"}, cache=True)
def exp2(x):
    """2 ** x for -126 <= x <= 127, within 2e-7 of it, in operations that vectorise; no reordering in here."""
    rounded = x + _ROUND
    rest = x - (rounded - _ROUND)
    series = _TERMS[5]
    series = series * rest + _TERMS[4]
    series = series * rest + _TERMS[3]
    series = series * rest + _TERMS[2]
    series = series * rest + _TERMS[1]
    series = series * rest + _TERMS[0]
    return _as_float(np.int32(as_bits(series) + (as_bits(rounded) << np.int32(23))))


# Rows are given as a table and a number: a slice of a table would count a reference, for which threads would wait.


@njit(fastmath=FAST, cache=True)
def _reference(scores, n, exponents, sharpness):
    """The score that the row's largest entry would have without a potential."""
    largest = _F(-np.inf)
    for k in range(len(exponents)):
        largest = larger(largest, sharpness * scores[n, k] + exponents[k])
    return largest * (_F(1) / sharpness)


@njit(fastmath=FAST, cache=True)
def _plan_row(scores, n, exponents, factors, sharpness, entries, i):
    """Entries of a row before the factors, into entries[i], and 1 over their sum with them."""
    ahead = min(n + _AHEAD, len(scores) - 1)
    for k in range(0, len(exponents), 16):
        _fetch(scores, ahead, k)
    reference = _reference(scores, n, exponents, sharpness)
    total = _F(0)
    for k in range(len(exponents)):
        entry = exp2(max(sharpness * (scores[n, k] - reference) + exponents[k], _FLOOR))
        entries[i, k] = entry
        total += entry * factors[k]
    return _F(1) / total


@njit(fastmath=FAST, cache=True)
def _flush(few, total):
    """Add float32 sums to float64 ones and begin again."""
    for k in range(len(few)):
        total[k] += np.float64(few[k])
        few[k] = _F(0)


@njit(nogil=True, fastmath=FAST, cache=True)
def _masses(first_chunk, end_chunk, scores, exponents, factors, sharpness, sums):
    num_rows, num_clusters = len(scores), len(exponents)
    for chunk in range(first_chunk, end_chunk):
        rows, few = np.empty((4, num_clusters), np.float32), np.zeros(num_clusters, np.float32)
        total, weights = np.zeros(num_clusters), np.empty(4, np.float32)
        first, end = chunk * _CHUNK, min(num_rows, (chunk + 1) * _CHUNK)
        a, b, c, d = rows[0], rows[1], rows[2], rows[3]
        for n in range(first, end, 4):
            for i in range(4):
                weights[i] = _plan_row(scores, min(n + i, end - 1), exponents, factors, sharpness, rows, i)
                if n + i >= end:
                    weights[i] = _F(0)
            w, x, y, z = weights[0], weights[1], weights[2], weights[3]
            for k in range(num_clusters):
                few[k] += w * a[k] + x * b[k] + y * c[k] + z * d[k]
            if (n - first) % _FLUSH == _FLUSH - 4:
                _flush(few, total)
        _flush(few, total)
        sums[chunk] = total


def masses(scores: np.ndarray, potentials: np.ndarray, sharpness: float) -> np.ndarray:
    """Sum of the plan's rows, (K,) float64."""
    exponents, factors, scale = _in_powers_of_two(potentials, sharpness)
    sums = np.empty((_num_chunks(scores), len(potentials)))
    in_threads(_masses, len(sums), scores, exponents, factors, scale, sums)
    return sums.sum(0) * factors


@njit(cache=True)
def _take_large(entries, weight, flags, words, clusters, values, most, mass, tails):
    """Move the large entries of a row, at most `most`, out of it and into the mass; their number and sum.

    `flags` is (K,) uint8 with its length rounded up to a multiple of 8, and `words` the same memory as uint64: so
    eight entries are passed over at a time.
    """
    bar = _LARGE / weight
    for k in range(len(entries)):
        flags[k] = entries[k] > bar
    num_large = 0
    in_large = _F(0)
    for word in range(len(words)):
        if words[word] == 0:
            continue
        for k in range(8 * word, 8 * word + 8):
            if flags[k] and num_large < most:
                p = entries[k] * weight
                clusters[num_large], values[num_large] = k, p
                num_large += 1
                in_large += p
                entries[k] = _F(0)
    in_small = max(_F(1) - in_large, _F(0))
    for i in range(num_large):
        mass[clusters[i]] += np.float64(values[i])
        tails[0, clusters[i]] += np.float64(values[i] * in_small)
    return num_large, in_large


@njit(fastmath=FAST, cache=True)
def _add_small(entries, weight, in_large, few):
    """Add a row without its large entries to the mass and the tails."""
    in_small = max(_F(1) - in_large, _F(0))
    mass, with_large, with_small = few[0], few[1], few[2]
    for k in range(len(entries)):
        p = entries[k] * weight
        mass[k] += p
        with_large[k] += p * in_large
        with_small[k] += p * max(in_small - p, _F(0))


@njit(fastmath=FAST, cache=True)
def _flush_small(few, mass, tails):
    _flush(few[0], mass)
    _flush(few[1], tails[1])
    _flush(few[2], tails[2])


@njit(nogil=True, fastmath=FAST, cache=True)
def _coupling(first_part, end_part, scores, exponents, factors, sharpness, all_masses, all_tails, pairs):
    num_rows, num_clusters = len(scores), len(exponents)
    per_part = -(-num_rows // len(pairs))
    for part in range(first_part, end_part):
        entries, few = np.empty((1, num_clusters), np.float32), np.zeros((3, num_clusters), np.float32)
        row, flags = entries[0], np.zeros((num_clusters + 7) // 8 * 8, np.uint8)
        words = flags.view(np.uint64)
        clusters, values = np.empty(num_clusters, np.int64), np.empty(num_clusters, np.float32)
        mass, tails, mine = all_masses[part], all_tails[part], pairs[part]
        mine[:] = 0.0
        first, end = part * per_part, min(num_rows, (part + 1) * per_part)
        for n in range(first, end):
            weight = _plan_row(scores, n, exponents, factors, sharpness, entries, 0)
            num_large, in_large = _take_large(row, weight, flags, words, clusters, values, num_clusters, mass, tails)
            _add_small(row, weight, in_large, few)
            for i in range(num_large):
                p = np.float64(values[i])
                for j in range(i + 1, num_large):
                    mine[clusters[i], clusters[j]] += p * np.float64(values[j])
            if (n - first) % _FLUSH == _FLUSH - 1:
                _flush_small(few, mass, tails)
        _flush_small(few, mass, tails)


@njit(nogil=True, cache=True)
def symmetric_sum(first_row, end_row, pairs):
    """Add the upper triangles of all parts into both of the first."""
    for i in range(first_row, end_row):
        for j in range(i + 1, pairs.shape[1]):
            total = 0.0
            for part in range(len(pairs)):
                total += pairs[part, i, j]
            pairs[0, i, j] = pairs[0, j, i] = total


def coupling(
    scores: np.ndarray, potentials: np.ndarray, sharpness: float, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the rows for the Hessian: masses (K,), tails (3, K), and the coupling in pairs[0], of (PARTS, K, K).

    pairs[0, i, j] is the sum of ``p_i * p_j`` where both entries of a row are large.  Of the coupling of the other
    entries the tails are the row sums: of large entries with small ones, of small with large, of small with small.
    """
    exponents, factors, scale = _in_powers_of_two(potentials, sharpness)
    all_masses, tails = np.zeros((PARTS, len(potentials))), np.zeros((PARTS, 3, len(potentials)))
    pairs = pairs[: num_parts(len(scores), _ROWS_PER_PART)]
    in_threads(_coupling, len(pairs), scores, exponents, factors, scale, all_masses, tails, pairs)
    symmetric_sum(0, pairs.shape[1], pairs)
    return all_masses.sum(0) * factors, tails.sum(0)


@njit(nogil=True, fastmath=FAST, cache=True)
def _large_entries(
    first_chunk, end_chunk, scores, exponents, factors, sharpness, all_masses, all_tails, clusters, values, counts
):
    num_rows, num_clusters = len(scores), len(exponents)
    for chunk in range(first_chunk, end_chunk):
        entries, few = np.empty((1, num_clusters), np.float32), np.zeros((3, num_clusters), np.float32)
        row, flags = entries[0], np.zeros((num_clusters + 7) // 8 * 8, np.uint8)
        words = flags.view(np.uint64)
        mass, tails = all_masses[chunk], all_tails[chunk]
        first, end = chunk * _CHUNK, min(num_rows, (chunk + 1) * _CHUNK)
        for n in range(first, end):
            weight = _plan_row(scores, n, exponents, factors, sharpness, entries, 0)
            counts[n], in_large = _take_large(
                row, weight, flags, words, clusters[n], values[n], MOST_LARGE, mass, tails
            )
            _add_small(row, weight, in_large, few)
            if (n - first) % _FLUSH == _FLUSH - 1:
                _flush_small(few, mass, tails)
        _flush_small(few, mass, tails)


def large_entries(
    scores: np.ndarray, potentials: np.ndarray, sharpness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Masses (K,) and tails (3, K) as in `coupling`, and the entries above the threshold, at most MOST_LARGE of a row.

    Returns masses, tails, and of the entries the row starts (N + 1,), clusters and values, as in a CSR matrix.
    """
    exponents, factors, scale = _in_powers_of_two(potentials, sharpness)
    num_rows, num_clusters = len(scores), len(potentials)
    num_chunks = _num_chunks(scores)
    all_masses, tails = np.zeros((num_chunks, num_clusters)), np.zeros((num_chunks, 3, num_clusters))
    clusters = np.empty((num_rows, MOST_LARGE), np.int32)
    values = np.empty((num_rows, MOST_LARGE), np.float32)
    counts = np.zeros(num_rows, np.int64)
    in_threads(
        _large_entries, num_chunks, scores, exponents, factors, scale, all_masses, tails, clusters, values, counts
    )
    kept = np.arange(MOST_LARGE) < counts[:, None]
    starts = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    return (
        all_masses.sum(0) * factors,
        tails.sum(0),
        starts,
        clusters[kept].astype(np.int64),
        values[kept].astype(np.float64),
    )


@njit(nogil=True, fastmath=FAST, cache=True)
def _entries_product(first_part, end_part, starts, clusters, values, vector, sums):
    num_rows = len(starts) - 1
    per_part = -(-num_rows // len(sums))
    for part in range(first_part, end_part):
        mine = sums[part]
        for n in range(part * per_part, min(num_rows, (part + 1) * per_part)):
            along = 0.0
            for i in range(starts[n], starts[n + 1]):
                along += values[i] * vector[clusters[i]]
            for i in range(starts[n], starts[n + 1]):
                mine[clusters[i]] += values[i] * along


def entries_product(starts: np.ndarray, clusters: np.ndarray, values: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``Q^T Q v`` (K,) of the entries Q that `large_entries` returns and a vector (K,)."""
    sums = np.zeros((num_parts(len(starts) - 1, _ROWS_PER_PART), len(vector)))
    in_threads(_entries_product, len(sums), starts, clusters, values, vector, sums)
    return sums.sum(0)


@njit(nogil=True, cache=True)
def _survey(first_chunk, end_chunk, scores, forbidden, sharpness, never, scalars, vectors):
    num_rows, num_clusters = len(scores), len(forbidden)
    for chunk in range(first_chunk, end_chunk):
        row = np.empty(num_clusters, np.float32)
        counts, sums = np.zeros(num_clusters), np.zeros(num_clusters)
        bad, complete, squares, furthest = 0, 0, 0.0, _F(0)
        near = _F(never / sharpness)
        for n in range(chunk * _CHUNK, min(num_rows, (chunk + 1) * _CHUNK)):
            if _is_bad(scores[n], forbidden, row):
                bad += 1
                continue
            largest, smallest, mean = _range(row)
            if not np.isfinite(largest):
                bad += 1
                continue
            if smallest > largest - near:
                complete += 1
            else:
                mean = _keep_allowed(row, largest - near, counts)
            squares += _measure(row, mean, sums)
            furthest = max(furthest, abs(largest), abs(mean))
        scalars[chunk, 0], scalars[chunk, 1], scalars[chunk, 2] = bad, squares, furthest
        vectors[chunk, 0], vectors[chunk, 1] = counts + complete, sums


def survey(scores: np.ndarray, forbidden: np.ndarray, sharpness: float, never: float) -> tuple[np.ndarray, np.ndarray]:
    """Check and measure all rows, by chunks: (number of bad rows, squares, furthest) and (counts, sums) (K,).

    `forbidden` is 0, or -inf where a cluster gets nothing; an entry `never` nats below the best of its row does not
    count.  Bad rows have NaN, +inf or no allowed cluster.  Squares, furthest and sums are not sharpened.
    """
    scalars = np.zeros((_num_chunks(scores), 3))
    vectors = np.zeros((len(scalars), 2, len(forbidden)))
    in_threads(_survey, len(scalars), scores, forbidden, float(sharpness), float(never), scalars, vectors)
    return scalars, vectors


@njit(cache=True)
def _is_bad(scores, forbidden, row):
    """Copy a row; whether it holds NaN or +inf, seen in the bits, since comparisons of floats do not vectorise."""
    num_bad = np.int32(0)
    infinity = np.int32(0x7F800000)
    for k in range(len(row)):
        row[k] = scores[k] + forbidden[k]
        bits = as_bits(scores[k])
        num_bad += np.int32((bits & np.int32(0x7FFFFFFF)) > infinity) | np.int32(bits == infinity)
    return num_bad > 0


@njit(fastmath=FAST, cache=True)
def _range(row):
    largest, negative_smallest, total = _F(-np.inf), _F(-np.inf), _F(0)
    for k in range(len(row)):
        largest = larger(largest, row[k])
        negative_smallest = larger(negative_smallest, -row[k])
        total += row[k]
    return largest, -negative_smallest, total / _F(len(row))


@njit(cache=True)
def _keep_allowed(row, lowest, counts):
    """Count the allowed clusters and put the others at the mean, which is returned."""
    count, total = 0, 0.0
    for k in range(len(row)):
        if row[k] > lowest:
            counts[k] += 1.0
            count += 1
            total += row[k]
    mean = _F(total / count)
    for k in range(len(row)):
        if not row[k] > lowest:
            row[k] = mean
    return mean


@njit(fastmath=FAST, cache=True)
def _measure(row, mean, sums):
    squares = _F(0)
    for k in range(len(row)):
        value = row[k] - mean
        sums[k] += np.float64(value)
        squares += value * value
    return np.float64(squares)


@njit(nogil=True, fastmath=FAST, cache=True)
def _labels(first_chunk, end_chunk, scores, exponents, potentials, scale, sharpness, out):
    num_rows, num_clusters = len(scores), len(exponents)
    for chunk in range(first_chunk, end_chunk):
        for n in range(chunk * _CHUNK, min(num_rows, (chunk + 1) * _CHUNK)):
            reference = _reference(scores, n, exponents, scale)
            # float32 narrows the choice down, float64 decides.
            bar = _F(-1e-3) - _F(1e-6) * abs(scale * reference)
            num_candidates, candidates = 0, 0
            for k in range(num_clusters):
                near = scale * (scores[n, k] - reference) + exponents[k] > bar
                num_candidates += 1 if near else 0
                candidates += k if near else 0
            if num_candidates == 1:
                out[n] = candidates
                continue
            best, label = -np.inf, 0
            for k in range(num_clusters):
                if scale * (scores[n, k] - reference) + exponents[k] > bar:
                    entry = sharpness * np.float64(scores[n, k]) + potentials[k]
                    if entry > best:
                        best, label = entry, k
            out[n] = label


def labels(scores: np.ndarray, potentials: np.ndarray, sharpness: float, out: np.ndarray) -> None:
    """The cluster of the largest entry of each row, to float64 accuracy (the first of equal ones)."""
    exponents, _, scale = _in_powers_of_two(potentials, sharpness)
    in_threads(_labels, _num_chunks(scores), scores, exponents, potentials, scale, float(sharpness), out)


@njit(nogil=True, fastmath=FAST, cache=True)
def _statistics(first_chunk, end_chunk, scores, exponents, factors, sharpness, out):
    num_rows, num_clusters = len(scores), len(exponents)
    for chunk in range(first_chunk, end_chunk):
        entries = np.empty((1, num_clusters), np.float32)
        row = entries[0]
        end = min(num_rows, (chunk + 1) * _CHUNK)
        for n in range(chunk * _CHUNK, end):
            weight = _plan_row(scores, n, exponents, factors, sharpness, entries, 0)
            reference = _reference(scores, n, exponents, sharpness)
            largest, mean = _F(0), _F(0)
            for k in range(num_clusters):
                p = row[k] * factors[k] * weight
                mean += p * max(sharpness * (scores[n, k] - reference) + exponents[k], _FLOOR)
                row[k] = p
                largest = larger(largest, p)
            second, num_largest = _F(0), 0
            for k in range(num_clusters):
                is_largest = row[k] == largest
                num_largest += 1 if is_largest else 0
                second = larger(second, _F(0) if is_largest else row[k])
            out[0, n], out[1, n] = largest, _F(0) if num_largest > 1 else largest - second
            out[2, n] = -np.log(weight) - mean * _LN_2


def statistics(scores: np.ndarray, potentials: np.ndarray, sharpness: float, out: np.ndarray) -> None:
    """Confidence, margin and entropy (nats) of each row of the plan into out (3, N)."""
    exponents, factors, scale = _in_powers_of_two(potentials, sharpness)
    in_threads(_statistics, _num_chunks(scores), scores, exponents, factors, scale, out)


_TILE = 64  # columns of each table that are compared while their clips are in the cache
_TILE_CLIPS = 512


@njit(fastmath=FAST, cache=True)
def _four_distances(column, a, b, c, d):
    """L1 distances of one column to four, over a few clips; each load of the one serves all four."""
    to_a, to_b, to_c, to_d = _F(0), _F(0), _F(0), _F(0)
    for n in range(len(column)):
        value = column[n]
        to_a += abs(value - a[n])
        to_b += abs(value - b[n])
        to_c += abs(value - c[n])
        to_d += abs(value - d[n])
    return to_a, to_b, to_c, to_d


@njit(nogil=True, cache=True)
def _column_distances(first_tile, end_tile, first, second, cost):
    num_first, num_clips = first.shape
    for tile in range(first_tile, end_tile):
        rows = range(tile * _TILE, min(num_first, (tile + 1) * _TILE))
        for begin in range(0, num_clips, _TILE_CLIPS):
            clips = slice(begin, min(num_clips, begin + _TILE_CLIPS))
            for begin_j in range(0, len(second), _TILE):
                end_j = min(len(second), begin_j + _TILE)
                for j in range(begin_j, end_j, 4):
                    others = (j, min(j + 1, end_j - 1), min(j + 2, end_j - 1), min(j + 3, end_j - 1))
                    a, b, c, d = (
                        second[others[0], clips],
                        second[others[1], clips],
                        second[others[2], clips],
                        second[others[3], clips],
                    )
                    for i in rows:
                        distances = _four_distances(first[i, clips], a, b, c, d)
                        for which in range(min(4, end_j - j)):
                            cost[i, others[which]] += np.float64(distances[which])


def column_distances(first: np.ndarray, second: np.ndarray, cost: np.ndarray) -> None:
    """Add the L1 distances between the rows of two float32 tables (K, n) to cost, (K, K) float64."""
    in_threads(_column_distances, -(-len(first) // _TILE), first, second, cost)
