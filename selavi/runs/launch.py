"""Which of several processes this is, before they have met; for afterwards see selavi.distributed."""

import os
from collections.abc import Mapping


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the first of those that train together, or the only one.

    torchrun numbers its processes by RANK.  Lightning's own launcher gives the others on a machine a LOCAL_RANK, and
    machines a NODE_RANK; srun gives each task a SLURM_PROCID.
    """
    names = ["RANK"] if environment.get("RANK") else ["LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"]
    return all(int(environment.get(name) or 0) == 0 for name in names)
