"""Where a run's figures go: files in its folder and, where asked for, Weights & Biases and MLflow, which are extras."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from selavi.atomic import write_text
from selavi.config import Config, as_dict, flatten
from selavi.errors import UsageError
from selavi.guarded.json_file import read_json
from selavi.meter import say
from selavi.runs.folder import RunFolder

PACKAGES = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Loggers that are extras, and what each imports; the last two keep MLflow's runs in a file."""
PROJECT = "selavi"
"""The project of Weights & Biases and the experiment of MLflow, where their own variables name none."""
LIBRARY_DEFAULTS = {
    "wandb": {
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_FINISH_TIMEOUT": "60",
    },
    "mlflow": {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    },
}
"""Variables that are set where the user has not set them: the libraries print nothing, report to nobody on their own
account, and do not hold a training up for minutes where a server is away."""
_MLFLOW_VALUE_LENGTH = 250
"""Letters of a parameter that MLflow's logger keeps."""

log = logging.getLogger("selavi")


def make_loggers(config: Config) -> list[Logger]:
    """The loggers of trainer.loggers; nothing is written or asked for before the training begins.

    Raises:
        UsageError: a package is missing, Weights & Biases is to be online without a key, or RUN/loggers.json is
            damaged.
    """
    run_dir, names = Path(config.run_dir), config.trainer.loggers
    loggers: list[Logger] = [CSVLogger(run_dir, name="", version="")]
    if "tensorboard" in names:
        loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard"))
    for name in PACKAGES:
        if name in names:
            _require(name)
            _read_run_ids(RunFolder(run_dir))
            loggers.append(Tracker(name, config))
    return loggers


class Tracker(Logger):
    """Weights & Biases or MLflow, opened as training begins; where it fails, training goes on without it.

    Only the first of several processes that train together opens it.

    Args:
        kind: its name in trainer.loggers.
        config: of the run.
    """

    def __init__(self, kind: str, config: Config) -> None:
        super().__init__()
        self.kind, self.config = kind, config
        self.logger: Logger | None = None
        self.has_failed = False

    @property
    def name(self) -> str:
        """Its name in trainer.loggers."""
        return self.kind

    @property
    def version(self) -> None:
        """None: the run has its name and its id from elsewhere."""
        return None

    @property
    @rank_zero_experiment
    def experiment(self) -> Logger | None:
        """Lightning's logger, None where it failed; Lightning asks for it before training, which opens it."""
        with self._going_on_without():
            if self.logger is None and not self.has_failed:
                self.logger = _OPENERS[self.kind](self.config)
        return self.logger

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Pass them on."""
        with self._going_on_without():
            if self.logger is not None:
                self.logger.log_metrics(metrics, step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the settings are logged where the run is opened."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, which a later training may go on with."""
        with self._going_on_without():
            logger, self.logger = self.logger, None
            if logger is not None:
                logger.finalize(status)
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=0 if status == "success" else 1)

    @contextmanager
    def _going_on_without(self) -> Iterator[None]:
        """Whatever fails in a library, a server or a network ends this logger, and not the training."""
        try:
            yield
        except Exception as error:
            self.logger, self.has_failed = None, True
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            metrics = RunFolder(self.config.run_dir).metrics
            log.warning(f"{self.kind} fails, and training goes on without it ({reason}); {metrics} has all figures")


def _require(name: str) -> None:
    """Refuse a logger that cannot work, and let its library be quiet.

    Raises:
        UsageError: a package is missing; Weights & Biases is to be online and knows no key.
    """
    for variable, value in LIBRARY_DEFAULTS[name].items():
        os.environ.setdefault(variable, value)
    missing = [package for package in PACKAGES[name] if not _is_installed(package)]
    if missing:
        raise UsageError(
            f"trainer.loggers names {name}, which needs the package {missing[0]}, which is not installed: "
            f"pip install 'selavi[{name}]', or leave {name} out"
        )
    if name == "wandb" and os.environ.get("WANDB_MODE") == "online" and not _wandb_has_key():
        raise UsageError(
            "WANDB_MODE=online, but Weights & Biases knows no key here: run `wandb login`, set WANDB_API_KEY, or say "
            "WANDB_MODE=offline"
        )


def _is_installed(package: str) -> bool:
    """Whether it can be imported; a folder of its name, such as the `wandb` that runs leave, is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def _open_wandb(config: Config) -> Logger:
    """Begin the run at Weights & Biases, or go on with it."""
    folder = RunFolder(config.run_dir)
    run_id = _read_run_ids(folder).get("wandb") or uuid4().hex
    logger = WandbLogger(
        name=folder.path.resolve().name,
        save_dir=os.environ.get("WANDB_DIR", folder.path),
        id=run_id,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        mode=_wandb_mode(),
    )
    logger.log_hyperparams(as_dict(config))
    _note_run_id(folder, "wandb", run_id)
    return logger


def _wandb_mode() -> str | None:
    """`offline` where there is no key, for which it would ask and wait; None: as its own settings say."""
    import wandb

    if wandb.setup().settings.mode != "online" or _wandb_has_key():
        return None
    say("wandb: offline, for no key is known here; `wandb login` or WANDB_API_KEY sends figures while training")
    return "offline"


def _wandb_has_key() -> bool:
    """Whether Weights & Biases finds a key where it looks for one; it is not tried."""
    import wandb

    return bool(wandb.login(prompt=False, verify=False))


def _open_mlflow(config: Config) -> Logger:
    """Begin the run in MLflow, or go on with it: on the server of MLFLOW_TRACKING_URI, else in RUN/mlflow.db."""
    import mlflow.tracking  # noqa: F401, which sets the levels of its own logs

    for name in ("mlflow", "pytorch_lightning.loggers.mlflow"):  # tables made, experiment not found
        logging.getLogger(name).setLevel(logging.ERROR)
    folder, server = RunFolder(config.run_dir), os.environ.get("MLFLOW_TRACKING_URI")
    uri = server or RunFolder(folder.path.resolve()).mlflow_address
    logger = MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=folder.path.resolve().name,
        tracking_uri=uri,
        run_id=_run_on_server(uri, _read_run_ids(folder).get("mlflow")),
    )
    run_id = logger.run_id
    if server is None:  # Lightning has set it, and the next run of this process has a file of its own
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    assert run_id is not None, "asking for it begins a run"
    _note_run_id(folder, "mlflow", run_id)
    _log_parameters(logger, run_id, config)
    logger.experiment.update_run(run_id, status="RUNNING")
    return logger


def _run_on_server(uri: str, run_id: str | None) -> str | None:
    """The id of an earlier part's run; None where there is none, or another server had it."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    if run_id is None:
        return None
    try:
        MlflowClient(uri).get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        say(f"mlflow: there is no run {run_id} where the figures go now, so that a new one begins")
        return None
    return run_id


def _log_parameters(logger: MLFlowLogger, run_id: str, config: Config) -> None:
    """Log the settings; MLflow's parameters never change, so those that have changed since are tags."""
    settings = {key: str(value)[:_MLFLOW_VALUE_LENGTH] for key, value in flatten(as_dict(config)).items()}
    logged: Mapping[str, str] = logger.experiment.get_run(run_id).data.params
    logger.log_hyperparams({key: value for key, value in settings.items() if key not in logged})
    for key, value in settings.items():
        if logged.get(key, value) != value:
            logger.experiment.set_tag(run_id, key, value)


_OPENERS = {"wandb": _open_wandb, "mlflow": _open_mlflow}


def _read_run_ids(folder: RunFolder) -> dict[str, str]:
    """Logger -> id of its run, for those that the training has opened before.

    Raises:
        UsageError: the file is damaged.
    """
    if not folder.logger_runs.exists():
        return {}
    ids = read_json(folder.logger_runs, "remove it, and the loggers begin new runs")
    return {name: str(run_id) for name, run_id in ids.items()}


def _note_run_id(folder: RunFolder, name: str, run_id: str) -> None:
    """Let a later part of the training go on with this run."""
    write_text(folder.logger_runs, json.dumps(_read_run_ids(folder) | {name: run_id}, indent=2) + "\n")
