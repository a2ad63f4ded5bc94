"""A suggested number of clusters as figures of the JSON, and in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from selavi.scores.num_clusters import BY_CHANCE, MAX_CLIPS, Suggestion

REASONS = {
    "modalities": "the clusters that one modality makes alone agree most with those that another makes",
    "halves": "two halves of the clips give the most similar clusters",
}


def as_figures(suggestion: Suggestion, trained_with: int) -> dict[str, Any]:
    """What RUN/eval/metrics_SPLIT.json keeps.

    Args:
        suggestion: of suggest_k.
        trained_with: K of the run.
    """
    return {
        "num_clusters": suggestion.num_clusters,
        "trained_with": trained_with,
        "judged_by": suggestion.judged_by,
        "agreement": suggestion.agreement,
        "as_good": list(suggestion.as_good),
        "how_sure": how_sure(suggestion),
        "clips": suggestion.num_clips,
        "left_out": suggestion.num_left_out,
        "tried": [
            {"num_clusters": one.num_clusters, "modalities": one.modalities.tolist(), "halves": one.halves.tolist()}
            for one in suggestion.tried
        ],
    }


def how_sure(suggestion: Suggestion) -> str:
    """A sentence on what the figures carry."""
    low, high = min(suggestion.as_good), max(suggestion.as_good)
    if suggestion.agreement < BY_CHANCE:
        return "not at all; at no K that was tried is the agreement better than chance"
    if suggestion.at_end:
        return "little; it is the last K that was tried on this side, and the best may lie beyond it"
    if high > 1.5 * low:
        return f"little; the splits cannot tell which K from {low} to {high} is best"
    if high > low:
        return f"roughly; K from {low} to {high} are as good"
    return "clear; at every other K that was tried the agreement is lower"


def describe_suggestion(figures: Mapping[str, Any]) -> list[str]:
    """The table as lines, then what it suggests, how sure that is, and what to keep in mind.

    Args:
        figures: of as_figures.
    """
    best, own = figures["num_clusters"], figures["trained_with"]
    lines = [f"{'K':>6}{'modalities agree':>20}{'halves agree':>20}"]
    for one in figures["tried"]:
        cells = [_cell(one[name]) for name in REASONS]
        marks = "  suggested" * (one["num_clusters"] == best) + "  this run" * (one["num_clusters"] == own)
        lines.append(f"{one['num_clusters']:6}{cells[0]:>20}{cells[1]:>20}{marks}")
    scale = "0 by chance, 1 for the same clusters"
    lines.append(f"suggested K: {best}, where {REASONS[figures['judged_by']]} ({figures['agreement']:.3f}; {scale})")
    if figures["judged_by"] == "halves" and figures["tried"][0]["modalities"]:
        lines.append("the modalities alone agree no better than chance: their clusters share nothing")
    lines.append(f"how sure: {figures['how_sure']}")
    lines.append(f"keep in mind: the encoders learned {own} clusters, and their features lean towards that number")
    if figures["left_out"]:
        lines.append(
            f"{figures['clips']} clips were clustered; {figures['left_out']} were left out, which lack a modality or "
            f"exceed a sample of {MAX_CLIPS}"
        )
    return lines


def _cell(values: list[float]) -> str:
    """Mean and standard deviation over the splits; nothing where nothing was measured."""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "-"
