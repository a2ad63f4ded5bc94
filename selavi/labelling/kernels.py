"""Fused reads of a float32 score table on the CPU, compiled by Numba at first use.

Axes: N clips, K clusters.  Every kernel reads a row once from memory and works on it while it is in the cache.
Rows are cut into chunks of a fixed number, sums of a chunk are float64, and chunks are added in order, so that
the same table gives the same bits whatever the number of threads.

The entries are ``e = sharpness * (x - reference) + high + low`` where ``reference`` is close to the score of the
row's best cluster and ``high + low`` are the potentials: with the large numbers taken away first, float32 keeps the
digits of the entries that matter.  Only this module imports Numba.
"""

# The types of compiled functions are Numba's.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

if "NUMBA_CACHE_DIR" not in os.environ and not os.access(Path(__file__).parent, os.W_OK):
    # An installation that the user may not write to: compiled code goes to a folder of the user's own.
    os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"selavi-numba-{os.getuid()}")

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_F = np.float32
_FLOOR = _F(-87.0)  # exp() of less would be denormal: the floor keeps every mass positive
_CHUNK = 1024  # rows whose sums are added in one go
PARTS = 4  # K x K sums that are held at a time

# Entries of the plan above this are coupled one by one; of the others there are sums only.
LARGE = _F(0.01)
MOST_LARGE = 32  # kept of a row

# The compiler may reorder sums (it must, to use vectors) and knows that no NaN comes here; -inf may.
_FAST = {"reassoc", "contract", "arcp", "nnan", "nsz"}

_ROUND = _F(12582912.0)  # 1.5 * 2 ** 23: adding it rounds to an integer, held in the low bits
_LOG2_E = _F(1.44269504)
_LN_2_HIGH = _F(0.693145751953125)
_LN_2_LOW = _F(1.42860677e-6)
_TERMS = tuple(_F(1 / math.factorial(n)) for n in range(7))


def _in_threads(kernel: Callable[..., None], num_chunks: int, *arguments: object) -> None:
    """Run a kernel over ranges of chunks in as many threads as torch uses.

    Not by Numba's own threads: those share OpenMP's with torch, whose number they change.
    """
    num_threads = min(torch.get_num_threads(), num_chunks)
    if num_threads <= 1:
        kernel(0, num_chunks, *arguments)
        return
    # More tasks than threads, so that a thread that the machine holds up does not hold up all.
    bounds = np.linspace(0, num_chunks, min(num_chunks, 4 * num_threads) + 1).astype(int)
    with ThreadPoolExecutor(num_threads) as pool:
        for done in [pool.submit(kernel, *pair, *arguments) for pair in pairwise(bounds.tolist())]:
            done.result()


def _num_chunks(scores: np.ndarray) -> int:
    return -(-len(scores) // _CHUNK)


@intrinsic
def _as_float(typing, bits):
    return types.float32(types.int32), lambda _, builder, __, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def _as_bits(typing, number):
    return types.int32(types.float32), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def _larger(typing, left, right):
    """A maximum that LLVM recognises as a reduction: Python's max() is not vectorised."""

    def generate(_, builder, __, args):
        flags = ["nnan", "nsz"]
        return builder.select(builder.fcmp_ordered(">", *args, flags=flags), *args, flags=flags)

    return types.float32(types.float32, types.float32), generate


@njit(fastmath={"contract"}, cache=True)
def _exp(x):
    """exp(x) for -87 <= x <= 88, within 3e-7 of it, in operations that vectorise; no reordering in here."""
    rounded = x * _LOG2_E + _ROUND
    whole = rounded - _ROUND
    rest = x - whole * _LN_2_HIGH
    rest = rest - whole * _LN_2_LOW
    series = _TERMS[6]
    series = series * rest + _TERMS[5]
    series = series * rest + _TERMS[4]
    series = series * rest + _TERMS[3]
    series = series * rest + _TERMS[2]
    series = series * rest + _TERMS[1]
    series = series * rest + _TERMS[0]
    return _as_float(np.int32(_as_bits(series) + (_as_bits(rounded) << np.int32(23))))


@njit(fastmath=_FAST, cache=True)
def _reference(row, high, sharpness):
    """The score that the row's largest entry would have without a potential."""
    largest = _F(-np.inf)
    for k in range(len(row)):
        largest = _larger(largest, sharpness * row[k] + high[k])
    return largest * (_F(1) / sharpness)


@njit(fastmath=_FAST, cache=True)
def _two_rows(first, second, high, low, sharpness, out_first, out_second):
    """Unnormalised plan rows and their sums; two at a time hide the latency of the sums."""
    reference_first = _reference(first, high, sharpness)
    reference_second = _reference(second, high, sharpness)
    total_first, total_second = _F(0), _F(0)
    for k in range(len(high)):
        entry = _exp(max(sharpness * (first[k] - reference_first) + high[k] + low[k], _FLOOR))
        out_first[k] = entry
        total_first += entry
        entry = _exp(max(sharpness * (second[k] - reference_second) + high[k] + low[k], _FLOOR))
        out_second[k] = entry
        total_second += entry
    return total_first, total_second


@njit(nogil=True, fastmath=_FAST, cache=True)
def _masses(first_chunk, end_chunk, scores, high, low, sharpness, sums):
    num_rows, num_clusters = scores.shape
    for chunk in range(first_chunk, end_chunk):
        rows = np.empty((4, num_clusters), np.float32)
        weight = np.empty(4, np.float32)
        total = np.zeros(num_clusters)
        first, end = chunk * _CHUNK, min(num_rows, (chunk + 1) * _CHUNK)
        a, b, c, d = rows[0], rows[1], rows[2], rows[3]
        for n in range(first, end, 4):
            last = end - 1  # rows past the end repeat the last one, with weight 0
            sum_a, sum_b = _two_rows(scores[n], scores[min(n + 1, last)], high, low, sharpness, a, b)
            sum_c, sum_d = _two_rows(scores[min(n + 2, last)], scores[min(n + 3, last)], high, low, sharpness, c, d)
            weight[0] = _F(1) / sum_a
            weight[1] = _F(1) / sum_b if n + 1 < end else _F(0)
            weight[2] = _F(1) / sum_c if n + 2 < end else _F(0)
            weight[3] = _F(1) / sum_d if n + 3 < end else _F(0)
            w, x, y, z = weight[0], weight[1], weight[2], weight[3]
            for k in range(num_clusters):
                total[k] += np.float64(w * a[k] + x * b[k] + y * c[k] + z * d[k])
        sums[chunk] = total


def masses(scores: np.ndarray, high: np.ndarray, low: np.ndarray, sharpness: float) -> np.ndarray:
    """Sum of the plan's rows, (K,) float64."""
    sums = np.empty((_num_chunks(scores), scores.shape[1]))
    _in_threads(_masses, len(sums), scores, high, low, _F(sharpness), sums)
    return sums.sum(0)


@njit(fastmath=_FAST, cache=True)
def _normalise(plan, total, large, mass, tails, most):
    """Divide a row by its sum, add it to the mass and the tails; list its large entries, at most `most`."""
    weight = _F(1) / total
    for k in range(len(plan)):
        p = plan[k] * weight
        plan[k] = p
        mass[k] += np.float64(p)
    num_large = 0
    for k in range(len(plan)):
        large[num_large] = k
        num_large += plan[k] > LARGE
    num_large = min(num_large, most)
    in_large = _F(0)
    for i in range(num_large):
        in_large += plan[large[i]]
    in_small = max(_F(1) - in_large, _F(0))
    for k in range(len(plan)):
        p = plan[k]
        tails[1, k] += np.float64(p * in_large)
        tails[2, k] += np.float64(p * (in_small - p))
    for i in range(num_large):
        p = plan[large[i]]
        tails[0, large[i]] += np.float64(p * in_small)
        tails[1, large[i]] -= np.float64(p * in_large)
        tails[2, large[i]] -= np.float64(p * (in_small - p))
    return num_large


@njit(nogil=True, fastmath=_FAST, cache=True)
def _coupling(first_part, end_part, scores, high, low, sharpness, all_masses, tails, pairs):
    num_rows, num_clusters = scores.shape
    per_part = (num_rows + PARTS - 1) // PARTS
    for part in range(first_part, end_part):
        row, other = np.empty(num_clusters, np.float32), np.empty(num_clusters, np.float32)
        large = np.empty(num_clusters + 1, np.int32)
        mass, tail, mine = np.zeros(num_clusters), np.zeros((3, num_clusters)), pairs[part]
        mine[:] = 0.0
        end = min(num_rows, (part + 1) * per_part)
        for first in range(part * per_part, end, 2):
            sums = _two_rows(scores[first], scores[min(first + 1, end - 1)], high, low, sharpness, row, other)
            for which in range(2):
                if first + which == end:
                    break
                plan = row if which == 0 else other
                num_large = _normalise(plan, sums[which], large, mass, tail, num_clusters)
                for i in range(num_large):
                    p = np.float64(plan[large[i]])
                    for j in range(i + 1, num_large):
                        mine[large[i], large[j]] += p * np.float64(plan[large[j]])
        all_masses[part], tails[part] = mass, tail


@njit(nogil=True, cache=True)
def _symmetric_sum(first_row, end_row, pairs):
    """Add the upper triangles of all parts into both of the first."""
    for i in range(first_row, end_row):
        for j in range(i + 1, pairs.shape[1]):
            total = 0.0
            for part in range(len(pairs)):
                total += pairs[part, i, j]
            pairs[0, i, j] = pairs[0, j, i] = total


def coupling(
    scores: np.ndarray, high: np.ndarray, low: np.ndarray, sharpness: float, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the rows for the Hessian: masses (K,), tails (3, K), and the coupling in pairs[0], of (PARTS, K, K).

    pairs[0, i, j] is the sum of ``p_i * p_j`` where both entries of a row are large.  Of the coupling of the other
    entries the tails are the row sums: of large entries with small ones, of small with large, of small with small.
    """
    all_masses, tails = np.zeros((PARTS, scores.shape[1])), np.zeros((PARTS, 3, scores.shape[1]))
    _in_threads(_coupling, PARTS, scores, high, low, _F(sharpness), all_masses, tails, pairs)
    _symmetric_sum(0, pairs.shape[1], pairs)
    return all_masses.sum(0), tails.sum(0)


@njit(nogil=True, fastmath=_FAST, cache=True)
def _large_entries(first_chunk, end_chunk, scores, high, low, sharpness, all_masses, tails, clusters, entries, counts):
    num_rows, num_clusters = scores.shape
    most = clusters.shape[1]
    for chunk in range(first_chunk, end_chunk):
        row, other = np.empty(num_clusters, np.float32), np.empty(num_clusters, np.float32)
        large = np.empty(num_clusters + 1, np.int32)
        mass, tail = np.zeros(num_clusters), np.zeros((3, num_clusters))
        end = min(num_rows, (chunk + 1) * _CHUNK)
        for first in range(chunk * _CHUNK, end, 2):
            sums = _two_rows(scores[first], scores[min(first + 1, end - 1)], high, low, sharpness, row, other)
            for which in range(2):
                n = first + which
                if n == end:
                    break
                plan = row if which == 0 else other
                num_large = _normalise(plan, sums[which], large, mass, tail, most)
                for i in range(num_large):
                    clusters[n, i], entries[n, i] = large[i], plan[large[i]]
                counts[n] = num_large
        all_masses[chunk], tails[chunk] = mass, tail


def large_entries(
    scores: np.ndarray, high: np.ndarray, low: np.ndarray, sharpness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Masses (K,) and tails (3, K) as in `coupling`, and the entries above the threshold, at most MOST_LARGE of a row.

    Returns masses, tails, and of the entries the row starts (N + 1,), clusters and values, as in a CSR matrix.
    """
    num_rows, num_clusters = scores.shape
    num_chunks = _num_chunks(scores)
    all_masses, tails = np.zeros((num_chunks, num_clusters)), np.zeros((num_chunks, 3, num_clusters))
    clusters = np.empty((num_rows, MOST_LARGE), np.int32)
    entries = np.empty((num_rows, MOST_LARGE), np.float32)
    counts = np.zeros(num_rows, np.int64)
    _in_threads(
        _large_entries, len(tails), scores, high, low, _F(sharpness), all_masses, tails, clusters, entries, counts
    )
    kept = np.arange(MOST_LARGE) < counts[:, None]
    starts = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    return all_masses.sum(0), tails.sum(0), starts, clusters[kept].astype(np.int64), entries[kept].astype(np.float64)


@njit(nogil=True, cache=True)
def _survey(first_chunk, end_chunk, scores, forbidden, sharpness, never, scalars, vectors):
    num_rows, num_clusters = scores.shape
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
    vectors = np.zeros((len(scalars), 2, scores.shape[1]))
    _in_threads(_survey, len(scalars), scores, forbidden, float(sharpness), float(never), scalars, vectors)
    return scalars, vectors


@njit(cache=True)
def _is_bad(scores, forbidden, row):
    """Copy a row; whether it holds NaN or +inf, seen in the bits, since comparisons of floats do not vectorise."""
    num_bad = np.int32(0)
    infinity = np.int32(0x7F800000)
    for k in range(len(row)):
        row[k] = scores[k] + forbidden[k]
        bits = _as_bits(scores[k])
        num_bad += np.int32((bits & np.int32(0x7FFFFFFF)) > infinity) | np.int32(bits == infinity)
    return num_bad > 0


@njit(fastmath=_FAST, cache=True)
def _range(row):
    largest, negative_smallest, total = _F(-np.inf), _F(-np.inf), _F(0)
    for k in range(len(row)):
        largest = _larger(largest, row[k])
        negative_smallest = _larger(negative_smallest, -row[k])
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


@njit(fastmath=_FAST, cache=True)
def _measure(row, mean, sums):
    squares = _F(0)
    for k in range(len(row)):
        value = row[k] - mean
        sums[k] += np.float64(value)
        squares += value * value
    return np.float64(squares)


@njit(nogil=True, fastmath=_FAST, cache=True)
def _labels(first_chunk, end_chunk, scores, high, potentials, sharpness, exact_sharpness, out):
    num_rows, num_clusters = scores.shape
    for chunk in range(first_chunk, end_chunk):
        for n in range(chunk * _CHUNK, min(num_rows, (chunk + 1) * _CHUNK)):
            row = scores[n]
            reference = _reference(row, high, sharpness)
            # float32 narrows the choice down, float64 decides.
            bar = _F(-1e-3) - _F(1e-6) * abs(sharpness * reference)
            num_candidates, candidates = 0, 0
            for k in range(num_clusters):
                near = sharpness * (row[k] - reference) + high[k] > bar
                num_candidates += 1 if near else 0
                candidates += k if near else 0
            if num_candidates == 1:
                out[n] = candidates
                continue
            best, label = -np.inf, 0
            for k in range(num_clusters):
                if sharpness * (row[k] - reference) + high[k] > bar:
                    entry = exact_sharpness * np.float64(row[k]) + potentials[k]
                    if entry > best:
                        best, label = entry, k
            out[n] = label


def labels(scores: np.ndarray, high: np.ndarray, potentials: np.ndarray, sharpness: float, out: np.ndarray) -> None:
    """The cluster of the largest entry of each row, to float64 accuracy (the first of equal ones)."""
    _in_threads(_labels, _num_chunks(scores), scores, high, potentials, _F(sharpness), float(sharpness), out)


@njit(nogil=True, fastmath=_FAST, cache=True)
def _statistics(first_chunk, end_chunk, scores, high, low, sharpness, out):
    num_rows, num_clusters = scores.shape
    for chunk in range(first_chunk, end_chunk):
        row, other = np.empty(num_clusters, np.float32), np.empty(num_clusters, np.float32)
        for n in range(chunk * _CHUNK, min(num_rows, (chunk + 1) * _CHUNK)):
            total, _ = _two_rows(scores[n], scores[n], high, low, sharpness, row, other)
            reference = _reference(scores[n], high, sharpness)
            mean = _F(0)
            largest, second = _F(0), _F(0)
            for k in range(num_clusters):
                p = row[k] / total
                logit = max(sharpness * (scores[n, k] - reference) + high[k] + low[k], _FLOOR)
                mean += p * logit
                if p > largest:
                    largest, second = p, largest
                elif p > second:
                    second = p
            out[0, n], out[1, n], out[2, n] = largest, largest - second, np.log(total) - mean


def statistics(scores: np.ndarray, high: np.ndarray, low: np.ndarray, sharpness: float, out: np.ndarray) -> None:
    """Confidence, margin and entropy (nats) of each row of the plan into out (3, N)."""
    _in_threads(_statistics, _num_chunks(scores), scores, high, low, _F(sharpness), out)
