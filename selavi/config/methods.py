"""The labelling methods by name, with what the settings have to know of each; selavi/labelling/methods has the rest."""

from typing import NamedTuple


class MethodTraits(NamedTuple):
    """What a labelling method reads and promises."""

    title: str
    """In words."""
    reads_scores: bool
    """Labels come from the heads' scores; otherwise from the encoders' features."""
    has_plan: bool
    """Labels are those of a plan, which has a sharpness, cluster sizes and a fraction of labelled clips."""
    relabels: bool = True
    """Clips are labelled anew while the encoders train; otherwise once, after the last step."""


LABELLING_METHODS: dict[str, MethodTraits] = {
    "transport": MethodTraits("optimal transport", reads_scores=True, has_plan=True),
    "kmeans": MethodTraits("K-means", reads_scores=False, has_plan=False),
    "cliques": MethodTraits("cliques", reads_scores=False, has_plan=False),
    "given": MethodTraits("labels of a table", reads_scores=True, has_plan=False, relabels=False),
    "none": MethodTraits("the heads' likeliest clusters", reads_scores=True, has_plan=False, relabels=False),
}
