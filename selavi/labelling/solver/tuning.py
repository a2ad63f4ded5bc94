"""Numbers that decide how fast the search for the potentials is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tuning:
    """Numbers that decide how fast the search is, not what it finds.

    Steps are measured by their range (max - min over the clusters, in nats), because the dual is near its quadratic
    model over a few nats of any potential.  The values had nearly the fewest passes in total over golden, random and
    N = K tables.
    """

    sample_rows: int = 8192
    """A problem is first solved on every n-th row: this many rows in all, or ..."""
    sample_rows_per_cluster: int = 16
    """... this many times K."""
    sample_growth: int = 4
    """Each sample has this many times the rows of the one before, as long as it is a small part of all."""
    sample_error: float = 0.1
    """Tolerance of a sample, in units of the noise that the choice of its rows makes in the masses."""

    mild_spread: float = 7.0
    """Spread of the scaled scores (nats) up to which there is no continuation."""
    very_mild_spread: float = 2.2
    """Spread up to which scaling is tried first, however many the rows, ..."""
    dense_clusters: int = 128
    """... with so few clusters that most entries of the plan are large, and a Hessian takes some ten reads' time."""
    tail: float = 60.0
    """With more spread it is tried first where rows are few, but not where a score lies so many nats beyond what
    log-probabilities without a tail have."""
    start_spread: float = 3.0
    """The spread at which the continuation begins, ..."""
    start_range: float = 30.0
    """... or earlier, where clips are few and the furthest score is this far from the mean of its row: a spread says
    nothing of tails."""
    sharpness_ratio: float = 2.5
    """From one stage of the continuation to the next."""
    advance_range: float = 8.0
    """Longest Newton step with which a stage may be left."""
    hard_spread: float = 40.0
    """Spread from which, with few rows a cluster, Newton converges over short ways only: ..."""
    warm_fraction: float = 0.7
    """... so that potentials of an earlier labelling begin at this fraction of the sharpness."""
    few_rows_per_cluster: int = 32
    """With fewer, and mild scores, a Hessian costs more than the passes that it saves."""

    max_step_range: float = 6.0
    """How far a cluster goes that nothing holds; a longer Newton step is cut to this, ..."""
    step_spreads: float = 0.5
    """... or to this many spreads of the scaled scores, where clips are many."""
    straight: float = 0.7
    """A slope that keeps this share of itself over a step is straight: the next step may be twice as long, ..."""
    least_step_range: float = 1.0
    """... and halves the way to where one overshot, down to this."""
    many_rows_per_cluster: int = 4
    """Rows a cluster from which clips are many."""
    chord_error: float = 3e-3
    """Marginal error below which the Hessian is kept, ..."""
    chord_largest: float = 0.1
    """... with no cluster whose own error is a larger share of it, ..."""
    chord_error_large: float = 1e-5
    """... and where it is not formed, so that it costs little more than the masses."""
    num_secants: int = 4
    """Last steps whose changes of the gradient correct the Hessian, ..."""
    secant_range: float = 0.5
    """... none of them as long as this (nats): over a long way the Hessian itself changes."""
    rounding_range: float = 1e-3
    """A step as short as this (nats) that does not halve the error ..."""
    rounding_error: float = 1e-5
    """... below this is at the end of what float32 resolves: the rows are read in float64 from there on."""
    max_backtracks: int = 20
    """Steps in a row that may be shortened."""
    max_singular: int = 20
    """Solves that may be repeated with more damping."""
    patience: int = 25
    """Passes of one stage without the error falling by 10 %."""

    warm_error: float = 0.5
    """Marginal error above which given potentials are worse than a cold start."""
    warm_passes: int = 8
    """Passes from given potentials after which a cold start is the better bet, ..."""
    warm_close: float = 0.03
    """... but with this error or less."""
    warm_patience: int = 5
    """Passes from given potentials without the error falling by 10 %: where clusters are far apart, the masses hardly
    answer to the potentials at the final sharpness, and only a continuation moves clips between them."""

    anderson_memory: int = 8
    """Earlier steps that are mixed."""
    anderson_range: float = 100.0
    """Longest mixed step (nats); a plain one takes the place of a longer one."""
    anderson_patience: int = 4
    """Passes without the error falling by half."""
    scaling_patience: int = 200
    """Scaling passes without the error falling by 1 %."""

    candidate_reads: int = 5
    """Reads after which, where clusters have a long way to go, each clip's likeliest clusters are taken, ..."""
    candidate_patience: int = 12
    """... or this many where the error at the final sharpness is below ..."""
    candidate_close: float = 0.02
    """... this."""
    num_candidates: int = 16
    """Clusters that are taken of each clip at first, ..."""
    first_share: float = 0.125
    """... or this share of the clusters where that is fewer; in the end at most ..."""
    last_share: float = 0.5
    """... this share, ..."""
    most_candidates: int = 1 << 20
    """... and as many of all clips of a process, which take some 120 MB."""
    fewest_candidates: int = 3
    """With fewer of a clip they are not worth while."""
    candidate_gain: float = 0.1
    """A round that leaves more of the error than this doubles their number for the next one."""
    candidate_ratio: float = 6.3
    """How much the sharpness rises in a round."""
    candidate_error: float = 1e-4
    """Error over the candidates with which a round is left that is not at the final sharpness."""
    candidate_rounds: int = 4
    """Rounds without the error falling by half."""


TUNING = Tuning()
