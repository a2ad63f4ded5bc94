"""How the scores of a head are kept within a memory budget, in numbers and in words."""

from selavi.labelling.solver.tables import MAX_SAMPLE_BYTES
from selavi.wording import byte_size

BLOCK_ROWS = 8192
"""Clips whose scores are computed together."""
WORTH_SAYING = 100_000_000
"""Bytes below which nobody's memory runs out by a table."""

# Bytes of a score that is kept in so many bits, with the samples of rows that the solver may keep.
_BYTES_PER_SCORE = {32: 5.2, 16: 3.2}


def bits_per_score(num_rows: int, num_clusters: int, memory_gb: float) -> int:
    """Bits of a score as it is kept, so that all scores fit the budget; 0: none is kept."""
    for bits, num_bytes in _BYTES_PER_SCORE.items():
        if num_rows * num_clusters * num_bytes <= memory_gb * 1e9:
            return bits
    return 0


def score_bytes(num_rows: int, num_clusters: int, num_voters: int, memory_gb: float) -> float:
    """Most bytes that the scores of a head take beside the clips' features."""
    num_scores = num_rows * num_clusters
    bits = bits_per_score(num_rows, num_clusters, memory_gb)
    # A block of rows: logits and probabilities of each voter, and temporary copies.
    block_bytes = min(num_rows, BLOCK_ROWS) * num_clusters * 4 * (3 * num_voters + 2)
    sample_bytes = min(2 * MAX_SAMPLE_BYTES, num_scores * 2)  # one and the next
    return block_bytes + (num_scores * _BYTES_PER_SCORE[bits] if bits else sample_bytes)


def describe_scores(num_rows: int, num_clusters: int, num_voters: int, memory_gb: float) -> str:
    """What the scores of a head will hold beside the clips' features; empty where that is little."""
    num_scores = num_rows * num_clusters
    bits = bits_per_score(num_rows, num_clusters, memory_gb)
    peak = score_bytes(num_rows, num_clusters, num_voters, memory_gb)
    if not bits:
        return (
            f"a table of {byte_size(num_scores * 4)} is over labelling.memory_gb={memory_gb:g}: scores are "
            f"computed anew for each pass, at most {byte_size(peak)} beside the features"
        )
    if num_scores * bits / 8 < WORTH_SAYING:
        return ""
    return (
        f"labelling holds a float{bits} table of {byte_size(num_scores * bits / 8)}, at most {byte_size(peak)} "
        "beside the features"
    )
