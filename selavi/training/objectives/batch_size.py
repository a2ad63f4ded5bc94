"""How many clips a step needs where the loss is a figure of the whole batch."""

from selavi.config import Config
from selavi.errors import UsageError

LEAST, ENOUGH = 2, 4
"""Clips of a step for each cluster: fewer are refused, or warned of.  Shares of K clusters, or of K x K pairs of them,
over fewer clips are mostly chance."""


def check_batch(config: Config, world_size: int) -> str:
    """A warning where a step has few clips for the loss; empty where it has enough, or a clip counts by itself.

    Args:
        config: of the run.
        world_size: processes that train together.

    Raises:
        UsageError: it has too few.
    """
    kind, num_clusters = config.loss.kind, config.heads.num_clusters
    if kind == "cross_entropy":
        return ""
    setting = "optim.batch_size" if config.optim.micro_batch is None else "optim.micro_batch"
    num_clips = (config.optim.micro_batch or config.optim.batch_size) * world_size
    what = "a step" if config.optim.micro_batch is None else "a micro-batch of a step"
    where = f"{what} has {num_clips} clips" + (f" on {world_size} devices" if world_size > 1 else "")
    needed, better = (-(-share * num_clusters // world_size) for share in (LEAST, ENOUGH))
    figures = f"loss.kind={kind} counts how {num_clusters} clusters are used over them"
    if num_clips < LEAST * num_clusters:
        raise UsageError(
            f"{where}, and {figures}: expected at least {LEAST} for each cluster, better {ENOUGH}; set "
            f"{setting}={needed} or more, or lower heads.num_clusters"
        )
    if num_clips < ENOUGH * num_clusters:
        return f"{where}, which is few: {figures}; {setting}={better} would be better"
    return ""
