"""What `candidate_reads` does in torch, compiled by Numba for the CPU: candidates are taken, and read, a row at a time.

Axes: N clips, K clusters, C candidates of a clip, in the order of their numbers.  All is float64: of few entries a
row that costs little.  Rows are cut into parts by their number alone, which are added in order, so that the same
table gives the same bits whatever the number of threads.

Numba keeps compiled code until this file changes: after a change of what it takes from other files, touch it.
"""

# The types of compiled functions are Numba's.
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import math

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from selavi.labelling.solver.candidate_reads import FLOOR, Model, RowSums, Taken
from selavi.labelling.solver.gaps import FIRST_BITS, GAP_BINS, SHIFT
from selavi.labelling.solver.kernels import FAST, as_bits, in_threads, larger, num_parts, symmetric_sum
from selavi.labelling.solver.tables import LARGE, MAX_DENSE_CLUSTERS, Table

_LOG2_E = math.log2(math.e)
_FLOOR = FLOOR * _LOG2_E
# Rows of a part, where there are many: a row takes a few microseconds to take, and a fifth of one to read.
_ROWS_TAKEN, _ROWS_READ = 64, 1 << 14

_ROUND = 1.5 * 2.0**52  # adding it rounds to an integer, held in the low bits
# 2 ** x for |x| <= 1/2 within a relative 1e-15 and its rounding.
_TERMS = tuple(
    np.polynomial.Chebyshev.interpolate(np.exp2, 10, domain=[-0.5, 0.5]).convert(kind=np.polynomial.Polynomial).coef
)


@intrinsic
def _as_float(typing, bits):
    return types.float64(types.int64), lambda _, builder, __, args: builder.bitcast(args[0], ir.DoubleType())


@intrinsic
def _as_integer(typing, number):
    return types.int64(types.float64), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(64))


@njit(fastmath={"contract"}, cache=True)
def exp2(x):
    """2 ** x for -1022 <= x <= 1023, within 2e-15 of it, in operations that vectorise; no reordering in here."""
    rounded = x + _ROUND
    rest = x - (rounded - _ROUND)
    series = _TERMS[10]
    series = series * rest + _TERMS[9]
    series = series * rest + _TERMS[8]
    series = series * rest + _TERMS[7]
    series = series * rest + _TERMS[6]
    series = series * rest + _TERMS[5]
    series = series * rest + _TERMS[4]
    series = series * rest + _TERMS[3]
    series = series * rest + _TERMS[2]
    series = series * rest + _TERMS[1]
    series = series * rest + _TERMS[0]
    return _as_float(_as_integer(series) + (_as_integer(rounded) << 52))


@njit(fastmath=FAST, cache=True)
def _scale(block, n, exponents, sharpness, scaled, maxima):
    """Scaled scores of a row (powers of 2), and the maxima of as many groups of them as there are candidates."""
    for k in range(len(scaled)):
        scaled[k] = sharpness * np.float64(block[n, k]) + exponents[k]
    size = len(scaled) // len(maxima)
    for i in range(len(maxima)):
        group = scaled[i * size : (i + 1) * size if i + 1 < len(maxima) else len(scaled)]
        largest = -np.inf
        for k in range(len(group)):
            largest = larger(largest, group[k])
        maxima[i] = largest


@njit(cache=True)
def _kth_largest(values, num, k):
    """The k-th largest of the first `num` values, which are reordered (Hoare's selection)."""
    first, last, place = 0, num - 1, num - k
    while first < last:
        pivot = values[(first + last) // 2]
        i, j = first, last
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            last = j
        elif place >= i:
            first = i
        else:
            break
    return values[place]


@njit(cache=True)
def _choose(scaled, bar, flags, words, near, near_values, chosen):
    """The numbers of the largest of a row, in order, and of equal ones the first; none of them is below the bar.

    Without branches on the values, which no processor foresees; what is not chosen is overwritten by the next, so that
    `near` and `chosen` have a place more.
    """
    for k in range(len(scaled)):
        flags[k] = scaled[k] >= bar
    num_near, num_chosen = 0, len(chosen) - 1
    for word in range(len(words)):  # eight at a time
        if words[word] == 0:
            continue
        for k in range(8 * word, min(8 * word + 8, len(scaled))):
            near[num_near], near_values[num_near] = k, scaled[k]
            num_near += flags[k]
    smallest = _kth_largest(near_values, num_near, num_chosen)
    num_equal = num_chosen
    for i in range(num_near):
        num_equal -= scaled[near[i]] > smallest
    place = 0
    for i in range(num_near):
        value = scaled[near[i]]
        is_equal = value == smallest
        chosen[place] = near[i]
        place += (value > smallest) | (is_equal & (num_equal > 0))
        num_equal -= is_equal


@njit(fastmath=FAST, cache=True)
def _entries(scaled, best):
    """Entries of a row, in its place."""
    for k in range(len(scaled)):
        scaled[k] = exp2(larger(scaled[k] - best, _FLOOR))


@njit(fastmath=FAST, cache=True)
def _sum(entries):
    total = 0.0
    for k in range(len(entries)):
        total += entries[k]
    return total


@njit(fastmath=FAST, cache=True)
def _add(entries, weight, sums):
    for k in range(len(entries)):
        sums[k] += weight * entries[k]


@njit(nogil=True, cache=True)
def _take(first_part, end_part, block, exponents, sharpness, scores, clusters, log_outside, sums):
    num_rows, num_clusters, num_candidates = len(block), len(exponents), clusters.shape[1]
    per_part = -(-num_rows // len(sums))
    scaled, maxima = np.empty(num_clusters), np.empty(num_candidates)
    flags = np.zeros((num_clusters + 7) // 8 * 8, np.uint8)
    words = flags.view(np.uint64)
    near, near_values = np.empty(num_clusters + 1, np.int64), np.empty(num_clusters + 1)
    chosen = np.empty(num_candidates + 1, np.int64)
    for part in range(first_part, end_part):
        mine, outside = sums[part, 0], sums[part, 1]
        for n in range(part * per_part, min(num_rows, (part + 1) * per_part)):
            _scale(block, n, exponents, sharpness, scaled, maxima)
            best = maxima.max()
            _choose(scaled, maxima.min(), flags, words, near, near_values, chosen)
            _entries(scaled, best)
            in_candidates = 0.0
            for c in range(num_candidates):
                k = chosen[c]
                clusters[n, c], scores[n, c] = k, block[n, k]
                in_candidates += scaled[k]
                maxima[c] = scaled[k]
                scaled[k] = 0.0
            in_others = _sum(scaled)
            weight = 1 / (in_others + in_candidates)
            for c in range(num_candidates):
                mine[chosen[c]] += weight * maxima[c]
            _add(scaled, weight, outside)
            log_outside[n] = (math.log2(in_others) + best) / _LOG2_E


def take(table: Table, potentials: Tensor, sharpness: float, num_candidates: int) -> Taken:
    """As in `candidate_reads`."""
    shape = (table.num_rows, num_candidates)
    scores, clusters = torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.int64)
    log_outside = torch.empty(table.num_rows, dtype=torch.float64)
    total = np.zeros((2, table.num_clusters))
    exponents = potentials.numpy() * _LOG2_E
    for rows, block in table.blocks():
        block = (block if block.dtype == torch.float64 else block.float()).contiguous()
        sums = np.zeros((num_parts(len(block), _ROWS_TAKEN), *total.shape))
        out = scores[rows].numpy(), clusters[rows].numpy(), log_outside[rows].numpy()
        in_threads(_take, len(sums), block.numpy(), exponents, sharpness * _LOG2_E, *out, sums)
        total += sums.sum(0)
    masses, outside = torch.from_numpy(total)
    return Taken(scores, clusters, log_outside, masses + outside, outside)


@njit(fastmath=FAST, cache=True)
def _plan_row(log_extra, clusters, n, potentials, log_others, logarithms, entries):
    """The plan's row before its weight, and the logarithms beside: the largest of these, the others, the weight."""
    num_candidates = len(entries)
    best = log_others
    for c in range(num_candidates):
        logarithms[c] = log_extra[n, c] + potentials[clusters[n, c]]
        best = larger(best, logarithms[c])
    others = exp2(larger((log_others - best) * _LOG2_E, _FLOOR))
    total = others
    for c in range(num_candidates):
        entries[c] = exp2(larger((logarithms[c] - best) * _LOG2_E, _FLOOR))
        total += entries[c]
    return best, others, 1 / total


@njit(nogil=True, cache=True)
def _masses(first_part, end_part, log_extra, clusters, log_others, potentials, sums):
    num_rows, num_candidates = log_extra.shape
    num_clusters = len(potentials)
    per_part = -(-num_rows // len(sums))
    logarithms, entries = np.empty(num_candidates), np.empty(num_candidates)
    for part in range(first_part, end_part):
        mine = sums[part]
        for n in range(part * per_part, min(num_rows, (part + 1) * per_part)):
            _, others, weight = _plan_row(log_extra, clusters, n, potentials, log_others[n], logarithms, entries)
            for c in range(num_candidates):
                mine[clusters[n, c]] += entries[c] * weight
            mine[num_clusters] += others * weight


def masses(model: Model) -> tuple[Tensor, Tensor]:
    """As in `candidate_reads`."""
    arrays = _arrays(model)
    sums = np.zeros((num_parts(len(model.clusters), _ROWS_READ), len(model.potentials) + 1))
    in_threads(_masses, len(sums), *arrays, sums)
    total = torch.from_numpy(sums.sum(0))
    return total[:-1], total[-1]


@njit(cache=True)
def _gap_bin(gap):
    """As `gap_bins`."""
    place = (as_bits(np.float32(gap)) >> np.int32(SHIFT)) - np.int32(FIRST_BITS - 1)
    return min(max(place, 0), GAP_BINS - 1)


@njit(cache=True)
def _count_gaps(logarithms, log_sum, log_others, clusters, n, bins, row_counts, counts):
    """Count the gaps of a row; of those that come over, as what they are more than the others."""
    row_bin = _gap_bin(log_sum - log_others)
    row_counts[row_bin] += 1
    best, second, cluster = -np.inf, log_others, 0
    for c in range(len(logarithms)):
        k, logarithm = clusters[n, c], logarithms[c]
        as_others, nearer = bins[k, row_bin], _gap_bin(log_sum - logarithm)
        if nearer < as_others:
            counts[0, k, nearer] += 1
            counts[0, k, as_others] -= 1
        if logarithm > best:
            best, second, cluster = logarithm, max(best, second), k
        else:
            second = max(second, logarithm)
    lead = _gap_bin(best - second)
    if lead > 0:
        counts[1, cluster, lead] += 1


@njit(nogil=True, cache=True)
def _curvature(
    first_part,
    end_part,
    log_extra,
    clusters,
    log_others,
    potentials,
    shares,
    bins,
    large,
    all_sums,
    all_others,
    all_row_counts,
    all_counts,
    pairs,
):
    num_rows, num_candidates = log_extra.shape
    per_part = -(-num_rows // len(all_sums))
    logarithms, entries = np.empty(num_candidates), np.empty(num_candidates)
    places = np.empty(num_candidates, np.int64)
    for part in range(first_part, end_part):
        sums, sums_others, mine = all_sums[part], all_others[part], pairs[part]
        row_counts, counts = all_row_counts[part], all_counts[part]
        for n in range(part * per_part, min(num_rows, (part + 1) * per_part)):
            best, others, weight = _plan_row(log_extra, clusters, n, potentials, log_others[n], logarithms, entries)
            others *= weight
            in_large, num_large = 0.0, 0
            for c in range(num_candidates):
                entries[c] *= weight
                p = entries[c] + others * shares[clusters[n, c]]
                large[n, c] = 0.0
                if p > LARGE:
                    large[n, c] = p
                    in_large += p
                    places[num_large] = c
                    num_large += 1
            in_small = max(1 - in_large, 0.0)
            for c in range(num_candidates):
                of_cluster, p = sums[clusters[n, c]], large[n, c]
                rest = entries[c] - p
                of_cluster[0] += entries[c]
                of_cluster[1] += p * in_small
                of_cluster[2] += rest * in_large
                of_cluster[3] += rest * in_small
            sums_others[0] += others
            sums_others[1] += others * in_large
            sums_others[2] += others * in_small
            # Above the diagonal, since candidates are in order.
            for i in range(num_large if len(mine) else 0):
                of_cluster, p = mine[clusters[n, places[i]]], large[n, places[i]]
                for j in range(i + 1, num_large):
                    of_cluster[clusters[n, places[j]]] += p * large[n, places[j]]
            _count_gaps(logarithms, best - math.log(weight), log_others[n], clusters, n, bins, row_counts, counts)


def curvature(model: Model, bins: Tensor) -> RowSums:
    """As in `candidate_reads`."""
    arrays = _arrays(model)
    num_clusters, parts = len(model.potentials), num_parts(len(model.clusters), _ROWS_READ)
    dense = num_clusters if num_clusters <= MAX_DENSE_CLUSTERS else 0
    large = torch.empty(model.clusters.shape, dtype=torch.float64)
    sums, others = np.zeros((parts, num_clusters, 4)), np.zeros((parts, 3))
    row_counts = np.zeros((parts, GAP_BINS), np.int32)
    counts = np.zeros((parts, 2, num_clusters, GAP_BINS), np.int32)
    pairs = np.zeros((parts, dense, dense))
    rows = *arrays, model.shares.numpy(), bins.numpy(), large.numpy()
    in_threads(_curvature, parts, *rows, sums, others, row_counts, counts, pairs)
    symmetric_sum(0, dense, pairs)
    total = torch.from_numpy(sums.sum(0).T.copy())
    return RowSums(
        masses=total[0],
        tails=total[1:],
        others=torch.from_numpy(others.sum(0)),
        large=large,
        pairs=torch.from_numpy(pairs[0]),
        row_counts=torch.from_numpy(row_counts.sum(0, dtype=np.float64)),
        counts=torch.from_numpy(counts.sum(0, dtype=np.float64)),
    )


def _arrays(model: Model) -> tuple[np.ndarray, ...]:
    rows = model.log_extra, model.clusters, model.log_others, model.potentials
    return tuple(tensor.numpy() for tensor in rows)
