"""Which clips of each cluster a gallery shows: the most confident few and the least confident few."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class GalleryClip:
    """One clip as the gallery shows it: a row of the cluster table."""

    id: str
    path: str
    start_s: float
    confidence: float
    rank: int
    label: str | None


@dataclass(frozen=True)
class GalleryCluster:
    """One cluster: figures over all of its clips, and the clips to show.

    Attributes:
        cluster: number of the cluster under the gallery's head.
        name: given by a person, or None.
        size: number of clips.
        mean_confidence: over all clips.
        num_labelled: clips that have a label.
        top_label: the most common label (the first by name of equally common ones), or None without labels.
        purity: share of the labelled clips that carry top_label, or None without labels.
        typical: the most confident clips, best first.
        uncertain: the least confident clips, in the order of their rank; none of them is in `typical`.
    """

    cluster: int
    name: str | None
    size: int
    mean_confidence: float
    num_labelled: int
    top_label: str | None
    purity: float | None
    typical: tuple[GalleryClip, ...]
    uncertain: tuple[GalleryClip, ...]


def select_clusters(table: pa.Table, head: int, clips_per_cluster: int) -> list[GalleryCluster]:
    """Select what to show of each cluster of one head.

    A quarter of the places (rounded down) goes to the least confident clips where a cluster has more clips
    than places; a smaller cluster is shown whole, by rank.

    Args:
        table: a cluster table (selavi.export.CLUSTER_SCHEMA).
        head: which of its heads.
        clips_per_cluster: places a cluster, at least 1.

    Returns:
        The non-empty clusters, the largest first, then by number.

    Raises:
        ValueError: the table has no row of this head, or there is no place.
    """
    if clips_per_cluster < 1:
        raise ValueError(f"expected at least 1 clip a cluster, got {clips_per_cluster}")
    rows = table.filter(pc.equal(table["head"], head))
    if rows.num_rows == 0:
        heads = sorted(pc.unique(table["head"]).to_pylist())
        raise ValueError(f"expected one of the table's heads {heads}, got {head}")
    rows = rows.sort_by([("cluster", "ascending"), ("rank_in_cluster", "ascending")])
    sizes = pc.value_counts(rows["cluster"]).field("counts").to_pylist()  # in the order of the rows
    clusters, start = [], 0
    for size in sizes:
        clusters.append(_summarise(rows.slice(start, size), clips_per_cluster))
        start += size
    return sorted(clusters, key=lambda cluster: (-cluster.size, cluster.cluster))


def _summarise(members: pa.Table, clips_per_cluster: int) -> GalleryCluster:
    size = members.num_rows
    num_uncertain = clips_per_cluster // 4 if size > clips_per_cluster else 0
    num_typical = min(size, clips_per_cluster - num_uncertain)
    counts = pc.value_counts(members["label"].drop_null()).to_pylist()
    num_labelled = sum(entry["counts"] for entry in counts)
    top = min(counts, key=lambda entry: (-entry["counts"], entry["values"]), default=None)
    return GalleryCluster(
        cluster=members["cluster"][0].as_py(),
        name=members["name"][0].as_py(),
        size=size,
        mean_confidence=pc.mean(members["confidence"]).as_py(),
        num_labelled=num_labelled,
        top_label=top["values"] if top else None,
        purity=top["counts"] / num_labelled if top else None,
        typical=_clips(members.slice(0, num_typical)),
        uncertain=_clips(members.slice(size - num_uncertain)),
    )


def _clips(rows: pa.Table) -> tuple[GalleryClip, ...]:
    return tuple(
        GalleryClip(row["id"], row["path"], row["start_s"], row["confidence"], row["rank_in_cluster"], row["label"])
        for row in rows.to_pylist()
    )
