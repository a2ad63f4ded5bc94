import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selavi.config import Config
from selavi.errors import UsageError
from selavi.inference.load import load_model
from selavi.runs.folder import RunFolder
from selavi.runs.lifetime import start_run
from selavi.runs.manifest import SCHEMA
from selavi.runs.record import load_run, next_steps, on_other_clips
from selavi.training.trainer import make_trainer

Tiny = Callable[..., Config]
MANIFEST = SCHEMA.empty_table().replace_schema_metadata({"root": "/media"})


def checkpoint_of(config: Config) -> Path:
    path = RunFolder(config.run_dir).last_checkpoint
    path.parent.mkdir(parents=True)
    torch.save({"label_bank": {}}, path)
    return path


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"is not a run folder: it has no config\.resolved\.yaml; give the folder"):
            load_run(folder)
    config = tiny()
    start_run(config, None, MANIFEST)
    with pytest.raises(UsageError, match=r"has no checkpoint yet .*; train on with resume=auto"):
        load_run(Path(config.run_dir))


def test_weights_of_another_model_are_refused(tiny: Tiny) -> None:
    config = tiny()
    start_run(config, None, MANIFEST)
    checkpoint_of(config)
    path = RunFolder(config.run_dir).last_checkpoint
    torch.save({"label_bank": {}, "state_dict": {"model.heads.video.hidden": torch.zeros(3)}}, path)
    with pytest.raises(UsageError, match=r"does not fit its settings: .*Missing key"):
        load_model(load_run(Path(config.run_dir)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.accelerator=abacus", "abacus"),
        ("trainer.devices=0", "devices"),
        ("trainer.strategy=none_such", "none_such"),
    ],
)
def test_a_trainer_that_cannot_be_had_is_a_usage_error(tiny: Tiny, override: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"trainer.*{message}"):
        make_trainer(tiny(override), [])
    assert not Path(tiny().run_dir).exists()


@pytest.mark.parametrize("name", ["my #1 run", "1e3", "a: b", "{x}", "a${b}", "null", " 007 ", "???"])
def test_a_run_folder_and_media_of_any_name(finished_run: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(finished_run, tmp_path / name)
    run = load_run(folder)
    assert run.config.run_dir == str(folder)
    other = on_other_clips(run, [f"data.root=/media/{name}", f"data.list={name}"])
    assert (other.run_dir, other.data.root, other.data.list) == (str(folder), f"/media/{name}", name)
    assert not on_other_clips(run, [f"data.root=/media/{name}"]).data.list


def test_next_steps_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    pq.write_table(pa.table({"split": ["train", "test"]}), folder / "manifest.parquet")
    lines = next_steps(str(folder)).strip().splitlines()
    commands = [shlex.split(line.removeprefix("Next:").strip().split(maxsplit=1)[1]) for line in lines]
    assert commands == [
        ["selavi", "evaluate", str(folder), "--split", "test"],
        ["selavi", "export", str(folder)],
    ]


def test_next_steps_name_what_loggers_keep_in_the_run_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    (folder / "wandb" / "offline-run-1").mkdir(parents=True)
    (folder / "mlflow.db").touch()
    pq.write_table(pa.table({"split": ["train"]}), folder / "manifest.parquet")
    upload, compare = next_steps(str(folder)).splitlines()[-2:]
    assert shlex.split(upload) == ["upload", "wandb", "sync", f"{folder}/wandb/offline-run-*"]
    assert shlex.split(compare) == ["compare", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
