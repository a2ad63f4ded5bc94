"""Where a run's figures go, what is refused before a training, and what a logger's failure does to one."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from selavi.config import Config, flatten, freedom
from selavi.errors import UsageError
from selavi.guarded.json_file import read_json
from selavi.runs.folder import RunFolder
from selavi.training import loggers
from selavi.training.loggers import LIBRARY_DEFAULTS, Tracker, make_loggers
from selavi.training.trainer import make_trainer

Tiny = Callable[..., Config]


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or changes, what the user has set for the libraries; no key is known."""
    for name in os.environ:
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    for defaults in LIBRARY_DEFAULTS.values():
        for name, value in defaults.items():
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))


@pytest.fixture
def wandb() -> Iterator[Any]:
    module = pytest.importorskip("wandb", reason="install the extra `wandb`")
    module.teardown()  # it reads its variables once
    yield module
    module.teardown()


@pytest.fixture
def mlflow() -> Any:
    pytest.importorskip("alembic", reason="install the extra `mlflow`")
    return pytest.importorskip("mlflow.tracking", reason="install the extra `mlflow`")


@pytest.mark.parametrize(
    ("names", "kinds"), [("[csv]", [CSVLogger]), ("[tensorboard, csv]", [CSVLogger, TensorBoardLogger])]
)
def test_each_name_is_a_logger(tiny: Tiny, names: str, kinds: list[type]) -> None:
    config = tiny(f"trainer.loggers={names}")
    assert [type(logger) for logger in make_loggers(config)] == kinds
    assert [type(logger) for logger in make_trainer(config, []).loggers] == kinds
    assert not Path(config.run_dir).exists()


def test_figures_go_where_they_went_before_there_was_a_choice(tiny: Tiny) -> None:
    assert tiny().trainer.loggers == ["csv", "tensorboard"]
    assert freedom("trainer.loggers") == "resume"


@pytest.mark.parametrize("names", ["[]", "[tensorboard]", "[csv, csv]", "[csv, weights]"])
def test_lists_that_are_refused_name_the_choices(tiny: Tiny, names: str) -> None:
    with pytest.raises(UsageError, match=r"trainer\.loggers must be .*csv, tensorboard, wandb, mlflow, .*csv.*, got"):
        tiny(f"trainer.loggers={names}")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_before_the_media_are_looked_at(
    fit: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    assert fit(tmp_path / "run", f"trainer.loggers=[csv, {name}]", f"data.root={tmp_path}/none") == 2
    assert f"pip install 'selavi[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_folder_that_runs_leave_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "looks_like_one").mkdir()
    assert not loggers._is_installed("looks_like_one")
    assert loggers._is_installed("pytest")


def test_a_damaged_list_of_runs_is_refused_before_training(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("trainer.loggers=[csv, mlflow]")
    monkeypatch.setattr(loggers, "find_spec", lambda _: SimpleNamespace(origin="there"))
    folder = RunFolder(config.run_dir)
    folder.path.mkdir()
    folder.logger_runs.write_text('{"mlflow"')
    with pytest.raises(UsageError, match=r"loggers\.json.*remove it, and the loggers begin new runs"):
        make_loggers(config)


def test_what_the_user_has_set_for_a_library_stays(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: SimpleNamespace(origin="there"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    make_loggers(tiny("trainer.loggers=[csv, mlflow]"))
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


class Unreliable:
    """A logger of a library whose server goes away after some calls."""

    def __init__(self, num_calls: int) -> None:
        self.calls: list[str] = []
        self.num_calls = num_calls

    def open(self, _: Config) -> "Unreliable":
        return self._call("open")

    def log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
        self._call(f"metrics of step {step}")

    def finalize(self, status: str) -> None:
        self._call(status)

    def _call(self, name: str) -> "Unreliable":
        self.calls.append(name)
        if len(self.calls) > self.num_calls:
            raise ConnectionError("the server\nis away")
        return self


@pytest.mark.parametrize(
    ("num_calls", "calls"),
    [
        (0, ["open"]),
        (1, ["open", "metrics of step 1"]),
        (3, ["open", "metrics of step 1", "metrics of step 2", "success"]),
        (4, ["open", "metrics of step 1", "metrics of step 2", "success"]),
    ],
)
def test_a_failure_is_said_once_and_training_goes_on(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    num_calls: int,
    calls: list[str],
) -> None:
    library = Unreliable(num_calls)
    monkeypatch.setitem(loggers._OPENERS, "mlflow", library.open)
    tracker = Tracker("mlflow", tiny())
    monkeypatch.setattr(logging.getLogger("selavi"), "propagate", True)
    for _ in range(2):  # as Lightning does, which asks first whether there is one
        assert hasattr(tracker, "experiment")
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.log_metrics({"loss": 1.0}, 2)
    tracker.finalize("success")
    tracker.finalize("failed")
    assert library.calls == calls
    fails = [record.getMessage() for record in caplog.records]
    assert len(fails) == (num_calls < 4)
    assert all("mlflow fails, and training goes on without it (the server is away)" in line for line in fails)


def log_a_part(config: Config, *steps: int) -> str:
    """Log as a training does; returns the id of the run."""
    tracker = make_loggers(config)[-1]
    assert isinstance(tracker, Tracker)
    RunFolder(config.run_dir).path.mkdir(exist_ok=True)
    assert tracker.experiment is not None
    for step in steps:
        tracker.log_metrics({"train/loss": 1.5}, step)
    tracker.finalize("success")
    assert not tracker.has_failed
    run_id = read_json(RunFolder(config.run_dir).logger_runs)[tracker.kind]
    assert isinstance(run_id, str)
    return run_id


def test_wandb_without_a_key_is_offline_and_goes_on_with_its_run(
    wandb: Any, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("trainer.loggers=[csv, wandb]")
    run_id = log_a_part(config, 0, 1)
    assert log_a_part(config, 2) == run_id
    assert wandb.run is None
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(said) == 2
    assert said[0].startswith("wandb: offline, for no key is known here")
    parts = list(RunFolder(config.run_dir).wandb.glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len({part.parent for part in parts}) == len(parts) >= 1  # two within a second share a folder
    content = b"".join(part.read_bytes() for part in parts)
    assert b"train/loss" in content
    assert b"num_clusters" in content


def test_wandb_offline_as_the_user_says_is_not_remarked(
    wandb: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_a_part(tiny("trainer.loggers=[csv, wandb]"), 0)
    assert not capsys.readouterr().err.strip()


@pytest.mark.usefixtures("wandb")
def test_wandb_online_without_a_key_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UsageError, match=r"WANDB_MODE=online, but .* knows no key here: run `wandb login`"):
        make_loggers(tiny("trainer.loggers=[csv, wandb]"))


@pytest.mark.slow
def test_mlflow_keeps_a_run_in_the_folder_and_goes_on_with_it(mlflow: Any, tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("trainer.loggers=[csv, mlflow]")
    run_id = log_a_part(config, 0, 1)
    assert "MLFLOW_TRACKING_URI" not in os.environ  # the next run of this process has a file of its own
    assert log_a_part(tiny("trainer.loggers=[csv, mlflow]", "trainer.more_epochs=[3]"), 2) == run_id
    client = mlflow.MlflowClient(RunFolder(config.run_dir).mlflow_address)
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["heads.num_clusters"] == "8"
    assert (run.data.params["trainer.more_epochs"], run.data.tags["trainer.more_epochs"]) == ("[]", "[3]")
    assert len(run.data.params) == len(flatten(loggers.as_dict(config)))
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == [0, 1, 2]
    other = tiny("trainer.loggers=[csv, mlflow]", f"run_dir={tmp_path / 'other'}")
    assert log_a_part(other, 0) != run_id


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow")
def test_mlflow_begins_a_new_run_where_the_server_is_another_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("trainer.loggers=[csv, mlflow]")
    run_id = log_a_part(config, 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'server.db'}")
    assert log_a_part(config, 1) != run_id
    assert f"mlflow: there is no run {run_id} where the figures go now" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow", "wandb")
def test_a_training_that_goes_on_logs_into_the_same_runs(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my run"
    assert fit(folder, "trainer.loggers=[csv, wandb, mlflow]", "trainer.max_epochs=1") == 0
    err = capsys.readouterr().err
    assert f"wandb sync '{folder}/wandb'/offline-run-*" in err
    assert f"mlflow ui --backend-store-uri 'sqlite:///{folder}/mlflow.db'" in err
    ids = read_json(RunFolder(folder).logger_runs)
    from tools import train

    assert train.main([str(folder), "--more", "1"]) == 0
    assert read_json(RunFolder(folder).logger_runs) == ids
    assert len(list((folder / "wandb").glob(f"offline-run-*-{ids['wandb']}"))) == 2
