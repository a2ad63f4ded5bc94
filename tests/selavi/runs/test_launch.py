import pytest

from selavi.errors import UsageError
from selavi.runs.launch import is_first, require_all_take_part, require_one_process, share_of


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0", "NODE_RANK": "1"}, False),  # torchrun, second machine
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False),  # Lightning's own launcher
        ({"NODE_RANK": "1"}, False),  # its first process on the second machine
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "0"}, False),
        ({"RANK": "0", "SLURM_PROCID": "1"}, True),  # whoever launched last numbers the processes
        ({"LOCAL_RANK": ""}, True),
    ],
)
def test_one_of_several_processes_is_the_first(environment: dict[str, str], first: bool) -> None:
    assert is_first(environment) == first


@pytest.mark.parametrize(
    ("environment", "world_size"),
    [
        ({}, 1),
        ({}, 8),  # Lightning's own launcher, before it starts the others
        ({"WORLD_SIZE": "8"}, 8),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, 1),  # a batch script that calls python itself
        ({"SLURM_STEP_NUM_TASKS": "1"}, 8),  # one task, and Lightning starts the others
    ],
)
def test_launches_of_which_all_take_part(environment: dict[str, str], world_size: int) -> None:
    require_all_take_part(world_size, environment)


@pytest.mark.parametrize(("name", "launcher"), [("WORLD_SIZE", "torchrun"), ("SLURM_STEP_NUM_TASKS", "srun")])
@pytest.mark.parametrize("world_size", [1, 4])
def test_a_launch_that_does_not_fit_the_settings_is_refused(name: str, launcher: str, world_size: int) -> None:
    expected = f"{launcher} has started 2 processes, and the settings make {world_size} train together"
    with pytest.raises(UsageError, match=expected):
        require_all_take_part(world_size, {name: "2"})


@pytest.mark.parametrize(("name", "launcher"), [("WORLD_SIZE", "torchrun"), ("SLURM_STEP_NUM_TASKS", "srun")])
def test_what_takes_one_process_is_refused_to_several(name: str, launcher: str) -> None:
    with pytest.raises(UsageError, match=f"{launcher} has started 2 processes, and --dry-run takes one"):
        require_one_process("--dry-run", environment={name: "2"})
    require_one_process("--dry-run", environment={name: "1"})
    require_one_process("--dry-run", environment={})


def test_each_process_of_torchrun_has_a_share_and_those_of_srun_alone_are_refused() -> None:
    assert share_of({}) == (0, 1)
    assert share_of({"WORLD_SIZE": "1", "RANK": "0"}) == (0, 1)
    assert share_of({"WORLD_SIZE": "4", "RANK": "3"}) == (3, 4)
    assert share_of({"WORLD_SIZE": "4", "RANK": "3", "SLURM_STEP_NUM_TASKS": "2"}) == (3, 4)  # srun torchrun ...
    with pytest.raises(UsageError, match="srun has started 2 processes, which do not know of each other"):
        share_of({"SLURM_STEP_NUM_TASKS": "2"})
