import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.index.manifest import SCHEMA
from selavi.config import Config, load_config
from selavi.errors import UsageError
from selavi.inference.load import load_model
from selavi.labelling.statistics import ClipStatistics
from selavi.results.labels import LABEL_SCHEMA, write_labels
from selavi.runs.folder import RunFolder
from selavi.runs.lifetime import environment, finish_run, start_run
from selavi.runs.record import load_run, next_steps, on_other_clips, read_verdict
from selavi.runs.resume import resume_point
from selavi.scores.verdict import Verdict
from selavi.training.trainer import make_trainer

Tiny = Callable[..., Config]
MANIFEST = SCHEMA.empty_table().replace_schema_metadata({"root": "/media"})


def checkpoint_of(config: Config) -> Path:
    path = RunFolder(config.run_dir).last_checkpoint
    path.parent.mkdir(parents=True)
    torch.save({"label_bank": {}}, path)
    return path


# ---- where a run goes on ----


def test_a_new_run_starts(tiny: Tiny) -> None:
    for resume in ("never", "auto"):
        point = resume_point(tiny(f"resume={resume}"))
        assert (point.checkpoint, point.finished) == (None, False)


def test_never_refuses_a_folder_with_anything_in_it(tiny: Tiny) -> None:
    config = tiny()
    Path(config.run_dir).mkdir()
    assert resume_point(config).checkpoint is None  # an empty folder is fine
    (Path(config.run_dir) / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"exists and is not empty; say resume=auto .*, or run_dir=\.\.\."):
        resume_point(config)
    assert resume_point(config, check=False).checkpoint is None  # other ranks: the first one has written already


def test_a_file_in_the_place_of_the_folder_is_refused(tiny: Tiny) -> None:
    for resume in ("never", "auto", "must"):
        config = tiny(f"resume={resume}")
        Path(config.run_dir).write_text("")
        with pytest.raises(UsageError, match="is a file"):
            resume_point(config)


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_a_checkpoint_is_gone_on_from(tiny: Tiny, resume: str) -> None:
    config = tiny(f"resume={resume}")
    path = checkpoint_of(config)
    assert resume_point(config).checkpoint == path
    assert not resume_point(config).finished


def test_must_needs_a_checkpoint(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"resume=must, but there is no checkpoint .*last\.ckpt; say resume=auto"):
        resume_point(tiny("resume=must"))


def test_a_finished_run_is_finished(tiny: Tiny) -> None:
    config = tiny("resume=auto")
    checkpoint_of(config)
    (Path(config.run_dir) / "status.json").write_text("{}")
    assert resume_point(config).finished


# ---- what is written ----


def statistics(num_clips: int, num_heads: int) -> ClipStatistics:
    values = torch.arange(num_clips * num_heads).view(num_clips, num_heads) / 100
    return ClipStatistics(values, values + 1, values + 2, values.masked_fill(values < 0.03, torch.nan))


def test_labels_are_one_row_for_each_clip_and_head(tmp_path: Path) -> None:
    labels = torch.tensor([[3, 1], [0, 2], [1, 1]], dtype=torch.int32)
    path = write_labels(tmp_path, "train", ["a", "b", "c"], labels, vars(statistics(3, 2)))
    assert path == tmp_path / "labels" / "train.parquet"
    table = pq.read_table(path)
    assert table.schema.equals(LABEL_SCHEMA)
    assert table["id"].to_pylist() == ["a", "a", "b", "b", "c", "c"]
    assert table["head"].to_pylist() == [0, 1] * 3
    assert table["cluster"].to_pylist() == [3, 1, 0, 2, 1, 1]
    assert table["confidence"].to_pylist() == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04, 0.05])
    assert table["margin"].to_pylist() == pytest.approx([1.0, 1.01, 1.02, 1.03, 1.04, 1.05])
    assert table["entropy"][0].as_py() == pytest.approx(2.0)
    assert table["modality_agreement"].to_pylist()[:3] == [None, None, None]
    assert table["modality_agreement"].to_pylist()[3:] == pytest.approx([0.03, 0.04, 0.05])


def test_a_run_folder_says_where_it_came_from(tiny: Tiny, tiny_yaml: Path) -> None:
    config = tiny("seed=3")
    start_run(config, tiny_yaml, MANIFEST)
    folder = Path(config.run_dir)
    assert (folder / "config.yaml").read_text() == tiny_yaml.read_text()
    assert load_config(folder / "config.resolved.yaml") == config
    assert pq.read_table(folder / "manifest.parquet").schema.metadata[b"root"] == b"/media"
    env = json.loads((folder / "env.json").read_text())
    assert env["versions"]["torch"] == torch.__version__ or env["versions"]["torch"] in torch.__version__
    assert {"command", "python", "platform", "cores", "git_commit", "device"} <= set(env)


def test_one_process_trains_in_a_folder(tiny: Tiny) -> None:
    config = tiny()
    lock = start_run(config, None, MANIFEST)
    with pytest.raises(UsageError, match="another process is training in"):
        start_run(config, None, MANIFEST)
    lock.close()
    start_run(config, None, MANIFEST).close()


def test_a_resumed_run_keeps_what_was_logged(tiny: Tiny) -> None:
    config = tiny()
    folder = Path(config.run_dir)
    for text in ("first", "second", "third"):
        start_run(config, None, MANIFEST)
        (folder / "metrics.csv").write_text(text)
    assert (folder / "metrics.1.csv").read_text() == "first"
    assert (folder / "metrics.2.csv").read_text() == "second"
    assert (folder / "metrics.csv").read_text() == "third"


VERDICT = Verdict("not settled", ("They are not.", "Train longer."))


def test_the_status_says_what_training_came_to(tiny: Tiny) -> None:
    config = tiny()
    assert read_verdict(Path(config.run_dir)) == ""
    finish_run(config, 61.26, VERDICT)
    status = json.loads((Path(config.run_dir) / "status.json").read_text())
    assert (status["state"], status["epochs"], status["seconds"]) == ("finished", 2, 61.3)
    assert status["labels"] == "not settled" and read_verdict(Path(config.run_dir)) == "They are not. Train longer."
    (Path(config.run_dir) / "status.json").write_text('{"state": "finished"}')  # of an earlier version
    assert read_verdict(Path(config.run_dir)) == ""
    (Path(config.run_dir) / "status.json").write_text("{")
    with pytest.raises(UsageError, match=r"status\.json.*damaged"):
        read_verdict(Path(config.run_dir))


def test_the_environment_is_known_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] is None


# ---- reading it back ----


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
