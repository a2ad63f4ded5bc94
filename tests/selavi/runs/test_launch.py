import pytest

from selavi.runs.launch import is_first


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
