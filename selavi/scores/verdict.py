"""What a finished training came to, in words: have the labels settled, from which figures, what to change if not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SETTLED, NEARLY = 0.01, 0.10
"""Most churn of the last labelling at which labels are settled, and nearly so."""
UNLEARNED = 0.85
"""Share of ln K above which the loss is close to that of a network that says nothing."""
FAST = 0.60
"""Churn above which labels change faster than a network can learn them."""
CLIPS_A_CLUSTER = 24
"""Fewer are too few to learn a cluster from."""
USED = 0.9
"""Share of the clusters that should hold a clip at the end."""


@dataclass(frozen=True)
class Verdict:
    """Whether the labels have settled, and why that is known."""

    state: Literal["settled", "nearly settled", "not settled", "unknown"]
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences as one line."""
        return " ".join(self.sentences)


def judge_training(
    churn: Sequence[float], loss: float, *, num_clusters: int, used_clusters: float, num_clips: int, max_epochs: int
) -> Verdict:
    """Judge a training by its last labellings, as docs/troubleshooting.md explains.

    Args:
        churn: share of labels that each labelling changed, in order, each in [0, 1]; NaN where it is not known.
        loss: mean of the last steps, in nats; NaN where it is not known.
        num_clusters: K.
        used_clusters: mean over the heads of the clusters that hold a clip at the end.
        num_clips: N, of the training.
        max_epochs: that it was trained for.
    """
    known_churn = [share for share in churn if not math.isnan(share)]
    unlearned = loss > UNLEARNED * math.log(num_clusters)  # never where it is nan
    if not known_churn:
        state: Literal["settled", "nearly settled", "not settled", "unknown"] = "unknown"
        sentences = ["Whether the labels are settled cannot be told: they were made once (labelling.num_labellings)."]
    else:
        state, sentences = _settled(known_churn[-1])
    if unlearned:
        sentences.append(
            f"The loss is {loss:.2f}, and a network that says nothing has ln {num_clusters} = "
            f"{math.log(num_clusters):.2f}: little was learned."
        )
    too_few = num_clips < CLIPS_A_CLUSTER * num_clusters
    if too_few:
        clips_a_cluster = num_clips / num_clusters
        sentences.append(
            f"{num_clips} clips are {clips_a_cluster:.2g} for each of {num_clusters} clusters, and a "
            "cluster needs a few dozen to be learned."
        )
    if used_clusters < USED * num_clusters:
        sentences.append(f"Only {used_clusters:.1f} of {num_clusters} clusters hold a clip (mean over the heads).")
    changes = _changes(state, known_churn, unlearned, max_epochs)
    if too_few:
        fewer = max(2, num_clips // CLIPS_A_CLUSTER)
        changes.append(f"fewer clusters (heads.num_clusters={fewer}) or more clips" if fewer > 2 else "more clips")
    if used_clusters < USED * num_clusters:
        changes.append("a lower optim.lr, or more labelling.warmup_batches")
    if changes:
        sentences.append(f"What may help, each in a new run_dir: {'; '.join(changes)}.")
    if state == "not settled" or unlearned:
        sentences.append("Do not read much into the clusters yet.")
    return Verdict(state, tuple(sentences))


def _settled(last: float) -> tuple[Literal["settled", "nearly settled", "not settled"], list[str]]:
    figures = f"the last labelling changed {last:.1%} of them"
    if last <= SETTLED:
        return "settled", [f"The labels are settled: {figures}."]
    limit = f"{SETTLED:.0%} or less is settled"
    if last <= NEARLY:
        return "nearly settled", [f"The labels are nearly settled: {figures}; {limit}."]
    return "not settled", [f"The labels are NOT settled: {figures}; {limit}."]


def _changes(state: str, churn: list[float], unlearned: bool, max_epochs: int) -> list[str]:
    """What to change about the training itself."""
    if state == "settled":
        stuck = "a higher optim.lr, or more labellings early (labelling.power=2): the labels are stuck on something "
        return [stuck + "that the encoders hardly see"] if unlearned else []
    if state == "unknown":
        return ["more labellings (labelling.num_labellings)"]
    longer = f"train longer (trainer.max_epochs={2 * max_epochs}, or --more {max_epochs} in this one)"
    if state == "not settled" and unlearned and churn[-1] >= FAST:
        return [
            longer,
            "a higher optim.lr, or fewer labellings (labelling.num_labellings): labels change faster than "
            "the network learns",
        ]
    return [longer]
