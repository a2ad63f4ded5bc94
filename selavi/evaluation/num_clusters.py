"""A suggested number of clusters as figures of the JSON, and in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from selavi.scores.num_clusters import MAX_CLIPS, Suggestion

UNSTABLE, BY_CHANCE = 0.5, 0.05
"""Agreements of halves, and of modalities, below which they say nothing."""


def as_figures(suggestion: Suggestion, trained_with: int) -> dict[str, Any]:
    """What RUN/eval/metrics_SPLIT.json keeps.

    Args:
        suggestion: of suggest_k.
        trained_with: K of the run.
    """
    return {
        "num_clusters": suggestion.num_clusters,
        "trained_with": trained_with,
        "agreement": suggestion.agreement,
        "shared_at": suggestion.shared_at,
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
    low, best = min(suggestion.as_good), suggestion.num_clusters
    if suggestion.agreement < UNSTABLE:
        return "not at all; at no K that was tried do the halves agree well"
    if suggestion.at_end:
        return "little; it is the last K that was tried on this side, and the best may lie beyond it"
    if best > 1.5 * low:
        return f"little; with fewer clusters, down to {low}, halves agree as well as far as the splits can tell"
    if best > low:
        return f"roughly; with {low} clusters halves agree as well"
    return "clear; at every other K that was tried the halves agree less"


def describe_suggestion(figures: Mapping[str, Any]) -> list[str]:
    """The table as lines, then what it suggests, how sure that is, and what to keep in mind.

    Args:
        figures: of as_figures.
    """
    best, own = figures["num_clusters"], figures["trained_with"]
    lines = [f"{'K':>6}{'halves agree':>20}{'modalities agree':>20}"]
    for one in figures["tried"]:
        cells = [_cell(one[name]) for name in ("halves", "modalities")]
        marks = "  suggested" * (one["num_clusters"] == best) + "  this run" * (one["num_clusters"] == own)
        lines.append(f"{one['num_clusters']:6}{cells[0]:>20}{cells[1]:>20}{marks}")
    lines.append(
        f"suggested K: {best}, the largest at which two halves of the clips give clusters as similar as at the highest "
        f"peak ({figures['agreement']:.3f}; 0 by chance, 1 for the same clusters)"
    )
    lines.append(f"how sure: {figures['how_sure']}")
    if figures["shared_at"]:
        lines.append(_about_modalities(best, *figures["shared_at"]))
    lines.append(f"keep in mind: the encoders learned {own} clusters, and their features lean towards that number")
    if figures["left_out"]:
        lines.append(
            f"{figures['clips']} clips were clustered; {figures['left_out']} were left out, which lack a modality or "
            f"exceed a sample of {MAX_CLIPS}"
        )
    return lines


def _about_modalities(best: int, shared_at: int, agreement: float) -> str:
    """What the agreement of the modalities adds."""
    if agreement < BY_CHANCE:
        return "modalities: the clusters that each makes alone agree no better than chance; they share nothing"
    most = f"modalities: the clusters that each makes alone agree most at K = {shared_at} ({agreement:.3f})"
    if best > 1.5 * shared_at:
        return f"{most}; beyond that, clusters are those of one modality, or of both together"
    return most


def _cell(values: list[float]) -> str:
    """Mean and standard deviation over the splits; nothing where nothing was measured."""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "-"
