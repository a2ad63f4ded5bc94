"""What launched this process, and which of several it is, until they have met; then see selavi.distributed."""

import os
import re
from collections.abc import Iterator, Mapping

from selavi.errors import UsageError

LAUNCHERS = {"WORLD_SIZE": "torchrun", "SLURM_STEP_NUM_TASKS": "srun"}
"""Where a launcher says how many processes it has started, and its name."""


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the first of those that train together, or the only one.

    torchrun numbers its processes by RANK.  Lightning's own launcher gives the others on a machine a LOCAL_RANK, and
    machines a NODE_RANK; srun gives each task a SLURM_PROCID.
    """
    names = ["RANK"] if environment.get("RANK") else ["LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"]
    return all(int(environment.get(name) or 0) == 0 for name in names)


def share_of(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Number of this process and count of those that torchrun has started, for work that each does for itself.

    Raises:
        UsageError: srun has started several, which do not know of each other.
    """
    for launcher, started in _started(environment):
        if launcher == "torchrun":
            return int(environment["RANK"]), started
        raise UsageError(
            f"{launcher} has started {started} processes, which do not know of each other: start one on each machine "
            "that is torchrun, or one alone"
        )
    return 0, 1


def trains_on_all(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The settings with which all processes that torchrun has started train together; none of one alone."""
    _, count = share_of(environment)
    if count == 1:
        return []
    on_each = int(environment["LOCAL_WORLD_SIZE"])
    return [f"trainer.devices={on_each}", f"trainer.num_nodes={count // on_each}"]


def task_of(text: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Which share of work that needs no messages this process takes: (number from 0, of how many).

    Args:
        text: `i/n`; None: the environment says, of a SLURM array and of torchrun, both together if there are both.
        environment: of this process.

    Raises:
        UsageError: the text is something else.
    """
    if text is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not int(match[1]) < int(match[2]):
            raise UsageError(f"--task must be i/n with 0 <= i < n, such as 0/8 to 7/8, got {text!r}")
        return int(match[1]), int(match[2])
    number, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", d)) for name, d in (("MIN", 0), ("STEP", 1)))
        number = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
        count = int(environment["SLURM_ARRAY_TASK_COUNT"])
        if number >= count:
            raise UsageError("the SLURM array has gaps: submit a whole one, such as --array=0-31, or give --task i/n")
    ranks = int(environment.get("WORLD_SIZE", 1))
    return number * ranks + int(environment.get("RANK", 0)), count * ranks


def require_all_take_part(world_size: int, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a launch of which not all processes would train together: the others would train a run of their own.

    Args:
        world_size: processes that train together under the settings.
        environment: of this process.

    Raises:
        UsageError: more were started, or fewer.
    """
    for launcher, started in _started(environment):
        if started != world_size:
            raise UsageError(
                f"{launcher} has started {started} processes, and the settings make {world_size} train together: give "
                "trainer.devices (processes on each machine) and trainer.num_nodes (machines) so that their product is "
                f"{started}, as in trainer.devices={started} on one machine, or start one process alone"
            )


def require_one_process(what: str, otherwise: str = "", environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to do with several processes what one does for all.

    Args:
        what: is done, for the message.
        otherwise: end of the message.
        environment: of this process.

    Raises:
        UsageError: a launcher has started more than one.
    """
    for launcher, started in _started(environment):
        about = f"{launcher} has started {started} processes, and {what} takes one: run the command without {launcher}"
        raise UsageError(about + otherwise)


def _started(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Launchers that say that they have started several processes, and how many."""
    for name, launcher in LAUNCHERS.items():
        started = int(environment.get(name) or 1)
        if started > 1:
            yield launcher, started
