from collections.abc import Callable

import pytest

from selavi.config import Config
from selavi.errors import UsageError
from selavi.runs.launch import is_first
from selavi.training.trainer import make_trainer


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


@pytest.mark.parametrize("number", ["0", "1"])
def test_processes_that_do_not_fit_the_settings_are_refused(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """As torchrun starts two of them: they would be two runs in one folder."""
    for name, value in {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"torchrun has started 2 processes, and the settings are for 1 \(trainer.dev"):
        make_trainer(tiny("trainer.devices=1"), [])
